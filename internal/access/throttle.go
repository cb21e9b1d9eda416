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
	tries map[string]tries // guarded by mu
	// places are the names with the addresses from which they have signed in. A name
	// is counted by itself there, so that strangers who try it elsewhere, again and
	// again, do not keep its owner out.
	places map[string]bool // guarded by mu
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
	maxPlaces   = 10_000
)

func newThrottle() *throttle {
	return &throttle{tries: make(map[string]tries), places: make(map[string]bool)}
}

// admit says how long to wait before the next try; 0 lets this one through. It
// counts as failed from here on, so that many at once are not one: succeeded takes
// it back. A try that is not let through is not counted and leaves nothing behind.
// "" is no name: at a provider there is none before it has answered.
func (t *throttle) admit(name, address string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	ofAddress, ofName := "a "+network(address), t.nameAt(name, address)
	wait := t.of(ofAddress, now).next.Sub(now)
	if name != "" {
		wait = max(wait, t.of(ofName, now).next.Sub(now))
	}
	if wait > 0 {
		return wait
	}
	if name != "" {
		t.failed(ofName, paceOfName, now)
	}
	t.failed(ofAddress, paceOfAddress, now)
	return 0
}

// nameAt is the key of a name that is tried from an address. It wants mu.
func (t *throttle) nameAt(name, address string) string {
	if place := "p " + network(address) + " " + name; t.places[place] {
		return place
	}
	return "n " + name
}

// succeeded forgets what was tried for a name. The address gets only this try back:
// else who has an account could guess for others between two sign-ins of his own.
func (t *throttle) succeeded(name, address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tries, t.nameAt(name, address))
	if name != "" {
		if len(t.places) >= maxPlaces {
			clear(t.places)
		}
		t.places["p "+network(address)+" "+name] = true
	}
	key := "a " + network(address)
	if known, found := t.tries[key]; found && known.count > 0 {
		known.count--
		known.next = time.Time{}
		t.tries[key] = known
	}
}

// of is what is known of a key. What was not tried for an hour is forgotten.
func (t *throttle) of(key string, now time.Time) tries {
	known := t.tries[key]
	if now.Sub(known.last) >= forgetAfter {
		return tries{}
	}
	return known
}

// failed counts a try.
func (t *throttle) failed(key string, p pace, now time.Time) {
	known := t.of(key, now)
	known.count++
	known.last = now
	if over := known.count - p.free; over >= 0 {
		known.next = now.Add(min(p.longest, time.Second<<min(over, 20)))
	}
	if _, found := t.tries[key]; !found && len(t.tries) >= maxTracked {
		t.shed(now)
	}
	t.tries[key] = known
}

// shed makes room: it forgets the old and those that never had to wait, and then, if
// that was not enough, half of the others.
func (t *throttle) shed(now time.Time) {
	for key, known := range t.tries {
		if now.Sub(known.last) >= forgetAfter || known.next.IsZero() {
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

// network is Party for an address as text; what is none stands for itself.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	return Party(a).String()
}

// Party is what one party has of addresses: an IPv4 address, or an IPv6 /64.
func Party(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked()
}
