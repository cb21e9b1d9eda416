package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// allStreams are the names of all streams.
var allStreams = []string{broker.EventsStream, broker.DeliveriesStream, broker.ManifestStream, broker.DeadLettersStream, broker.AuditStream,
	"KV_" + broker.LedgerBucket, "KV_" + broker.RelaysBucket, "KV_" + broker.DeskBucketName}

// Servers and accounts with rules: without the setting the error names it, with it mails
// are delivered.
//
// Fault: servers and accounts with rules: required size limits, a shorter duplicate window,
// fewer pending messages, JetStream switched off. Result: the error says which; with the
// setting all works.
func TestServersWithRules(t *testing.T) {
	t.Parallel()
	account := func(limits string) string {
		return "accounts { lab { users: [{user: lab, password: lab}], jetstream: {" + limits + "} } }\nno_auth_user: lab"
	}
	sizes := map[string]int64{}
	for _, name := range allStreams {
		sizes[name] = 10 << 20
	}
	for name, test := range map[string]struct {
		config string
		server func(*server.Options)
		refuse string // what the error says without the setting
		change func(*broker.Config)
	}{
		"max_bytes":        {account("max_bytes_required: true, max_file: 500M"), nil, "set nats.max_bytes.events", func(c *broker.Config) { c.MaxBytes = sizes }},
		"duplicate_window": {"", func(o *server.Options) { o.JetStreamLimits.Duplicates = 30 * time.Second }, "set a lower nats.duplicate_window", func(c *broker.Config) { c.DuplicateWindow = 30 * time.Second }},
		"max_ack_pending":  {"", func(o *server.Options) { o.JetStreamLimits.MaxAckPending = 50 }, "set a lower nats.max_ack_pending", func(c *broker.Config) { c.MaxAckPending = 50 }},
		"streams":          {account("max_streams: 7"), nil, "raise the account's max_streams", nil},
		"replicas":         {"", nil, "set nats.replicas: 1", func(c *broker.Config) { c.Replicas = 1 }},
		"switched off":     {"", func(o *server.Options) { o.JetStream = false }, "JetStream is switched off", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := lab.FreeAddress(t)
			opts := lab.NATSOptions(t, addr, t.TempDir(), test.config)
			if test.server != nil {
				test.server(opts)
			}
			lab.RunNATS(t, opts)
			cfg := broker.Config{URL: "nats://" + addr}
			if name == "replicas" {
				cfg.Replicas = 3
			}
			plain, err := broker.Open(cfg, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for plain.Disconnected() != nil && ctx.Err() == nil {
				backoff.Sleep(ctx, time.Millisecond)
			}
			err = plain.EnsureTopology(ctx)
			plain.Close()
			if err == nil || !strings.Contains(err.Error(), test.refuse) {
				t.Fatalf("without the setting: %v", err)
			}
			if test.change == nil {
				return
			}
			test.change(&cfg)
			b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: cfg}
			b.start()
			for i := range 5 {
				b.publish(event(fmt.Sprintf("e%d", i), "ops"))
			}
			b.settled()
			for i := range 5 {
				if n := len(b.fake.mails(fmt.Sprintf("e%d", i))); n != 1 {
					t.Errorf("%d mails of e%d", n, i)
				}
			}
		})
	}
}

