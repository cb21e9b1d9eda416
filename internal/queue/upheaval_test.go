package queue

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// Another client changes streams and consumers while Certpost runs: every change is
// found and reverted, and deliveries continue.
//
// Fault: streams and consumers deleted, changed, paused. Result: noticed within seconds,
// repaired, logged.
// Fault: an administrator sets limits on our streams and consumers. Result: otherwise put
// back.
func TestStreamsAndConsumersTamperedWith(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), fastReconcile: true, cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.start()
	b.until("the lane is served", func() bool { return len(b.runner.LaneStatus()) == 1 })
	js := b.broker.JetStream()
	ctx := t.Context()
	change := func(name string, edit func(*jetstream.StreamConfig)) func() error {
		return func() error {
			s, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			cfg := s.CachedInfo().Config
			edit(&cfg)
			_, err = js.UpdateStream(ctx, cfg)
			return err
		}
	}
	changeConsumer := func(stream, name string, edit func(*jetstream.ConsumerConfig)) func() error {
		return func() error {
			c, err := js.Consumer(ctx, stream, name)
			if err != nil {
				return err
			}
			cfg := c.CachedInfo().Config
			edit(&cfg)
			_, err = js.UpdateConsumer(ctx, stream, cfg)
			return err
		}
	}
	pause := func(stream, name string) func() error {
		return func() error {
			_, err := js.PauseConsumer(ctx, stream, name, time.Now().Add(time.Hour))
			return err
		}
	}
	type fault struct {
		name string
		do   func() error
	}
	all := []fault{
		{"lane paused", pause(broker.DeliveriesStream, broker.LaneConsumerPrefix+"relay")},
		{"fan-out paused", pause(broker.EventsStream, broker.FanoutConsumer)},
		{"lane gives up", changeConsumer(broker.DeliveriesStream, broker.LaneConsumerPrefix+"relay", func(c *jetstream.ConsumerConfig) {
			c.MaxDeliver, c.AckWait, c.BackOff = 3, 0, []time.Duration{time.Second, time.Minute}
		})},
		{"lane takes one", changeConsumer(broker.DeliveriesStream, broker.LaneConsumerPrefix+"relay", func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 1 })},
		{"fan-out changed", changeConsumer(broker.EventsStream, broker.FanoutConsumer, func(c *jetstream.ConsumerConfig) { c.AckWait = time.Hour })},
		{"events evicted", change(broker.EventsStream, func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = 1, jetstream.DiscardOld })},
		{"deliveries evicted", change(broker.DeliveriesStream, func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = 1, jetstream.DiscardOld })},
		{"other subjects", change(broker.DeliveriesStream, func(c *jetstream.StreamConfig) { c.Subjects = []string{"elsewhere.>"} })},
		{"batches forbidden", change("KV_"+broker.LedgerBucket, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false })},
	}
	before := map[string]jetstream.StreamConfig{}
	for _, name := range []string{broker.EventsStream, broker.DeliveriesStream, broker.DeadLettersStream, broker.AuditStream, broker.ManifestStream, "KV_" + broker.LedgerBucket, "KV_" + broker.RelaysBucket} {
		s, err := js.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		before[name] = s.CachedInfo().Config
		all = append(all, fault{name + " deleted", func() error { return js.DeleteStream(ctx, name) }})
	}
	for i, u := range all {
		if err := u.do(); err != nil {
			t.Fatalf("%s: %v", u.name, err)
		}
		id := fmt.Sprintf("e%d", i)
		b.until("the event is taken after: "+u.name, func() bool {
			short, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			_, _, err := b.broker.Publish(short, event(id, "ops"))
			return err == nil
		})
		b.until("a mail after: "+u.name, func() bool { return len(b.fake.mails(id)) > 0 })
		b.settled() // what is not settled when the ledger is deleted may be sent again
		b.until("ready after: "+u.name, func() bool { return b.runner.Ready(ctx) == nil })
		b.until("the lane's consumer is as it should be after: "+u.name, func() bool {
			c, err := js.Consumer(ctx, broker.DeliveriesStream, broker.LaneConsumerPrefix+"relay")
			return err == nil && len(b.broker.ConsumerDifferences(c.CachedInfo().Config, b.runner.laneConsumer("relay"))) == 0
		})
	}
	b.settled()
	for i, u := range all {
		if n := len(b.fake.mails(fmt.Sprintf("e%d", i))); n != 1 {
			t.Errorf("%d mails after: %s", n, u.name)
		}
	}
	for name, want := range before {
		b.until("stream "+name+" is as it was", func() bool {
			s, err := js.Stream(ctx, name)
			return err == nil && reflect.DeepEqual(s.CachedInfo().Config, want)
		})
	}
	if l := b.letters(); len(l) != 0 {
		t.Errorf("letters: %+v", l)
	}
}

