package queue

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

const (
	// resolveTogether is how long a group of events waits for the slowest of them. What
	// takes longer is published on its own, and delays no event of others.
	resolveTogether = 250 * time.Millisecond
	// resolveBudget is the time limit for finding the targets of one event, which may have
	// to fetch the certificate from Vault. An event that exceeds it is retried.
	resolveBudget = 15 * time.Second
	// resolvers is the maximum number of events that are resolved at a time.
	resolvers = 32
	// maxLateGroups is the maximum number of groups with events that are still being
	// resolved when the next group is fetched.
	maxLateGroups = 8
)

// lateGroups are the groups whose slowest events are still being resolved.
type lateGroups struct {
	sync.WaitGroup
	once  sync.Once
	slots chan struct{}
}

// add runs settle in its own goroutine. It waits while there are too many already.
func (l *lateGroups) add(settle func()) {
	l.once.Do(func() { l.slots = make(chan struct{}, maxLateGroups) })
	l.slots <- struct{}{}
	l.Go(func() {
		defer func() { <-l.slots }()
		settle()
	})
}

// fanOut resolves a group of events side by side, so that one event that takes long
// delays no other, and publishes what is resolved.
func (r *Runner) fanOut(ctx context.Context, group []jetstream.Msg) {
	stop := keepAlive(r.AckWait(), group...)
	r.reached(pointFetched)
	resolved := make(chan *fanned, len(group))
	free := make(chan struct{}, resolvers)
	go func() {
		for _, msg := range group {
			free <- struct{}{}
			r.resolving.Go(func() {
				resolved <- r.resolve(ctx, msg)
				<-free
			})
		}
	}()

	patience := time.After(resolveTogether)
	var ready []*fanned
	for waiting := true; waiting && len(ready) < len(group); {
		select {
		case f := <-resolved:
			ready = append(ready, f)
		case <-patience:
			waiting = false
		}
	}
	slices.SortFunc(ready, func(a, b *fanned) int { return cmp.Compare(a.seq, b.seq) })
	if len(ready) > 0 {
		r.publish(ctx, ready)
	}
	if len(ready) == len(group) {
		stop()
		return
	}
	r.slow.add(func() {
		defer stop()
		for range len(group) - len(ready) {
			r.publish(ctx, []*fanned{<-resolved})
		}
	})
}

// resolveRoutes returns the targets of an event, within its budget.
func (r *Runner) resolveRoutes(ctx context.Context, ev *events.Event) ([]verdict.Route, *verdict.Failure) {
	ctx, cancel := context.WithTimeout(ctx, resolveBudget)
	defer cancel()
	return r.courier.Resolve(ctx, ev)
}
