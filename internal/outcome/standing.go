package outcome

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/webhook"
)

const (
	// The pauses of one outcome that the receiver refused, and of a receiver that is away.
	firstPause     = 5 * time.Second
	longestPause   = 10 * time.Minute
	longestAbsence = time.Minute
	// inARow is how many different outcomes fail, without one that is taken, until all are slowed down. One that the
	// receiver always refuses must not slow down the others.
	inARow = 4
	// The pauses between atOnce tries at a receiver that refuses all. retryRoom for each outcome that waits for another try keeps
	// retries, which the stream hands out first, below that pace: what is new gets its turn, whatever was refused before.
	firstSlow    = time.Second
	longestSlow  = 5 * time.Second
	retryRoom    = 2500 * time.Millisecond
	longestRetry = broker.MaxOutcomesPending * retryRoom
	// forgetAfter is how long a retry is overdue until another process must have made it.
	forgetAfter = time.Hour
)

// standing is how a process stands with a receiver: what failed, and what that means for the next outcomes.
type standing struct {
	first time.Duration // the first pause; 0: firstPause. Tests make it shorter.

	mu       sync.Mutex
	until    time.Time // nothing is posted before
	away     int       // failures in a row because the receiver is away
	failures int       // in a row that were about an outcome
	row      map[uint64]bool
	waits    map[uint64]retry // the outcomes that failed and were not taken yet, by sequence
	retrying uint64           // outcomes that wait for another try, of all processes
	removed  uint64           // outcomes that failed, until the stream's limits removed them
	failure  error            // the latest, until what failed was taken; nil: none
	unread   error            // why the stream cannot be read; nil: it can
}

// retry is the next try of an outcome that failed.
type retry struct{ failed, due time.Time }

// wait returns for how long a worker posts nothing. Only the first one tries whether a receiver is still away.
func (s *standing) wait(worker int, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pause := s.until.Sub(now); pause > 0 {
		return pause
	}
	if s.away > 0 && worker > 0 {
		return time.Second
	}
	return 0
}

// took notes that the receiver took an outcome.
func (s *standing) took(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waits, sequence)
	clear(s.row)
	s.away, s.failures = 0, 0
}

// failed notes that the receiver did not take an outcome, and returns after how long that is tried again.
func (s *standing) failed(o broker.FedOutcome, err error, now time.Time, report func(error)) (again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var f *webhook.Failure
	if errors.As(err, &f) && f.Away {
		pause := s.absent(f.RetryAfter, now)
		again = pause + s.pause(1, longestAbsence) // another one is tried first
	} else {
		s.refused(o.Sequence, now)
		longest := min(max(longestPause, time.Duration(s.retrying)*retryRoom), longestRetry)
		again = backoff.Jitter(s.pause(int(min(o.Tries, 30)), longest))
	}
	if s.waits == nil {
		s.waits = map[uint64]retry{}
	}
	s.waits[o.Sequence] = retry{now, now.Add(again)}
	s.failure = err
	s.retrying = max(s.retrying, uint64(len(s.waits)))
	report(s.reason())
	return again
}

// reason is what is reported while outcomes wait for another try.
func (s *standing) reason() error {
	if s.failure == nil { // it failed in another process, or before this one began
		return fmt.Errorf("outcomes that failed and wait for another try: %d", s.retrying)
	}
	return fmt.Errorf("%w; outcomes that wait for another try: %d", s.failure, s.retrying)
}

// absent pauses all outcomes, and returns for how long at least.
func (s *standing) absent(asked time.Duration, now time.Time) time.Duration {
	if !now.Before(s.until) { // else it was posted before the pause began
		s.away++
	}
	pause := max(backoff.Jitter(s.pause(s.away, longestAbsence)), asked)
	if until := now.Add(pause); until.After(s.until) {
		s.until = until
	}
	return s.until.Sub(now)
}

// refused slows all outcomes down if several different ones were refused in a row.
func (s *standing) refused(sequence uint64, now time.Time) {
	if s.row == nil {
		s.row = map[uint64]bool{}
	}
	s.away = 0 // it got this one
	s.failures++
	if s.row[sequence] = true; len(s.row) < inARow || now.Before(s.until) {
		return
	}
	slow := min(cmp.Or(s.first, firstSlow)<<min(max(s.failures-inARow, 0)/atOnce, 10), longestSlow)
	s.until = now.Add(backoff.Jitter(slow))
}

// pause is the pause after a number of failures.
func (s *standing) pause(failures int, longest time.Duration) time.Duration {
	return min(cmp.Or(s.first, firstPause)<<min(max(failures-1, 0), 10), longest)
}

// read notes whether the stream could be read, and what was taken from it acknowledged.
func (s *standing) read(err error, report func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.absent(0, time.Now())
		report(err)
	case s.unread != nil:
		s.away = 0
	}
	s.unread = err
}

// look compares with the state of the feed, which was asked for at a time. It reports what still fails: neither that nothing is due nor that
// another outcome was taken says that what failed has arrived. removed counts what failed until the stream's limits removed it.
func (s *standing) look(feed broker.FeedState, asked time.Time, report func(error)) (retrying, removed uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sequence, r := range s.waits {
		switch {
		case sequence < feed.First:
			s.removed++
			delete(s.waits, sequence)
		case r.failed.Before(asked) && feed.Pending == 0, asked.Sub(r.due) > forgetAfter:
			delete(s.waits, sequence) // another process posted it
		}
	}
	s.retrying = max(feed.Repeated, uint64(len(s.waits)))
	if s.retrying == 0 {
		s.failure = nil
	}
	switch {
	case s.unread != nil:
		report(s.unread)
	case s.retrying == 0:
		report(nil)
	default:
		report(s.reason())
	}
	return s.retrying, s.removed
}
