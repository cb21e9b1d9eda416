package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// Work that fails for a minute is a standstill until it succeeds; what fails for less, or
// is no longer tried, is none.
//
// Fault: events or deliveries do not move for a minute, with an error. Result: noticed;
// over when the work succeeds.
func TestStandstillsBeginAndEnd(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := newStandstills()
	s.now = func() time.Time { return now }
	why := errors.New("no consumer")
	s.report(partConsumer, "a", why)
	s.report(partFetch, "b", why)
	now = now.Add(59 * time.Second)
	s.report(partConsumer, "a", why)
	s.report(partFetch, "b", nil)
	if all := s.current(); all != nil {
		t.Fatalf("a standstill after 59 s: %+v", all)
	}
	now = now.Add(time.Second)
	want := broker.Standstill{Part: partConsumer, Name: "a", Since: now.Add(-time.Minute), Reason: "no consumer"}
	if all := s.current(); len(all) != 1 || all[0] != want {
		t.Fatalf("after a minute: %+v", all)
	}
	if began, ended := s.unlogged(); len(began) != 1 || ended != nil {
		t.Fatalf("to log: %v, %v", began, ended)
	}
	if began, ended := s.unlogged(); began != nil || ended != nil {
		t.Fatalf("to log once more: %v, %v", began, ended)
	}
	s.report(partConsumer, "a", nil)
	if all := s.current(); all != nil {
		t.Fatalf("after a success: %+v", all)
	}
	if began, ended := s.unlogged(); began != nil || len(ended) != 1 || ended[0] != "consumer a" {
		t.Fatalf("to log at the end: %v, %v", began, ended)
	}
	s.report(partLedger, "gone.e1", why)
	now = now.Add(time.Minute)
	s.report(partLedger, "gone.e1", why)
	if len(s.current()) != 1 {
		t.Fatal("an entry that cannot be read is no standstill")
	}
	now = now.Add(forgottenAfter)
	if all := s.current(); all != nil {
		t.Fatalf("nobody tries it any more: %+v", all)
	}
	for i := range 2 * placesAtOnce {
		s.report(partLedger, fmt.Sprint(i), why)
	}
	if len(s.open) > placesAtOnce {
		t.Fatalf("%d places are kept", len(s.open))
	}
}

// The server hands out nothing although messages wait: that is noticed without any error,
// but not while all of them wait for a retry, or this process asks for none.
//
// Fault: or without one. Result: noticed.
func TestNothingHandedOutIsNoticed(t *testing.T) {
	t.Parallel()
	state := func(delivered, pending uint64, unacknowledged int) *jetstream.ConsumerInfo {
		return &jetstream.ConsumerInfo{Config: jetstream.ConsumerConfig{MaxAckPending: 10}, Delivered: jetstream.SequenceInfo{Consumer: delivered}, NumPending: pending, NumAckPending: unacknowledged}
	}
	var p handout
	for i, look := range []struct {
		info   *jetstream.ConsumerInfo
		asking bool
		stands bool
	}{
		{state(0, 5, 0), true, false}, // the first look
		{state(0, 5, 0), true, true},
		{state(0, 5, 0), false, false}, // paused
		{state(0, 5, 10), true, false}, // at its limit
		{state(1, 4, 1), true, false},
		{state(1, 4, 1), true, true},
		{state(1, 0, 1), true, false},
	} {
		if err := p.check(look.info, look.asking); (err != nil) != look.stands {
			t.Errorf("look %d: %v", i, err)
		}
	}
}

// expectStandstill waits for trouble in a place, lets a minute pass, and returns the
// reason that Moving gives.
func (b *fixture) expectStandstill(part, name string) string {
	b.t.Helper()
	s := b.runner.standstills
	b.until("trouble of "+part+" "+name, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		known := s.open[place{part, name}]
		return known != nil && known.reason != ""
	})
	s.mu.Lock()
	if known := s.open[place{part, name}]; known != nil {
		known.since = known.since.Add(-standstillAfter)
	}
	s.mu.Unlock()
	var err error
	b.until("unhealthy", func() bool { err = b.runner.Moving(); return err != nil })
	return err.Error()
}

// A server that answers no request for more than 8 messages, with workers for 16.
//
// Fault: a server that limits the size of requests (max_request_batch). Result: fewer
// messages are requested at a time.
func TestServerLimitsRequests(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	opts := lab.NATSOptions(t, addr, t.TempDir(), "")
	opts.JetStreamLimits.MaxRequestBatch = 8
	lab.RunNATS(t, opts)
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{URL: "nats://" + addr}}
	b.set.Concurrency = 16
	b.start()
	for i := range 40 {
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	b.settled()
	for i := range 40 {
		if n := len(b.fake.mails(fmt.Sprintf("e%d", i))); n != 1 {
			t.Errorf("e%d: %d mails", i, n)
		}
	}
}

