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
