package road

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// Clock is the courier with a clock: it knows when each event was published and
// when a relay took it.
type Clock struct {
	*delivery.Courier
	door  chan struct{} // closed when deliveries may begin
	begin sync.Once

	mu      sync.Mutex
	start   map[string]time.Time     // by event, until it is taken
	waiting map[string]chan struct{} // closed when the event is taken
	taken   map[string][]Taken       // by target
}

// Taken is one mail that a relay took.
type Taken struct {
	At      time.Time     // of the relay's reply
	Latency time.Duration // since the event was handed to the publisher
}

func newClock(c *delivery.Courier, closed bool) *Clock {
	k := &Clock{
		Courier: c, door: make(chan struct{}),
		start: map[string]time.Time{}, waiting: map[string]chan struct{}{}, taken: map[string][]Taken{},
	}
	if !closed {
		k.Begin()
	}
	return k
}

// Begin opens the door; a second call does nothing.
func (k *Clock) Begin() { k.begin.Do(func() { close(k.door) }) }

func (k *Clock) published(event string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.start[event] = time.Now()
}

// Deliver is the courier's, timed.
func (k *Clock) Deliver(ctx context.Context, ev *events.Event, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	<-k.door
	began := time.Now()
	receipt, failure := k.Courier.Deliver(ctx, ev, a)
	if receipt == nil {
		return receipt, failure
	}
	// The total ends with the relay's reply; the QUIT after it is not waited for.
	at := began.Add(receipt.Timings.Total)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.taken[a.Target] = append(k.taken[a.Target], Taken{At: at, Latency: at.Sub(k.start[ev.ID])})
	if w := k.waiting[ev.ID]; w != nil {
		close(w)
		delete(k.waiting, ev.ID)
	}
	return receipt, failure
}

// Expect returns a channel that is closed when a relay has taken the event. It
// is to be called before the event is published.
func (k *Clock) Expect(event string) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := make(chan struct{})
	k.waiting[event] = w
	return w
}

// Count is how many mails relays took for a target.
func (k *Clock) Count(target string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.taken[target])
}

// Taken lists what relays took for a target, in the order of the replies.
func (k *Clock) Taken(target string) []Taken {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := slices.Clone(k.taken[target])
	slices.SortFunc(all, func(a, b Taken) int { return a.At.Compare(b.At) })
	return all
}

// Quantile is the latency that a share q (0 to 1) of the mails did not exceed.
func Quantile(mails []Taken, q float64) time.Duration {
	if len(mails) == 0 {
		return 0
	}
	all := make([]time.Duration, len(mails))
	for i, m := range mails {
		all[i] = m.Latency
	}
	slices.Sort(all)
	return all[min(int(q*float64(len(all))), len(all)-1)]
}