// An account with room for three consumers, and 60 deliveries in invented lanes:
// every lane of a target is served that can be, invented lanes get no consumer, and the
// lane without one makes the process unhealthy, with the server's reason.
//
// Fault: messages on lanes that no target has. Result: moved to the lane of their target,
// or dead (TARGET_UNKNOWN); such a lane gets no consumer.
// Fault: a lane cannot get its consumer: the account's limit is reached. Result: the other
// lanes are served; unhealthy after a minute, with the server's reason.
func TestLanesWithoutConsumers(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	lab.NATS(t, addr, `accounts { lab { users: [{user: lab, password: lab}], jetstream: {max_consumers: 3} } }
no_auth_user: lab`)
	b := &fixture{t: t, fake: newFakeCourier("ops@one", "moved@two"), set: quick(), fastReconcile: true, cfg: broker.Config{URL: "nats://" + addr}}
	b.fake.plan("x", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.TargetUnknown, Phase: verdict.PhaseResolve, Reason: "not defined"}}
	})
	b.open()
	if err := b.broker.EnsureTopology(t.Context()); err != nil {
		t.Fatal(err)
	}
	const invented = 60
	var msgs []*nats.Msg
	for i := range invented {
		m := nats.NewMsg(broker.DeliverySubject(fmt.Sprintf("lane-%d", i), "x"))
		m.Data = event(fmt.Sprintf("i%d", i)).Encode()
		msgs = append(msgs, m)
	}
	stray := nats.NewMsg(broker.DeliverySubject("elsewhere", "moved"))
	stray.Data = event("stray").Encode()
	if _, err := b.broker.PublishAll(t.Context(), append(msgs, stray), func(context.Context, *nats.Msg, uint64) (uint64, error) { return 0, nil }); err != nil {
		t.Fatal(err)
	}
	b.run()
	t.Cleanup(b.close)
	b.until("a letter for each invented lane", func() bool { return len(b.letters()) == invented })
	b.until("the stray in the lane of its target", func() bool { return len(b.fake.mails("stray")) == 1 })
	b.settled()
	for _, l := range b.letters() { // of one cause, not of as many as there are lanes
		if l.Code != verdict.TargetUnknown || l.Lane != broker.NoToken || !strings.HasPrefix(l.ReplaySubject, broker.DeliveryPrefix+"lane-") {
			t.Fatalf("letter: %+v", l)
		}
	}
	stream, err := b.broker.JetStream().Stream(t.Context(), broker.DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Consumers; n != 2 {
		t.Errorf("%d consumers", n)
	}
	series := make(chan prometheus.Metric, 2*invented)
	b.runner.metrics.settled.Collect(series)
	if n := len(series); n > 3 {
		t.Errorf("%d series, of invented lanes as well", n)
	}
	// A third lane gets the last consumer or none, and a fourth none.
	b.fake.mu.Lock()
	b.fake.targets["third"], b.fake.targets["fourth"] = "third", "fourth"
	b.fake.mu.Unlock()
	why := b.expectStandstill(partConsumer, "third")
	if !strings.Contains(why, "consumer third") || !strings.Contains(why, "maximum consumers limit") {
		t.Errorf("the reason: %s", why)
	}
	b.publish(event("e1", "ops"))
	b.until("a mail of another lane", func() bool { return len(b.fake.mails("e1")) == 1 })
	b.until("the standstill in the heartbeat", func() bool {
		b.runner.replicas.heartbeatNow()
		all, err := b.broker.Standstills(t.Context())
		return err == nil && len(all) > 0 && all[0].Part == partConsumer && all[0].Process == b.runner.owner
	})
}

// A ledger entry that cannot be read keeps its delivery for ever, and others from nothing.
//
// Fault: events or deliveries do not move for a minute, with an error. Result: unhealthy,
// with the reason.
func TestUnreadableEntryIsAStandstill(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	kv, err := b.broker.JetStream().KeyValue(t.Context(), broker.LedgerBucket)
	if err != nil {
		t.Fatal(err)
	}
	key := broker.LedgerKey("ops", "e1")
	if _, err := kv.Put(t.Context(), key, []byte("{")); err != nil {
		t.Fatal(err)
	}
	b.publish(event("e1", "ops"))
	b.publish(event("e2", "ops"))
	b.until("the other mail", func() bool { return len(b.fake.mails("e2")) == 1 })
	if why := b.expectStandstill(partLedger, key); !strings.Contains(why, "nats kv get") {
		t.Errorf("the reason: %s", why)
	}
}
