package broker

import (
	"math/rand/v2"
	"sync"
	"time"
)

// breaker keeps a lane from knocking at a relay that does not answer. It counts
// consecutive failures of the relay itself, never refusals of a message. Open,
// it lets nothing through until its pause is over, then one probe at a time.
type breaker struct {
	threshold int           // consecutive failures that open it
	first     time.Duration // the first pause
	max       time.Duration // pauses double up to this

	mu       sync.Mutex
	failures int           // consecutive
	pause    time.Duration // the current pause; 0 when closed
	until    time.Time     // end of the pause
}

func newBreaker() *breaker {
	return &breaker{threshold: 3, first: 5 * time.Second, max: 5 * time.Minute}
}

// admit says how long to wait, and, when that is 0, how many deliveries may be
// tried at once: all that were asked for, or one probe.
func (b *breaker) admit(want int, now time.Time) (wait time.Duration, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pause == 0 {
		return 0, want
	}
	if now.Before(b.until) {
		return b.until.Sub(now), 0
	}
	return 0, 1
}

// success closes it: the relay answered, whatever it thought of the mail.
func (b *breaker) success() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.pause = 0, 0
}

// failure counts a failure of the relay and returns how long a delivery should
// stay away, and whether this one opened the breaker. Failures of what was in
// flight when it opened do not lengthen the pause.
func (b *breaker) failure(now time.Time) (away time.Duration, opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	switch {
	case b.pause == 0 && b.failures < b.threshold:
		return jitter(b.first), false
	case b.pause == 0:
		b.pause, opened = b.first, true
	case now.Before(b.until):
		return b.until.Sub(now) + jitter(b.first), false
	default: // the probe failed
		b.pause = min(2*b.pause, b.max)
	}
	b.until = now.Add(jitter(b.pause))
	return b.until.Sub(now), opened
}

// open reports whether the relay counts as away.
func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pause > 0
}

// jitter spreads a pause over 80 to 120 %, so that replicas and deliveries do
// not come back in step.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