// While a letter cannot be stored, for any reason, its delivery stays in the lane; when it
// can be stored, it is stored once.
//
// Fault: dead letters cannot be stored: stream missing, changed, not permitted. Result: the
// delivery waits, and is not settled without its letter; who has the mail is recorded all
// the same.
func TestLettersThatCannotBeStored(t *testing.T) {
	t.Parallel()
	refused := func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	}
	onlyLetter := func(t *testing.T, b *fixture) {
		t.Helper()
		b.settled()
		if l := b.letters(); len(l) != 1 || l[0].Event != "e1" {
			t.Errorf("letters: %+v", l)
		}
		if e := b.entry("ops", "e1"); e.State != broker.StateDead {
			t.Errorf("ledger: %+v", e)
		}
	}
	waits := func(t *testing.T, b *fixture) {
		t.Helper()
		b.until("the lane has NAKed it", func() bool { return b.fake.tried("ops") > 1 && b.runner.LaneStatus()[0].InFlight == 0 })
		backlog, err := b.broker.Backlog(t.Context())
		if backlog.Deliveries != 1 { // without the stream, counting the letters fails
			t.Errorf("backlog %+v, %v: the delivery was settled without its letter", backlog, err)
		}
		if e := b.entry("ops", "e1"); e.State == broker.StateDead {
			t.Errorf("the ledger says dead without a letter: %+v", e)
		}
	}
	t.Run("no stream", func(t *testing.T) {
		t.Parallel()
		b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), slowReconcile: true, cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
		b.fake.plan("ops", refused)
		b.start()
		b.until("the first reconcile is over", func() bool { return len(b.runner.LaneStatus()) == 1 })
		if err := b.broker.JetStream().DeleteStream(t.Context(), broker.DeadLettersStream); err != nil {
			t.Fatal(err)
		}
		b.publish(event("e1", "ops"))
		waits(t, b)
		if err := b.runner.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), broker.DeadLettersStream) {
			t.Errorf("ready without a stream for dead letters: %v", err)
		}
		b.runner.lanes.trigger <- struct{}{}
		onlyLetter(t, b)
	})
	t.Run("not allowed", func(t *testing.T) {
		t.Parallel()
		const accounts = "authorization { users: [{user: certpost, password: hunter2hunter2%s}] }\n"
		addr := lab.FreeAddress(t)
		store := t.TempDir()
		srv := lab.RunNATS(t, lab.NATSOptions(t, addr, store, fmt.Sprintf(accounts, `, permissions: {publish: {deny: ["certpost.dead.>"]}}`)))
		b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{URL: "nats://" + addr, User: "certpost",
			Password: func() ([]byte, error) { return []byte("hunter2hunter2"), nil }}}
		b.fake.plan("ops", refused)
		b.start()
		b.publish(event("e1", "ops"))
		waits(t, b)
		if err := srv.ReloadOptions(lab.NATSOptions(t, addr, store, fmt.Sprintf(accounts, ""))); err != nil {
			t.Fatal(err)
		}
		onlyLetter(t, b)
	})
}

