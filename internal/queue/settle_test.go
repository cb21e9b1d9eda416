package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// An event that became no delivery is acknowledged only when its dead letter is stored.
//
// Fault: the dead letter of an event cannot be stored. Result: the event is retried, and is
// not acknowledged without its letter.
func TestEventWaitsForItsDeadLetter(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), slowReconcile: true, cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.start()
	b.until("the first reconcile is over", func() bool { return len(b.runner.LaneStatus()) == 1 })
	ctx := t.Context()
	s, err := b.broker.JetStream().Stream(ctx, broker.DeadLettersStream)
	if err != nil {
		t.Fatal(err)
	}
	refusing := s.CachedInfo().Config
	refusing.MaxMsgSize = 1
	if _, err := b.broker.JetStream().UpdateStream(ctx, refusing); err != nil {
		t.Fatal(err)
	}
	if _, err := b.broker.JetStream().Publish(ctx, broker.EventSubject, []byte("no event")); err != nil {
		t.Fatal(err)
	}
	b.until("the event is delivered again", func() bool {
		c, err := b.broker.JetStream().Consumer(ctx, broker.EventsStream, broker.FanoutConsumer)
		return err == nil && c.CachedInfo().Delivered.Consumer >= 2
	})
	b.runner.lanes.trigger <- struct{}{} // restores the stream's settings
	b.until("the letter", func() bool { return len(b.letters()) == 1 })
	b.settled()
}

// interrupting is a courier that claims the delivery and is then interrupted by the
// shutdown, with this certainty about the mail.
type interrupting struct {
	*fakeCourier
	certainty verdict.Certainty
	claimed   chan struct{} // closed after the claim
}

func (c *interrupting) Deliver(ctx context.Context, _ *events.Event, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	if err := a.Claim(time.Now().Add(time.Minute)); err != nil {
		return nil, claimLost(err)
	}
	close(c.claimed)
	<-ctx.Done()
	f := fail(verdict.SMTPTransient, verdict.PhaseContent)
	f.Certainty = c.certainty
	return nil, f
}

// A shutdown that interrupts a claimed delivery takes the claim back and counts no
// attempt. If the relay may have the mail, the next process knows.
func TestShutdownAfterTheClaim(t *testing.T) {
	t.Parallel()
	for _, certainty := range []verdict.Certainty{verdict.NotSent, verdict.MaybeSent} {
		t.Run(string(certainty), func(t *testing.T) {
			t.Parallel()
			fake := newFakeCourier("ops")
			interrupted := &interrupting{fake, certainty, make(chan struct{})}
			b := &fixture{t: t, fake: fake, courier: interrupted, set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
			b.set.Grace = time.Millisecond
			b.start()
			b.publish(event("e1", "ops"))
			<-interrupted.claimed
			b.stop()
			uncertain := certainty == verdict.MaybeSent
			if e := b.entry("ops", "e1"); e.State != broker.StateWaiting || e.Attempts != 0 || e.Uncertain != uncertain || e.Owner != "" || !e.Lease.IsZero() {
				t.Errorf("ledger after the shutdown: %+v", e)
			}
			b.courier = fake
			b.run()
			b.settled()
			if got := fake.mails("e1"); len(got) != 1 || got[0].duplicate != uncertain {
				t.Errorf("mails: %+v, want one, marked: %v", got, uncertain)
			}
			if e := b.entry("ops", "e1"); e.State != broker.StateSent || e.Attempts != 1 {
				t.Errorf("ledger: %+v", e)
			}
		})
	}
}

// An operator's consent to a possible duplicate covers the outcome that was unknown then.
// When the process dies in the replay, the outcome is unknown once more, and the operator
// is asked again.
func TestConsentEndsWithTheNextUnknownOutcome(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), func(s *Settings) { s.DeadLetterUnknown = true })
	ev := event("e1", "ops")
	left := broker.Entry{Event: "e1", Target: "ops", Digest: ev.Digest(), State: broker.StateSending, Generation: 2, Attempts: 1,
		Uncertain: true, Consented: true, Owner: "elsewhere/4711/X", Lease: time.Now().Add(-time.Second)}
	if _, err := b.runner.ledger.Put(t.Context(), "ops.e1", left, 0); err != nil {
		t.Fatal(err)
	}
	b.publish(ev)
	b.settled()
	if l := b.letters(); len(l) != 1 || l[0].Code != verdict.DeliveryUncertain {
		t.Errorf("letters: %+v", l)
	}
	if got := b.fake.mails("e1"); len(got) != 0 {
		t.Errorf("mails: %+v, want none without another consent", got)
	}
}

