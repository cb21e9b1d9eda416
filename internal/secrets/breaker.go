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
	failures int       // in a row; guarded by mu
	until    time.Time // refuses before; guarded by mu
	trial    bool      // one is on its way; guarded by mu
	last     *Error    // the latest failure; guarded by mu
}

// admit returns nil when a request may go; its outcome must be reported. Else
// it returns the latest failure and how long to wait.
func (b *breaker) admit() (*Error, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < b.threshold {
		return nil, 0
	}
	if wait := time.Until(b.until); wait > 0 {
		return b.last, wait
	}
	if b.trial {
		return b.last, b.least
	}
	b.trial = true
	return nil, 0
}

// succeeded closes the breaker and says whether it had been open.
func (b *breaker) succeeded() (wasOpen bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wasOpen = b.failures >= b.threshold
	b.failures, b.trial, b.last = 0, false, nil
	return wasOpen
}

// failed counts a failure and says whether it opened the breaker.
func (b *breaker) failed(why *Error) (opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	b.trial, b.last = false, why
	if b.failures < b.threshold {
		return false
	}
	pause := b.most
	if doublings := b.failures - b.threshold; doublings < 16 {
		pause = min(b.most, b.least<<doublings)
	}
	pause = pause/2 + rand.N(pause/2+1)
	b.until = time.Now().Add(pause)
	return b.failures == b.threshold
}

// abandoned takes back an admission whose request had no outcome.
func (b *breaker) abandoned() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trial = false
}

// failure is the latest one while the breaker is open, else nil.
func (b *breaker) failure() *Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < b.threshold {
		return nil
	}
	return b.last
}