// With one of three servers left, nothing can be stored or settled. Work continues when
// a second server is back: for the mails of one target, and the dead letters of another.
//
// Fault: no quorum. Result: not ready, nothing is settled; continues when there is a
// quorum.
func TestWithoutQuorum(t *testing.T) {
	t.Parallel()
	c := lab.NewNATSCluster(t)
	b := &fixture{t: t, fake: newFakeCourier("ops", "refused"), set: quick(), cfg: broker.Config{URL: strings.Join(c.URLs, ","), Replicas: 3, AckWait: 3 * time.Second}}
	b.fake.plan("refused", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	b.start()
	var ids []string
	publish := func(n int) {
		for range n {
			id := fmt.Sprintf("e%d", len(ids))
			ids = append(ids, id)
			b.publishPatiently(id, "ops", "refused")
		}
	}
	publish(50)
	for _, down := range []int{0, 1} {
		c.Stop(down)
	}
	b.until("not ready without a quorum", func() bool {
		short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return b.runner.Ready(short) != nil
	})
	c.Start(0)
	c.Start(1)
	b.until("ready again", func() bool { return b.runner.Ready(t.Context()) == nil })
	publish(50)
	b.settled()
	b.refusedAndDelivered(ids)
}

// refusedAndDelivered checks that each event has one mail for ops, more only if an outcome
// was unknown, and one dead letter and no mail for refused.
func (b *fixture) refusedAndDelivered(ids []string) {
	b.t.Helper()
	letters := map[string]int{}
	for _, l := range b.letters() {
		if letters[l.Event]++; l.Target != "refused" || l.Code != verdict.SMTPPermanent {
			b.t.Errorf("letter of %s for %s: %s", l.Event, l.Target, l.Code)
		}
	}
	for _, id := range ids {
		mails := b.fake.mails(id)
		unexpected := slices.ContainsFunc(mails, func(m mail) bool { return m.target != "ops" })
		if e := b.entry("ops", id); e.State != broker.StateSent || len(mails) < 1 || len(mails) > 1+e.PossibleDuplicates || unexpected {
			b.t.Errorf("event %s: mails %+v, ledger %+v", id, mails, e)
		}
		if e := b.entry("refused", id); e.State != broker.StateDead || letters[id] != 1 {
			b.t.Errorf("event %s: %d letters, ledger %+v", id, letters[id], e)
		}
	}
}

// A delivery that takes longer than the acknowledgement wait is not delivered again to
// any process meanwhile.
//
// Fault: a mail takes longer than the acknowledgement time. Result: progress reports extend
// the time; the message is not served to another worker.
func TestSlowDeliveryIsNotServedTwice(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("slow"), set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m", AckWait: 3 * time.Second}}
	release := make(chan struct{})
	b.fake.plan("slow", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		<-release
		return nil, nil
	})
	b.start()
	second := b.replica()
	defer second.stop()
	var reports atomic.Int64
	if _, err := b.broker.Conn().Subscribe("$JS.ACK."+broker.DeliveriesStream+".>", func(m *nats.Msg) {
		if string(m.Data) == "+WPI" {
			reports.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	b.publish(event("e1", "slow"))
	b.until("the first try", func() bool { return b.fake.tried("slow") == 1 })
	// Each third of the wait the message is reported to be in work. After the fourth report
	// its first wait is over.
	b.until("four reports", func() bool { return reports.Load() >= 4 })
	close(release)
	b.settled()
	if tried, mails := b.fake.tried("slow"), len(b.fake.mails("e1")); tried != 1 || mails != 1 {
		t.Errorf("tried %d times, %d mails", tried, mails)
	}
	if e := b.entry("slow", "e1"); e.State != broker.StateSent || e.Attempts != 1 {
		t.Errorf("ledger: %+v", e)
	}
}

// Every acknowledgement of the first delivery of a message is lost: it is delivered again,
// and acknowledged without sending.
//
// Fault: every acknowledgement of a message lost. Result: redelivered, and acknowledged
// again without a mail.
func TestLostAcknowledgement(t *testing.T) {
	t.Parallel()
	srv := lab.NATS(t, lab.FreeAddress(t), "")
	link := lab.NewNATSLink(t, srv.Addr().String())
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{URL: link.URL, AckWait: time.Second}}
	reached := make(chan string, 1000)
	b.set.Reached = func(point string) { reached <- point }
	b.open()
	b.run()
	link.Lose(func(m lab.NATSMessage) bool {
		first := strings.HasPrefix(m.Subject, "$JS.ACK."+broker.DeliveriesStream+"."+broker.LaneConsumerPrefix+"relay.1.")
		return m.ToServer && first && string(m.Data) == "+ACK"
	})
	b.publish(event("e1", "ops"))
	b.settled()
	if tried, mails := b.fake.tried("ops"), len(b.fake.mails("e1")); tried != 1 || mails != 1 {
		t.Errorf("tried %d times, %d mails", tried, mails)
	}
	b.close()
	close(reached)
	settled := 0
	for point := range reached {
		if point == pointSettled {
			settled++
		}
	}
	if settled < 2 {
		t.Errorf("settled %d times: the acknowledgement was not lost", settled)
	}
}

// A store that has reached its limit accepts nothing and loses nothing.
//
// Fault: the store is at its size limit. Result: publishers are refused, nothing is
// dropped, not ready.
func TestStoreIsFull(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m", MaxStore: 2 << 20}}
	hold := make(chan struct{})
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		<-hold
		return nil, nil
	})
	b.open()
	b.run()
	defer func() { b.close() }()
	ctx := t.Context()
	var ids []string
	for {
		id := fmt.Sprintf("e%d", len(ids))
		if _, _, err := b.broker.Publish(ctx, event(id, "ops")); err != nil {
			if !strings.Contains(err.Error(), "insufficient resources") {
				t.Fatalf("after %d events: %v", len(ids), err)
			}
			break
		}
		ids = append(ids, id)
	}
	b.until("not ready", func() bool {
		err := b.runner.Ready(ctx)
		return err != nil && strings.Contains(err.Error(), "cannot store messages")
	})
	close(hold)
	b.close()
	b.cfg.MaxStore = 0 // the default, which is large enough
	b.open()
	b.run()
	b.settled()
	b.invariant(ids, "ops")
	if len(ids) < 100 {
		t.Errorf("%d events filled the store", len(ids))
	}
}

