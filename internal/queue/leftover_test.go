package queue

import (
	"context"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// A process that dies between the ledger's `sent` and the removal of the dead letter
// leaves a letter of a sent delivery. It is removed when the message is delivered again.
func TestALetterOfWhatWasDeliveredIsTakenOff(t *testing.T) {
	t.Parallel()
	var fixed, died atomic.Bool
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m", AckWait: time.Second}}
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if fixed.Load() {
			return nil, nil
		}
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	b.set.Reached = func(point string) {
		if point == pointRecorded && died.CompareAndSwap(false, true) {
			runtime.Goexit()
		}
	}
	b.start()
	b.publish(event("e1", "ops"))
	b.settled()
	d := b.letters()[0]
	fixed.Store(true)
	// As with `nats pub`: the letter stays until the delivery has succeeded.
	if _, err := b.broker.JetStream().Publish(context.Background(), d.ReplaySubject, d.Body); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if l := b.letters(); !died.Load() || len(l) != 0 || len(b.fake.mails("e1")) != 1 {
		t.Errorf("%d mails, open letters: %+v", len(b.fake.mails("e1")), l)
	}
	if told := historyOf(t, b.broker, d.Sequence); !slices.Equal(told, []string{"outcome delivered"}) {
		t.Errorf("history %q", told)
	}
}

// Two certificates with one event id are a publisher's mistake, and make two letters. When
// one of them is delivered, the letter of the other stays.
//
// Fault: the same id for another certificate. Result: not lost.
func TestALetterOfAnotherCertificateStays(t *testing.T) {
	t.Parallel()
	b, fixed := deadLetterFixture(t)
	other := event("ev/1", "ops")
	other.Certificate.PEM = lab.SelfSigned("other.example.com")
	b.publish(other)
	b.until("its letter", func() bool { return len(b.letters()) == 2 })
	b.settled()
	fixed.Store(true)
	first := b.letters()[0]
	if err := b.broker.Replay(context.Background(), first, tester, broker.Replay{}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	l := b.letters()
	if len(b.fake.mails("ev/1")) != 1 || len(l) != 1 || l[0].Code != verdict.EventInvalid {
		t.Errorf("%d mails, open letters: %+v", len(b.fake.mails("ev/1")), l)
	}
}
