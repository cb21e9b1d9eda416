package queue

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// An operator retries a delivery whose attempt is just ending: the copy finds that the original
// became a dead letter, and is no replay of it.
func TestCopyOfWhatBecameADeadLetter(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	ev := event("ev-1", "ops")
	b.publish(ev)
	b.until("it is dead", func() bool { return len(b.letters()) == 1 })
	b.settled()
	before := b.entry("ops", "ev-1")
	original := &jetstream.RawStreamMsg{Subject: broker.DeliverySubject("relay", "ops"), Sequence: before.Sequence, Data: ev.Encode(), Time: before.First,
		Header: nats.Header{nats.MsgIdHdr: {"ev-1/ops/1"}, broker.HeaderGeneration: {"1"}}}
	if err := b.broker.PublishCopy(t.Context(), original, "relay", "ops"); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if after, l := b.entry("ops", "ev-1"), b.letters(); len(l) != 1 || l[0].Generation != 1 || after.AllAttempts() != 1 || after.Generation != before.Generation || after.State != broker.StateDead {
		t.Errorf("%d letters, entry %+v", len(l), after)
	}
}

// A forced replay has a copy, because it was retried now, and the process was killed before it removed
// the original. The copy is sent; the original, when its wait is over, is not sent once more.
//
// Fault: the process is killed between copy and removal of a forced replay that is retried now. Result: one mail for the replay.
func TestOriginalOfAForcedReplayComesBack(t *testing.T) {
	t.Parallel()
	b, busy := waitingFixture(t, nil)
	one := b.waits("e1")
	busy.Store(false)
	if err := b.broker.RetryNow(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	b.settled()
	busy.Store(true)
	m := nats.NewMsg(broker.DeliverySubject("relay", "ops"))
	m.Data = event("e1", "ops").Encode()
	m.Header.Set(broker.HeaderForce, "true")
	m.Header.Set(broker.HeaderGeneration, "2")
	m.Header.Set(nats.MsgIdHdr, "e1/ops/2")
	ack, err := b.broker.JetStream().PublishMsg(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	b.until("the replay waits", func() bool {
		e := b.entry("ops", "e1")
		return e.State == broker.StateWaiting && e.Generation == 2 && !e.NextTry.IsZero()
	})
	stream, err := b.broker.JetStream().Stream(t.Context(), broker.DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	original, err := stream.GetMsg(t.Context(), ack.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	busy.Store(false)
	if err := b.broker.PublishCopy(t.Context(), original, "relay", "ops"); err != nil { // and no more
		t.Fatal(err)
	}
	b.until("the copy is sent", func() bool { return b.entry("ops", "e1").State == broker.StateSent })
	l := newLane(b.runner, "relay")
	l.uncounted.Add(1)
	b.runner.attempt(t.Context(), l, strayMsg{raw: original, stream: stream})
	b.settled()
	if n := len(b.fake.mails("e1")); n != 2 {
		t.Errorf("%d mails, want the first and the replay", n)
	}
}