// The letter of an unknown outcome says what happened at the relay.
func TestUnknownOutcomeKeepsTheRelaysReason(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), func(s *Settings) { s.DeadLetterUnknown = true })
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		f := fail(verdict.SMTPTransient, verdict.PhaseContent)
		f.Certainty, f.Reason = verdict.MaybeSent, "the connection ended before the reply to the final dot"
		return lostReply, f
	})
	b.publish(event("e1", "ops"))
	b.settled()
	if l := b.letters(); len(l) != 1 || !strings.HasPrefix(l[0].Reason, "the connection ended before the reply to the final dot: ") || !strings.Contains(l[0].Reason, "Message-ID") {
		t.Errorf("letters: %+v", l)
	}
}

// A dead letter whose delivery another process has changed meanwhile is not settled: the
// ledger would not have it.
func TestDeadLetterIsInTheLedgerBeforeTheAcknowledgement(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	ev := event("e1", "ops")
	b.fake.plan("ops", func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try == 1 {
			if _, err := b.runner.ledger.Put(context.Background(), "ops.e1", broker.Entry{Event: "e1", Target: "ops", Digest: ev.Digest(), State: broker.StateWaiting, First: time.Now()}, 0); err != nil {
				t.Error(err)
			}
		}
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	b.publish(ev)
	b.settled()
	l := b.letters()
	if e := b.entry("ops", "e1"); len(l) != 1 || e.State != broker.StateDead || e.DeadLetter != l[0].Subject || b.fake.tried("ops") != 2 {
		t.Errorf("ledger: %+v, letters: %+v, %d tries", e, l, b.fake.tried("ops"))
	}
}

// An event published again after its delivery died begins a generation of its own: its
// letter and the message id of its replay are not those of the first.
func TestDeadEventAgainIsANewGeneration(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	for generation := 1; generation <= 3; generation++ {
		b.publish(event("e1", "ops"))
		b.settled()
		if e := b.entry("ops", "e1"); e.State != broker.StateDead || e.Generation != generation || e.Attempts != 1 || b.fake.tried("ops") != 2*generation-1 { // of each later one the first attempt finds that it is not new
			t.Fatalf("ledger after publication %d: %+v, %d tries", generation, e, b.fake.tried("ops"))
		}
	}
}

// A forced replay goes to all recipients, also those that have the mail.
func TestForcedReplayGoesToAll(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.publish(event("e1", "ops"))
	b.settled()
	if e := b.entry("ops", "e1"); !slices.Equal(e.Accepted, []string{"a@example.com"}) {
		t.Fatalf("ledger: %+v", e)
	}
	m := nats.NewMsg(broker.DeliveryPrefix + "relay.ops")
	m.Data = event("e1").Encode()
	m.Header.Set(broker.HeaderForce, "true")
	if _, err := b.broker.JetStream().PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if got := b.fake.mails("e1"); len(got) != 2 || len(got[1].kept) != 0 || got[1].duplicate {
		t.Errorf("mails: %+v, want a second one to all recipients, not marked", got)
	}
}

// The lease is longer than a send can take, by the time that recording its outcome needs.
func TestLeaseOutlivesTheSend(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	until := time.Now().Add(time.Minute).UTC()
	var lease time.Time
	b.fake.plan("ops", func(_ int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if err := a.Claim(until); err != nil {
			return nil, claimLost(err)
		}
		e, _, err := b.runner.ledger.Get(context.Background(), "ops.e1")
		if err != nil {
			t.Error(err)
		}
		lease = e.Lease
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseContent)
	})
	b.publish(event("e1", "ops"))
	b.settled()
	if got := lease.Sub(until); got != leaseMargin {
		t.Errorf("the lease ends %v after the send, want %v", got, leaseMargin)
	}
}

