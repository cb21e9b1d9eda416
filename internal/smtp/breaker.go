package smtp

import (
	"sync"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/verdict"
)

const (
	BreakerThreshold = 3 // consecutive failures that open a relay's breaker
	breakerFirst     = 5 * time.Second
	breakerMax       = 5 * time.Minute
	// probeTime is the wait that Admit returns while a probe is running; the probe may
	// end earlier or later.
	probeTime = 2 * time.Second
)

// breaker keeps deliveries away from a relay that does not answer. It counts
// consecutive failures of the relay itself, never refusals of a mail. When open, it
// admits nothing until its pause is over, then one probe at a time.
type breaker struct {
	threshold int           // consecutive failures that open it
	first     time.Duration // the first pause
	max       time.Duration // pauses double up to this

	mu       sync.Mutex
	failures int             // consecutive
	pause    time.Duration   // the current pause; 0 when closed
	until    time.Time       // end of the pause
	probing  bool            // a probe is running
	last     verdict.Outcome // the last failure: its reason and the relay's reply
	limit    bool            // the relay itself limits its use: the pause is one of Pause
	pauses   int             // calls of Pause
	busy     int             // permits not yet ended
}

func newBreaker(threshold int) *breaker {
	return &breaker{threshold: threshold, first: breakerFirst, max: breakerMax}
}

// Permit is the permission to try a relay once. The holder calls Success, Failure or Pause if
// the result is known, and always defers End, which without a result only allows the
// next probe.
type Permit struct {
	breaker *breaker
	probe   bool
	over    bool // Success, Failure or Pause was called
	pauses  int  // the breaker's, when the permit was given
}

// Admit returns a permit, or nil with how long to wait and why.
func (b *breaker) Admit() (p *Permit, wait time.Duration, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wait := b.wait(); wait > 0 {
		return nil, wait, b.last.Reason
	}
	p = &Permit{breaker: b, probe: b.pause > 0, pauses: b.pauses}
	b.probing = p.probe
	b.busy++
	return p, 0, ""
}

// wait is how long Admit refuses; 0: it admits now.
func (b *breaker) wait() time.Duration {
	switch left := time.Until(b.until); {
	case b.pause == 0:
		return 0
	case left > 0:
		return left
	case b.probing:
		return probeTime
	}
	return 0
}

// Revoked returns for how long the permit is of no use any more, and why: the breaker has
// opened since it was given. 0: it is valid. That of a probe stays valid.
func (p *Permit) Revoked() (wait time.Duration, reason string) {
	b := p.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.probe || b.pause == 0 {
		return 0, ""
	}
	return max(b.wait(), probeTime), b.last.Reason
}

// Success closes the breaker: the relay answered, even if it refused the mail. A mail that
// was under way when the relay reached its limit does not end the limit's pause.
func (p *Permit) Success() {
	b := p.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	p.over = true
	if p.probe {
		b.probing = false
	}
	if p.pauses == b.pauses {
		b.failures, b.pause, b.probing, b.last, b.limit = 0, 0, false, verdict.Outcome{}, false
	}
}

// Pause opens the breaker at once, for a time: the relay said that it is at a limit of its
// own, and would refuse the next mails too. After it comes one probe, as after any pause.
// Pause returns its end.
func (p *Permit) Pause(refusal verdict.Outcome, pause time.Duration) (until time.Time) {
	b := p.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	p.over = true
	if p.probe {
		b.probing = false
	}
	b.open(refusal, time.Now().Add(pause))
	return b.until
}

// open opens the breaker until a time, because of a limit of the relay.
func (b *breaker) open(refusal verdict.Outcome, until time.Time) {
	b.pauses++
	b.pause, b.until, b.last, b.limit = b.first, until, refusal, true
}

// Hold opens the breaker until a time, unless it is already open that long for a limit: the
// relay told another process of its limit, or this one before a restart.
func (b *breaker) Hold(refusal verdict.Outcome, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until.After(time.Now()) && !(b.limit && !until.After(b.until)) {
		b.open(refusal, until)
	}
}

// Resume ends the pause for a limit of the relay: the next mail is the probe.
func (b *breaker) Resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := time.Now(); b.limit && b.until.After(now) {
		b.until = now
	}
}

// Failure counts a failure of the relay and returns how long to wait before the next
// try. Permits given before the breaker opened do not lengthen its pause.
func (p *Permit) Failure(last verdict.Outcome) (away time.Duration) {
	b := p.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	p.over = true
	b.failures++
	if b.limit && !p.probe { // it was under way, and says less than the limit
		return max(time.Until(b.until), 0) + backoff.Jitter(b.first)
	}
	b.last, b.limit = last, false
	switch {
	case p.probe:
		b.pause, b.probing = min(2*b.pause, b.max), false
	case b.pause > 0:
		return max(time.Until(b.until), 0) + backoff.Jitter(b.first)
	case b.failures < b.threshold:
		return backoff.Jitter(b.first)
	default:
		b.pause = b.first
	}
	b.until = time.Now().Add(backoff.Jitter(b.pause))
	return time.Until(b.until)
}

// End returns the permit.
func (p *Permit) End() {
	b := p.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy--
	if p.probe && !p.over {
		b.probing = false // allow the next probe
	}
}

// Status sets Breaker, Wait, Reason, Reply, Limit and Busy of s.
func (b *breaker) Status(s *verdict.RelayStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Breaker, s.Wait, s.Reason, s.Reply, s.Limit, s.Busy = verdict.Closed, b.wait(), b.last.Reason, b.last.Reply, b.limit, b.busy
	switch {
	case b.pause == 0:
		s.Reason, s.Reply = "", ""
	case s.Wait == 0 || b.probing:
		s.Breaker = verdict.HalfOpen
	default:
		s.Breaker = verdict.Open
	}
}

// Breakers holds the breakers of all relays, by name.
type Breakers struct {
	mu sync.Mutex
	of map[string]*breaker
}

// Get returns the breaker with that name, and creates it if necessary; threshold is the
// number of consecutive failures that open a new one.
func (all *Breakers) Get(name string, threshold int) *breaker {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.of == nil {
		all.of = make(map[string]*breaker)
	}
	if all.of[name] == nil {
		all.of[name] = newBreaker(threshold)
	}
	return all.of[name]
}
