package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// slowResolver takes long for the events whose id begins with slow, until it is released
// or the context ends.
type slowResolver struct {
	*fakeCourier
	released chan struct{}
	waiting  atomic.Int32
	budget   atomic.Int64 // of the last event, in nanoseconds
}

func (c *slowResolver) Resolve(ctx context.Context, ev *events.Event) ([]verdict.Route, *verdict.Failure) {
	if deadline, ok := ctx.Deadline(); ok {
		c.budget.Store(int64(time.Until(deadline)))
	}
	if strings.HasPrefix(ev.ID, "slow") {
		c.waiting.Add(1)
		defer c.waiting.Add(-1)
		select {
		case <-c.released:
		case <-ctx.Done():
			return nil, fail(verdict.SecretUnavailable, verdict.PhaseSecrets)
		}
	}
	return c.fakeCourier.Resolve(ctx, ev)
}

// taken returns all mails of the mailbox.
func (p *fakeCourier) taken() []mail {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.mailbox)
}

// TestSlowEventsDelayNoOthers: while events that take long are resolved, those of others
// are delivered, whether they were fetched together or later.
//
// Fault: an event that takes long to resolve. Result: other events are delivered meanwhile;
// its time is limited.
func TestSlowEventsDelayNoOthers(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("ops")
	slow := &slowResolver{fakeCourier: fake, released: make(chan struct{})}
	b := startWith(t, slow)
	const n = 20
	for i := range n {
		if i%5 == 0 {
			b.publish(event(fmt.Sprintf("slow%d", i), "ops"))
		}
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	b.until("all others to be delivered", func() bool { return len(fake.taken()) == n })
	if slow.waiting.Load() != n/5 || slow.budget.Load() <= 0 || slow.budget.Load() > int64(resolveBudget) {
		t.Errorf("%d events wait, the last had %v", slow.waiting.Load(), time.Duration(slow.budget.Load()))
	}
	for _, m := range fake.taken() {
		if strings.HasPrefix(m.event, "slow") {
			t.Errorf("%s was delivered early", m.event)
		}
	}
	close(slow.released)
	b.settled()
	if got := len(fake.taken()); got != n+n/5 {
		t.Errorf("%d mails, want %d", got, n+n/5)
	}
}

// TestSlowEventsSurviveAStop: an event that is being resolved when the process stops is
// delivered by the next one.
//
// Fault: an event that takes long to resolve. Result: if the process stops meanwhile, the
// next one delivers it.
func TestSlowEventsSurviveAStop(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("ops")
	slow := &slowResolver{fakeCourier: fake, released: make(chan struct{})}
	b := &fixture{t: t, fake: fake, courier: slow, set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.set.Grace = time.Millisecond
	b.start()
	b.publish(event("slow1", "ops"))
	b.publish(event("e1", "ops"))
	b.until("one delivered, one waiting", func() bool { return len(fake.taken()) == 1 && slow.waiting.Load() == 1 })
	b.stop()
	if slow.waiting.Load() != 0 {
		t.Fatal("it stopped while an event was being resolved")
	}
	close(slow.released)
	b.run()
	b.settled()
	if got := fake.taken(); len(got) != 2 || got[1].event != "slow1" {
		t.Errorf("mails: %+v", got)
	}
}
