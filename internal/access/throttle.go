package access

import (
	"net/netip"
	"sync"
	"time"
)

// throttle slows guessing down: after a few attempts each further one must wait longer,
// per name that is tried and per address that it is tried from.
type throttle struct {
	mu    sync.Mutex
	tries map[string]tries // guarded by mu
	// places are names with the addresses from which they have signed in before. There
	// a name has a count of its own, so that attempts from elsewhere do not lock out the
	// account's owner.
	places map[string]bool // guarded by mu
}

type tries struct {
	count int
	next  time.Time // no attempt before
	last  time.Time
}

// pace limits the rate of attempts. The pause of a name is short, because a stranger
// can cause it for any name.
type pace struct {
	free    int           // attempts without a pause
	longest time.Duration // pause; the first is a second, and each further one twice as long
}

var (
	paceOfName    = pace{free: 5, longest: time.Minute}
	paceOfAddress = pace{free: 20, longest: 15 * time.Minute}
)

const (
	forgetAfter = time.Hour // after the last attempt
	maxTracked  = 20_000
	maxPlaces   = 10_000
)

func newThrottle() *throttle {
	return &throttle{tries: make(map[string]tries), places: make(map[string]bool)}
}

// admit returns how long to wait before the next attempt; 0 admits this one. An admitted
// attempt counts as failed at once, so that parallel attempts all count; succeeded takes
// it back. An attempt that is not admitted is not counted and not remembered. The name
// is "" for a provider, where it is not known before the provider has answered.
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

// nameAt is the key of a name that is tried from an address. The caller holds mu.
func (t *throttle) nameAt(name, address string) string {
	if place := "p " + network(address) + " " + name; t.places[place] {
		return place
	}
	return "n " + name
}

// succeeded clears the attempts of a name. The address gets only this one attempt back:
// otherwise the owner of one account could guess the passwords of others between their
// own sign-ins.
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

// of returns the attempts of a key. An hour after the last attempt they no longer count.
func (t *throttle) of(key string, now time.Time) tries {
	known := t.tries[key]
	if now.Sub(known.last) >= forgetAfter {
		return tries{}
	}
	return known
}

// failed counts an attempt.
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

// shed makes room: it removes old entries and those that never had to wait, and then,
// if needed, others until half of the limit is left.
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

// network is Party for an address as text. Text that is not an address is returned as it is.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	return Party(a).String()
}

// Party is the range of addresses that one party has: an IPv4 address, or an IPv6 /64.
func Party(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked()
}
