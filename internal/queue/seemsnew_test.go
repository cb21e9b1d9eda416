package queue

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// republish publishes a delivery as the fan-out does, long after the stream's duplicate window.
func (b *fixture) republish(id, target string) {
	b.t.Helper()
	m := nats.NewMsg(broker.DeliverySubject("relay", target))
	m.Data = event(id).Encode()
	m.Header.Set(broker.HeaderGeneration, strconv.Itoa(1))
	if _, err := b.broker.JetStream().PublishMsg(context.Background(), m); err != nil {
		b.t.Fatal(err)
	}
}

// A delivery that seems new, but is settled, changes nothing: neither when the relay would take
// it again, nor when its attempt fails before the claim.
//
// Fault: the same delivery again, long afterwards. Result: sent once, no dead letter.
func TestSettledDeliveryThatSeemsNew(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure){
		"the relay would take it": nil,
		"the relay refuses it now": func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
			if try == 1 {
				return nil, nil
			}
			return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
		},
		"the relay is away now": func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
			if try == 1 {
				return nil, nil
			}
			f := fail(verdict.SMTPConnect, verdict.PhaseConnect)
			f.Relay = true
			return nil, f
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, newFakeCourier("ops"), nil)
			if again != nil {
				b.fake.plan("ops", again)
			}
			b.publish(event("e1", "ops"))
			b.settled()
			first := b.entry("ops", "e1")
			b.republish("e1", "ops")
			b.settled()
			if got := len(b.fake.mails("e1")); got != 1 || len(b.letters()) != 0 || b.fake.tried("ops") != 2 {
				t.Errorf("%d mails, %d letters, %d tries; want 1, 0, 2", got, len(b.letters()), b.fake.tried("ops"))
			}
			if e := b.entry("ops", "e1"); e.State != broker.StateSent || !e.Stored.Equal(first.Stored) || e.Sequence != first.Sequence {
				t.Errorf("the ledger was written again: %+v", e)
			}
		})
	}
}

// A delivery that seems new, but is in another process's hands, waits for its lease.
//
// Fault: a stream that hands a delivery out twice, to two processes. Result: one sends; the other waits.
func TestLeasedDeliveryThatSeemsNew(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	ev, now := event("e1"), time.Now()
	leased := broker.Entry{Event: "e1", Target: "ops", Digest: ev.Digest(), State: broker.StateSending, Owner: "another process", First: now, Claimed: now, Lease: now.Add(time.Hour)}
	revision, err := b.runner.ledger.Put(t.Context(), "ops.e1", leased, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.republish("e1", "ops")
	b.until("the attempt without a claim", func() bool { return b.fake.tried("ops") == 1 })
	b.until("the delivery waits", func() bool {
		consumer, err := b.broker.JetStream().Consumer(t.Context(), broker.DeliveriesStream, broker.LaneConsumerPrefix+"relay")
		return err == nil && b.runner.LaneStatus()[0].InFlight == 0 && consumer.CachedInfo().NumAckPending == 1
	})
	if len(b.fake.mails("e1")) != 0 || b.fake.tried("ops") != 1 {
		t.Errorf("%d mails, %d tries; want 0 and 1", len(b.fake.mails("e1")), b.fake.tried("ops"))
	}
	leased.State = broker.StateSent
	if _, err := b.runner.ledger.Put(t.Context(), "ops.e1", leased, revision); err != nil {
		t.Errorf("the lease was overwritten: %v", err)
	}
}