// A leaf node: JetStream is in another domain, and the user may subscribe to one prefix of
// replies only. Events, ledger, dead letters and reads go through the domain.
//
// Fault: JetStream in another domain. Result: with the setting all works.
func TestJetStreamInAnotherDomain(t *testing.T) {
	t.Parallel()
	hub, leafs, leaf := lab.FreeAddress(t), lab.FreeAddress(t), lab.FreeAddress(t)
	opts := lab.NATSOptions(t, hub, t.TempDir(), fmt.Sprintf("leafnodes { listen: %q }", leafs))
	opts.JetStreamDomain = "hub"
	lab.RunNATS(t, opts)
	opts = lab.NATSOptions(t, leaf, t.TempDir(), fmt.Sprintf(`leafnodes { remotes: [{url: "nats-leaf://%s"}] }
authorization { users: [{user: app, password: app, permissions: {publish: ">", subscribe: ["_mine.>", "certpost.>", "$SRV.>"]}}] }`, leafs))
	opts.JetStreamDomain = "edge"
	lab.RunNATS(t, opts)
	b := &fixture{t: t, fake: newFakeCourier("ops", "refused"), set: quick(), cfg: broker.Config{URL: "nats://" + leaf, Domain: "hub", InboxPrefix: "_mine",
		User: "app", Password: func() ([]byte, error) { return []byte("app"), nil }}}
	b.fake.plan("refused", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	b.start()
	for i := range 20 {
		b.publish(event(fmt.Sprintf("e%d", i), "ops", "refused"))
	}
	b.settled()
	for i := range 20 {
		id := fmt.Sprintf("e%d", i)
		if n := len(b.fake.mails(id)); n != 1 || b.entry("ops", id).State != broker.StateSent {
			t.Errorf("%d mails of %s, %+v", n, id, b.entry("ops", id))
		}
	}
	if n := len(b.letters()); n != 20 {
		t.Errorf("%d letters", n)
	}
	if err := b.broker.Replay(t.Context(), b.letters()[0], tester, broker.Replay{}); err != nil {
		t.Error(err)
	}
	// Nothing was stored at the edge.
	edge, err := broker.Open(broker.Config{URL: b.cfg.URL, InboxPrefix: "_mine", User: "app", Password: b.cfg.Password}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer edge.Close()
	b.until("connected", func() bool { return (edge.Disconnected() == nil) })
	if _, err := edge.JetStream().Stream(t.Context(), broker.EventsStream); err == nil {
		t.Error("the stream is in the domain of the leaf node")
	}
}

// What an administrator has set on streams and consumers is kept if it is safe, also when
// something else has to be put back.
//
// Fault: an administrator sets limits on our streams and consumers. Result: kept if safe,
// otherwise put back.
func TestSafeSettingsAreKept(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.publish(event("e1", "ops"))
	b.settled()
	js, ctx := b.broker.JetStream(), t.Context()
	s, err := js.Stream(ctx, broker.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxBytes, cfg.Duplicates, cfg.MaxAge, cfg.Compression = 1<<30, 5*time.Minute, 60*24*time.Hour, jetstream.S2Compression
	cfg.Metadata["team"] = "pki"
	cfg.MaxMsgs = 5 // not safe
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(ctx, broker.DeliveriesStream, broker.LaneConsumerPrefix+"relay")
	if err != nil {
		t.Fatal(err)
	}
	lane := c.CachedInfo().Config
	lane.MaxAckPending, lane.AckWait, lane.MaxRequestBatch = 200, time.Minute, 3
	lane.MaxDeliver = 5 // not safe
	if _, err := js.UpdateConsumer(ctx, broker.DeliveriesStream, lane); err != nil {
		t.Fatal(err)
	}
	if err := b.broker.EnsureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.broker.EnsureConsumer(ctx, broker.DeliveriesStream, b.runner.laneConsumer("relay")); err != nil {
		t.Fatal(err)
	}
	if s, err = js.Stream(ctx, broker.EventsStream); err != nil {
		t.Fatal(err)
	}
	if now := s.CachedInfo().Config; now.MaxBytes != 1<<30 || now.Duplicates != 5*time.Minute || now.MaxAge != 60*24*time.Hour || now.Compression != jetstream.S2Compression || now.Metadata["team"] != "pki" || now.MaxMsgs != -1 {
		t.Errorf("the stream: %+v", now)
	}
	if c, err = js.Consumer(ctx, broker.DeliveriesStream, broker.LaneConsumerPrefix+"relay"); err != nil {
		t.Fatal(err)
	}
	if now := c.CachedInfo().Config; now.MaxAckPending != 200 || now.AckWait != time.Minute || now.MaxRequestBatch != 3 || now.MaxDeliver != -1 {
		t.Errorf("the consumer: %+v", now)
	}
	b.publish(event("e2", "ops"))
	b.settled()
	if len(b.fake.mails("e2")) != 1 {
		t.Error("nothing is delivered")
	}
}