// Only a settled message of this very delivery counts as settled: not an earlier one of it,
// whose replay the message may be, and not one with another certificate.
func TestSettledIsAboutThisMessage(t *testing.T) {
	t.Parallel()
	r, _ := strandedRunner(t)
	ev, other := event("e1", "ops"), event("e1", "ops")
	other.Certificate.PEM = lab.SelfSigned("other.example.com")
	revision := uint64(0)
	for _, test := range []struct {
		state    broker.State
		sequence uint64 // in the ledger
		event    *events.Event
		want     bool
	}{
		{broker.StateSent, 7, ev, true},
		{broker.StateSent, 8, ev, true},
		{broker.StateSent, 6, ev, false}, // the message was published after that
		{broker.StateDead, 7, ev, true},
		{broker.StateDiscarded, 7, ev, true},
		{broker.StateDead, 6, ev, false},
		{broker.StateWaiting, 7, ev, false},
		{broker.StateSending, 7, ev, false},
		{broker.StateSent, 7, other, false},
		{broker.StateSent, 8, other, false},
	} {
		var err error
		entry := broker.Entry{Event: "e1", Target: "ops", Digest: ev.Digest(), State: test.state, Sequence: test.sequence}
		if revision, err = r.ledger.Put(t.Context(), "ops.e1", entry, revision); err != nil {
			t.Fatal(err)
		}
		msg := &jetstream.RawStreamMsg{Subject: broker.DeliveryPrefix + "relay.ops", Sequence: 7, Data: test.event.Encode()}
		if got, err := r.settled(t.Context(), msg); err != nil || got != test.want {
			t.Errorf("message 7, ledger %s at %d, same certificate: %v: settled %v, %v", test.state, test.sequence, test.event == ev, got, err)
		}
	}
}

// strandedRunner is a runner that does not run, on streams that are there.
func strandedRunner(t *testing.T) (*Runner, jetstream.Stream) {
	t.Helper()
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.open()
	t.Cleanup(b.broker.Close)
	if err := b.broker.EnsureTopology(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := NewRunner(b.broker, b.fake, b.set, newTestMetrics())
	var err error
	if r.ledger, err = b.broker.OpenLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	stream, err := b.broker.JetStream().Stream(t.Context(), broker.DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	return r, stream
}

// A message is stranded only below the floors of two looks, some time apart: at one look it
// may just be on its way out, and a consumer that was made again since serves it anew.
func TestStrandedTakesTwoLooks(t *testing.T) {
	t.Parallel()
	r, stream := strandedRunner(t)
	for i := range 2 {
		if _, err := r.JetStream().Publish(t.Context(), broker.DeliveryPrefix+"relay.ops", event(fmt.Sprintf("e%d", i), "ops").Encode()); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	look := func(after time.Duration, floor uint64) (republished uint64) {
		t.Helper()
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(broker.DeliveryPrefix+">"))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.lanes.settleStranded(t.Context(), stream, info.State, floors{begin.Add(after), map[string]uint64{"relay": floor}}); err != nil {
			t.Fatal(err)
		}
		if info, err = stream.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
		return info.State.LastSeq - 2
	}
	const apart = strandedEvery
	for i, step := range []struct {
		after time.Duration
		floor uint64
		want  uint64
	}{
		{0, 2, 0},            // the first look
		{apart / 2, 2, 0},    // too soon
		{apart, 0, 0},        // the consumer was made again
		{2 * apart, 2, 0},    // the first look at this one
		{3*apart - 1, 2, 0},  // too soon
		{3 * apart, 1, 1},    // the first message was below both floors
		{4 * apart, 2, 1},    // the second was not
		{5*apart + 1, 2, 2},  // but is now
		{6*apart + 1, 2, 2},  // the copies are above
		{7*apart + 1, 99, 2}, // the first look at the copies
	} {
		if got := look(step.after, step.floor); got != step.want {
			t.Errorf("look %d: %d copies, want %d", i, got, step.want)
		}
	}
}
