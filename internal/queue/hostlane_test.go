package queue

import (
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// A deployment whose process died is made again at once, by the process there now, whatever
// delivery.on_unknown_outcome says: its outcome is never unknown, because the same files are
// unchanged. It counts as no possible duplicate.
//
// Fault: the program on a mail host is killed after its claim. Result: the deployment is made
// again, or found unchanged, as soon as NATS delivers it again; its lease does not matter.
func TestDeploymentsHaveNoUnknownOutcome(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("mx@host-mx1"), func(s *Settings) { s.HostLane, s.DeadLetterUnknown = "host-mx1", true })
	ev := event("e1", "mx")
	left := broker.Entry{Event: "e1", Target: "mx", Digest: ev.Digest(), State: broker.StateSending, Attempts: 1, Owner: "elsewhere/4711/X", Claimed: time.Now(), Lease: time.Now().Add(time.Hour)}
	if _, err := b.runner.ledger.Put(t.Context(), "mx.e1", left, 0); err != nil {
		t.Fatal(err)
	}
	b.publish(ev)
	b.settled()
	if got := b.fake.mails("e1"); len(got) != 1 || got[0].duplicate {
		t.Fatalf("deployments: %+v", got)
	}
	if e := b.entry("mx", "e1"); e.State != broker.StateSent || e.PossibleDuplicates != 0 || e.Attempts != 2 {
		t.Errorf("the ledger says %+v", e)
	}
}

// A target that becomes one on a mail host takes what waits for it along, out of a lane that is
// served; a process without mail_host makes none of it.
//
// Fault: a target is moved from a relay to a mail host. Result: its deliveries wait in the lane of
// the host.
func TestTargetMovesToAMailHost(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("mx@one", "other@one")
	b := start(t, fake, nil)
	fake.plan("mx", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		fake.mu.Lock()
		fake.targets["mx"] = "host-mx1"
		fake.mu.Unlock()
		return nil, fail(verdict.SMTPTransient, verdict.PhaseConnect)
	})
	b.publish(event("e1", "mx"))
	b.until("it waits for the host", func() bool {
		lanes, err := b.broker.LaneInfos(t.Context())
		for _, l := range lanes {
			if l.Lane == "host-mx1" && err == nil {
				return l.Waiting == 1 && l.Away()
			}
		}
		return false
	})
	if n := fake.tried("mx"); n != 1 {
		t.Errorf("it was tried %d times by a process that is not on the host", n)
	}
	b.publish(event("e2", "other"))
	b.until("other deliveries go on", func() bool { return len(fake.mails("e2")) == 1 })
}