// Clocks that were wrong for a while leave times in the future. Nothing waits until then,
// and no delay is negative.
//
// Fault: clocks that jump. Result: no negative pause; a lease lasts as long as its owner
// meant.
func TestClocksThatJumped(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	ahead := time.Now().Add(365 * 24 * time.Hour)
	for id, left := range map[string]broker.Entry{
		"leased":  {State: broker.StateSending, Attempts: 1, Owner: "elsewhere/4711/X", Lease: ahead, First: ahead, Last: ahead},
		"ahead":   {State: broker.StateSending, Attempts: 1, Owner: "elsewhere/4711/X", Claimed: ahead, Lease: ahead.Add(time.Second), First: ahead, Last: ahead},
		"earlier": {State: broker.StateSending, Attempts: 1, Owner: "elsewhere/4711/X", Lease: ahead.Add(time.Second), First: ahead, Last: ahead}, // by a version without Claimed
		"waiting": {State: broker.StateWaiting, Attempts: 3, First: ahead, Last: ahead},
		"past":    {State: broker.StateSending, Attempts: 1, Owner: "elsewhere/4711/X", Lease: time.Unix(0, 0), First: time.Unix(0, 0)},
		"endless": {State: broker.StateSending, Attempts: 1, Owner: "elsewhere/4711/X", Claimed: time.Unix(0, 0), Lease: ahead, Last: time.Unix(0, 0)},
	} {
		ev := event(id, "ops")
		left.Event, left.Target, left.Digest = id, "ops", ev.Digest()
		if _, err := b.runner.ledger.Put(t.Context(), broker.LedgerKey("ops", id), left, 0); err != nil {
			t.Fatal(err)
		}
		b.publish(ev)
	}
	b.settled()
	for _, id := range []string{"leased", "ahead", "earlier", "waiting", "past", "endless"} {
		mails := b.fake.mails(id)
		if len(mails) != 1 || mails[0].duplicate != (id != "waiting") {
			t.Errorf("%s: %+v", id, mails)
		}
	}
}
