package secrets

import (
	"math/rand/v2"
	"sync"
	"time"
)

// breaker stops requests to a server that does not answer. After threshold
// consecutive failures it refuses requests for a pause that doubles from least to
// most, with jitter; then it admits one trial at a time.
type breaker struct {
	threshold   int
	least, most time.Duration

	mu       sync.Mutex
	failures int       // consecutive, without those of trials; guarded by mu
	openings int       // consecutive; 0 means closed; guarded by mu
	until    time.Time // end of the pause, while open; guarded by mu
	trying   bool      // a trial is in progress; guarded by mu
	last     *Error    // the latest failure; guarded by mu
}

// permit is one admitted request. Its holder must report the outcome once, by one
// of the three methods.
type permit struct {
	b     *breaker
	trial bool
}

// admit returns a permit, or the latest failure and how long to wait before the next
// request.
func (b *breaker) admit() (p permit, last *Error, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.openings == 0 {
		return permit{b: b}, nil, 0
	}
	if wait := time.Until(b.until); wait > 0 {
		return permit{}, b.last, wait
	}
	if b.trying {
		return permit{}, b.last, b.least
	}
	b.trying = true
	return permit{b, true}, nil, 0
}

// succeeded closes the breaker and reports whether it was open.
func (p permit) succeeded() (wasOpen bool) {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	wasOpen = p.b.openings > 0
	p.b.failures, p.b.openings, p.b.trying, p.b.last = 0, 0, false, nil
	return wasOpen
}

// failed counts a failure and reports whether it opened the breaker.
func (p permit) failed(why *Error) (opened bool) {
	b := p.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.trial {
		b.trying = false
	} else if b.openings > 0 {
		return false // the request began before the breaker opened
	} else if b.failures++; b.failures < b.threshold {
		return false
	}
	pause := b.most
	if b.openings < 16 {
		pause = min(b.most, b.least<<b.openings)
	}
	b.openings++
	b.last = why
	b.until = time.Now().Add(pause/2 + rand.N(pause/2+1))
	return b.openings == 1
}

// abandoned reports a request without an outcome.
func (p permit) abandoned() {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if p.trial {
		p.b.trying = false
	}
}

// failure returns the latest failure while the breaker is open, else nil.
func (b *breaker) failure() *Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}
