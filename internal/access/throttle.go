package access

import (
	"net/netip"
	"sync"
	"time"
)

// throttle makes guessing slow: after a few tries each next one has to wait longer,
// by the name that is tried and by the address it is tried from.
type throttle struct {
	mu    sync.Mutex
	tries map[string]*tries // guarded by mu
}

type tries struct {
	count int
	next  time.Time // no try before
	last  time.Time
}

// pace is how fast guesses may come. A name waits for a short time only, because
// whoever wants to can let somebody else's name wait.
type pace struct {
	free    int           // tries without a pause
	longest time.Duration // pause; the first is a second, each next twice as long
}

var (
	paceOfName    = pace{free: 5, longest: time.Minute}
	paceOfAddress = pace{free: 20, longest: 15 * time.Minute}
)

const (
	forgetAfter = time.Hour // without a try
	maxTracked  = 20_000
)

func newThrottle() *throttle { return &throttle{tries: make(map[string]*tries)} }

// admit says how long to wait before the next try; 0 lets this one through. It
// counts as failed from here on, so that many at once are not one: succeeded takes
// it back. A try that is not let through is not counted. "" is no name: at a provider
// there is none before it has answered.
func (t *throttle) admit(name, address string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	byName, byAddress := &tries{}, t.of("a "+network(address), now)
	if name != "" {
		byName = t.of("n "+name, now)
	}
	if wait := max(byName.next.Sub(now), byAddress.next.Sub(now)); wait > 0 {
		return wait
	}
	byName.failed(paceOfName, now)
	byAddress.failed(paceOfAddress, now)
	return 0
}

// succeeded forgets what was tried for a name. The address gets only this try back:
// else who has an account could guess for others between two sign-ins of his own.
func (t *throttle) succeeded(name, address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tries, "n "+name)
	if a := t.tries["a "+network(address)]; a != nil && a.count > 0 {
		a.count--
		a.next = time.Time{}
	}
}

// of is what is known of a key. What was not tried for an hour is forgotten; when
// there is too much to remember, what waits for the shortest time goes first.
func (t *throttle) of(key string, now time.Time) *tries {
	known := t.tries[key]
	if known != nil && now.Sub(known.last) < forgetAfter {
		return known
	}
	if known == nil && len(t.tries) >= maxTracked {
		t.shed(now)
	}
	known = &tries{last: now}
	t.tries[key] = known
	return known
}

// shed forgets the old, and then, if that was not enough, half of the others.
func (t *throttle) shed(now time.Time) {
	for key, known := range t.tries {
		if now.Sub(known.last) >= forgetAfter || !known.next.After(now) {
			delete(t.tries, key)
		}
	}
	for key := range t.tries {
		if len(t.tries) < maxTracked/2 {
			return
		}
		delete(t.tries, key)
	}
}

func (t *tries) failed(p pace, now time.Time) {
	t.count++
	t.last = now
	if over := t.count - p.free; over >= 0 {
		t.next = now.Add(min(p.longest, time.Second<<min(over, 20)))
	}
}

// network is what one party has of addresses: an IPv4 address, or an IPv6 /64.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if a = a.Unmap(); a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}
