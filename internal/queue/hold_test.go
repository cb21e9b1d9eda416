package queue

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// heldUntil scripts a target whose deployments are held until they may be made. It keeps what each
// look is given.
func heldUntil(fake *fakeCourier, target string, may *atomic.Bool, seen *[]*verdict.Hold) {
	fake.plan(target, func(_ int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		fake.mu.Lock()
		*seen = append(*seen, a.Hold)
		fake.mu.Unlock()
		if may.Load() {
			return nil, nil // the fake's own receipt
		}
		f := verdict.Fail(verdict.DeployHeld, verdict.PhaseDANE, "publish the record")
		f.Hold = &verdict.Hold{Publish: []string{"_25._tcp.mx1.example.com. IN TLSA 3 1 1 00"}, TTL: time.Hour, Expires: time.Now().Add(24 * time.Hour).Truncate(time.Hour)}
		return nil, f
	})
}

// startHeld starts a fixture on mail host mx1 that looks often.
func startHeld(t *testing.T, fake *fakeCourier, change func(*Settings)) *fixture {
	t.Helper()
	b := &fixture{t: t, fake: fake, set: quick(), relayDelay: 20 * time.Millisecond, cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.set.HostLane = "host-mx1"
	if change != nil {
		change(&b.set)
	}
	b.start()
	return b
}

// A deployment that is held back is looked at again and again, without an attempt and without a new
// ledger entry each time, and is made when it may be. What the last look remembered is given to the
// next.
//
// Fault: a deployment is held back for days. Result: no attempt is counted, the ledger has one entry
// for it.
func TestHeldBackAndDeployed(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("mx@host-mx1")
	var seen []*verdict.Hold
	var may atomic.Bool
	heldUntil(fake, "mx", &may, &seen)
	b := startHeld(t, fake, nil)
	b.publish(event("e1", "mx"))
	b.until("it is held", func() bool { return fake.tried("mx") >= 2 })
	_, revision, err := b.runner.ledger.Get(t.Context(), "mx.e1")
	if err != nil {
		t.Fatal(err)
	}
	status := b.onlyLane()
	if len(status.HeldBack) != 1 || !status.HeldBack[0].Urgent || status.HeldBack[0].Reason != "publish the record" {
		t.Errorf("the lane says %+v", status)
	}
	b.until("it is held again", func() bool { return fake.tried("mx") >= 4 })
	if e, again, err := b.runner.ledger.Get(t.Context(), "mx.e1"); err != nil || !e.HeldBack() || again != revision {
		t.Errorf("each look writes an entry: %d, then %d (%v)", revision, again, err)
	}
	may.Store(true)
	b.settled()
	if e := b.entry("mx", "e1"); e.State != broker.StateSent || e.Attempts != 1 || e.Hold != nil {
		t.Errorf("the ledger says %+v", e)
	}
	if status := b.onlyLane(); len(status.HeldBack) != 0 {
		t.Errorf("the lane still says %+v", status.HeldBack)
	}
	if seen[0] != nil || seen[1] == nil || seen[1].TTL != time.Hour {
		t.Errorf("the looks were given %+v", seen)
	}
}

// A deployment is not held longer than give_up_after; its letter has the reason, and a replay goes on
// with what was seen.
//
// Fault: a deployment is held back longer than give_up_after. Result: dead (DELIVERY_EXPIRED)
// with what to publish.
func TestHeldBackTooLong(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("mx@host-mx1")
	var seen []*verdict.Hold
	heldUntil(fake, "mx", new(atomic.Bool), &seen)
	b := startHeld(t, fake, func(s *Settings) { s.GiveUpAfter = 300 * time.Millisecond })
	b.publish(event("e1", "mx"))
	b.settled()
	letters := b.letters()
	if len(letters) != 1 || letters[0].Code != verdict.DeliveryExpired || !strings.Contains(letters[0].Reason, "DEPLOY_HELD: publish the record") {
		t.Fatalf("letters: %+v", letters)
	}
	if e := b.entry("mx", "e1"); e.State != broker.StateDead || e.Hold == nil || e.HeldBack() {
		t.Errorf("the ledger says %+v", e)
	}
	if status := b.onlyLane(); len(status.HeldBack) != 0 {
		t.Errorf("the lane still says %+v", status.HeldBack)
	}
}
