package queue

import (
	"fmt"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
	"github.com/nats-io/nats.go"
)

// Deliveries wait in a paused lane, for a relay that is down or in a lane that an operator
// suspended. A target that is moved to another relay gets them there, once each; those of
// the other targets stay.
//
// Fault: a target is moved away from a relay whose lane is paused. Result: its waiting
// deliveries are moved to the new lane within seconds; once each, they keep their age.
func TestDeliveriesFollowTheirTargetFromAPausedLane(t *testing.T) {
	t.Parallel()
	for _, why := range []string{broker.PausedBreaker, broker.PausedSuspended} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			fake := newFakeCourier("ops@one", "other@one", "third@two")
			b := &fixture{t: t, fake: fake, set: quick(), fastReconcile: true, cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
			b.start()
			b.laneState("the lane", "one", func(broker.LaneStatus) bool { return true })
			if why == broker.PausedSuspended {
				if err := b.broker.Suspend(t.Context(), broker.Suspension{Lane: "one", Reason: "test"}, tester); err != nil {
					t.Fatal(err)
				}
			} else {
				fake.setRelays("one", []verdict.RelayStatus{{Relay: "one:25", Breaker: verdict.Open, Wait: time.Hour, Reason: "down"}})
			}
			b.laneState("the pause", "one", pausedFor(why))
			const n = 20
			for i := range n {
				b.publish(event(fmt.Sprintf("e%d", i), "ops", "other"))
			}
			b.waiting(2 * n)
			stored := time.Now()

			ages := make(chan time.Time, 2*n)
			fake.plan("ops", func(_ int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
				ages <- a.Limits.(*job).since
				return nil, nil
			})
			fake.mu.Lock()
			fake.targets["ops"] = "two"
			fake.mu.Unlock()
			b.waiting(n)
			for i := range n {
				id := fmt.Sprintf("e%d", i)
				if mails := fake.mails(id); len(mails) != 1 || mails[0].target != "ops" {
					t.Errorf("%s: mails %+v", id, mails)
				}
				if e := b.entry("ops", id); e.Lane != "two" || e.State != broker.StateSent {
					t.Errorf("%s: ledger %+v", id, e)
				}
			}
			for range n {
				if since := <-ages; since.After(stored) {
					t.Errorf("its age begins at %v, after the first was stored (%v)", since, stored)
				}
			}
			if fake.tried("other") != 0 {
				t.Error("a delivery of another target was tried in the paused lane")
			}
		})
	}
}

// A forced replay that is moved while it is in work elsewhere is not sent again.
func TestForcedReplayIsNotSentAgainAsACopy(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops@one"), nil)
	b.publish(event("e1", "ops"))
	b.settled()
	sent := b.entry("ops", "e1")
	publish := func(copyOf uint64) {
		m := nats.NewMsg(broker.DeliverySubject("one", "ops"))
		m.Data = event("e1", "ops").Encode()
		m.Header.Set(broker.HeaderForce, "true")
		m.Header.Set(broker.HeaderCopyOf, fmt.Sprint(copyOf))
		if _, err := b.broker.JetStream().PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		b.settled()
	}
	publish(sent.Sequence)
	if n := len(b.fake.mails("e1")); n != 1 {
		t.Errorf("%d mails for a copy of what was sent", n)
	}
	publish(sent.Sequence + 100)
	if n := len(b.fake.mails("e1")); n != 2 {
		t.Errorf("%d mails after a forced replay, want 2", n)
	}
}

// The age of a copy counts from the first publication.
//
// Fault: deliveries removed from their stream by an administrator. Result: they keep their
// age, for give_up_after too.
func TestCopiesKeepTheirAge(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops@one"), nil)
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPTransient, verdict.PhaseRcpt)
	})
	m := nats.NewMsg(broker.DeliverySubject("one", "ops"))
	m.Data = event("e1", "ops").Encode()
	setPublished(m.Header, time.Now().Add(-b.set.GiveUpAfter-time.Minute))
	if _, err := b.broker.JetStream().PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if l := b.letters(); len(l) != 1 || l[0].Code != verdict.DeliveryExpired || l[0].Attempts != 1 {
		t.Errorf("letters: %+v", l)
	}
}
