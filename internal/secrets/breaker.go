package secrets

import (
	"math/rand/v2"
	"sync"
	"time"
)

// breaker keeps us from asking a server that does not answer. After threshold
// failures in a row it refuses for a pause that doubles from least to most, with
// jitter; then it lets one trial through at a time.
type breaker struct {
	threshold   int
	least, most time.Duration

	mu       sync.Mutex
	failures int       // in a row, those of trials aside; guarded by mu
	openings int       // in a row; 0 is closed; guarded by mu
	until    time.Time // refuses before, while open; guarded by mu
	trying   bool      // a trial is on its way; guarded by mu
	last     *Error    // the latest failure; guarded by mu
}

// permit is one admitted request. Its outcome has to be told, once, by one of
// the three methods.
type permit struct {
	b     *breaker
	trial bool
}

// admit returns a permit, or the latest failure and how long to wait.
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

// succeeded closes the breaker and says whether it had been open.
func (p permit) succeeded() (wasOpen bool) {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	wasOpen = p.b.openings > 0
	p.b.failures, p.b.openings, p.b.trying, p.b.last = 0, 0, false, nil
	return wasOpen
}

// failed counts a failure and says whether it opened the breaker.
func (p permit) failed(why *Error) (opened bool) {
	b := p.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.trial {
		b.trying = false
	} else if b.openings > 0 {
		return false // it was asked before the breaker opened: nothing new
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

// abandoned is for a request that had no outcome.
func (p permit) abandoned() {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if p.trial {
		p.b.trying = false
	}
}

// failure is the latest one while the breaker is open, else nil.
func (b *breaker) failure() *Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}
