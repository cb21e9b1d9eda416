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

// Clock is a courier that records when each event was published and when a relay
// accepted its mail.
type Clock struct {
	*delivery.Courier
	door  chan struct{} // closed when deliveries may begin
	begin sync.Once

	mu      sync.Mutex
	start   map[string]time.Time     // publication, by event
	waiting map[string]chan struct{} // closed when a relay has accepted the event's mail
	taken   map[string][]Taken       // by target
}

// Taken is one mail that a relay accepted.
type Taken struct {
	At      time.Time     // time of the relay's reply
	Latency time.Duration // since publishing of the event began
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

// Begin lets the deliveries start; a second call does nothing.
func (k *Clock) Begin() { k.begin.Do(func() { close(k.door) }) }

func (k *Clock) published(event string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.start[event] = time.Now()
}

// Deliver waits for Begin, calls the courier's Deliver, and records the time of the
// relay's reply.
func (k *Clock) Deliver(ctx context.Context, ev *events.Event, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	<-k.door
	began := time.Now()
	receipt, failure := k.Courier.Deliver(ctx, ev, a)
	if receipt == nil {
		return receipt, failure
	}
	// The total ends with the relay's reply; it does not include the QUIT.
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

// Expect returns a channel that is closed when a relay has accepted the event's mail.
// Call it before the event is published.
func (k *Clock) Expect(event string) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := make(chan struct{})
	k.waiting[event] = w
	return w
}

// Count returns the number of mails that relays have accepted for a target.
func (k *Clock) Count(target string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.taken[target])
}

// Taken lists the mails that relays have accepted for a target, in the order of the replies.
func (k *Clock) Taken(target string) []Taken {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := slices.Clone(k.taken[target])
	slices.SortFunc(all, func(a, b Taken) int { return a.At.Compare(b.At) })
	return all
}

// Quantile returns the latency that a share q (0 to 1) of the mails did not exceed; 0
// without mails.
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
