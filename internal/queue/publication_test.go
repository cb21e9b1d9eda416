package queue

import (
	"slices"
	"sync"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// places notes the place and the force of each attempt at a target; the first ones fail for good.
type places struct {
	mu  sync.Mutex
	all []verdict.Attempt
}

func (p *places) script(failures int) func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	return func(try int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all = append(p.all, a)
		if try <= failures {
			return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
		}
		return nil, nil
	}
}

func (p *places) take() (all []verdict.Attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all, p.all = p.all, nil
	return all
}

// A replay, of a delivery or of an event that had no target, has the place that its event had when it was
// first published, and not one after all that came meanwhile. So have restored letters and letters
// that were written again.
//
// Fault: an old letter of a mail host is replayed after a newer certificate was deployed. Result: it keeps
// the place of its event: `skipped` with the reason.
func TestReplaysKeepTheirPlace(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("mx@host-mx1", "other@host-mx1")
	b := start(t, fake, func(s *Settings) { s.HostLane = "host-mx1" })
	var seen places
	fake.plan("mx", seen.script(3))
	fake.plan("late", seen.script(0))
	fake.plan("other", seen.script(0))
	b.publish(event("e1", "mx", "late")) // late is defined later
	b.settled()
	first := seen.take()[0]
	if first.Published.Sequence != 1 || first.Published.At.IsZero() || first.Force {
		t.Fatalf("the first attempt: %+v", first.Published)
	}
	b.publish(event("e2", "other"))
	b.settled()
	if second := seen.take()[0].Published; !first.Published.Before(second) {
		t.Errorf("%v is not before %v", first.Published, second)
	}
	fake.mu.Lock()
	fake.targets["late"] = "host-mx1"
	fake.mu.Unlock()

	letter := func(target string) broker.DeadLetter {
		t.Helper()
		all := b.letters()
		i := slices.IndexFunc(all, func(d broker.DeadLetter) bool { return d.Target == target })
		if i < 0 {
			t.Fatalf("no letter of %s among %d", target, len(all))
		}
		return all[i]
	}
	replay := func(what, target string, how broker.Replay) {
		t.Helper()
		if err := b.broker.Replay(t.Context(), letter(target), tester, how); err != nil {
			t.Fatal(err)
		}
		b.settled()
		got := seen.take()
		if len(got) == 0 {
			t.Fatalf("%s: no attempt", what)
		}
		for _, a := range got {
			if a.Published != first.Published || a.Force != how.Force {
				t.Errorf("%s to %s: place %v, force %v; want %v, %v", what, a.Target, a.Published, a.Force, first.Published, how.Force)
			}
		}
	}
	replay("a replay", "mx", broker.Replay{})
	discarded := letter("mx")
	if err := b.broker.Discard(t.Context(), discarded, tester, "not wanted"); err != nil {
		t.Fatal(err)
	}
	record, err := b.broker.Discarded(t.Context(), discarded.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.broker.Restore(t.Context(), record, tester, "it is"); err != nil {
		t.Fatal(err)
	}
	replay("a replay of a restored letter", "mx", broker.Replay{Force: true})
	replay("a replay for another target", "mx", broker.Replay{Target: "other", Lane: "host-mx1"})
	replay("a replay of an event", "late", broker.Replay{})
}
