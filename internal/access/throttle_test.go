package access

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestThrottleByName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle()
		for i := range paceOfName.free {
			if wait := th.admit("ada", fmt.Sprintf("192.0.2.%d", i)); wait != 0 {
				t.Fatalf("try %d waits %v", i+1, wait)
			}
		}
		// Each further attempt waits twice as long, from any address.
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			want *= time.Second
			address := fmt.Sprintf("198.51.100.%d", i)
			if wait := th.admit("ada", address); wait != want {
				t.Fatalf("after %d tries: %v, want %v", i+paceOfName.free, wait, want)
			}
			time.Sleep(want - time.Millisecond)
			if wait := th.admit("ada", address); wait != time.Millisecond {
				t.Fatalf("too early: %v", wait)
			}
			time.Sleep(time.Millisecond)
			if wait := th.admit("ada", address); wait != 0 {
				t.Fatalf("in time: %v", wait)
			}
		}
		if wait := th.admit("grace", "203.0.113.1"); wait != 0 {
			t.Errorf("another name waits %v", wait)
		}
		time.Sleep(time.Minute)
		if wait := th.admit("ada", "203.0.113.2"); wait != 0 {
			t.Fatal(wait)
		}
		th.succeeded("ada", "203.0.113.2")
		for range paceOfName.free {
			if wait := th.admit("ada", "203.0.113.3"); wait != 0 {
				t.Errorf("after a success: %v", wait)
			}
		}
		time.Sleep(forgetAfter)
		if wait := th.admit("ada", "203.0.113.3"); wait != 0 {
			t.Errorf("after an hour: %v", wait)
		}
	})
}

func TestThrottleByAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for first, second := range map[string]string{
			"192.0.2.1":       "192.0.2.1",
			"2001:db8::1":     "2001:db8::ffff:1", // one party has the whole /64
			"fe80::1%eth0":    "fe80::2%eth1",
			"not an IP":       "not an IP",
			"::ffff:10.0.0.1": "10.0.0.1",
		} {
			th := newThrottle()
			n := 0
			try := func(address string) time.Duration { n++; return th.admit(fmt.Sprint("name", n), address) }
			for range paceOfAddress.free {
				if wait := try(first); wait != 0 {
					t.Fatalf("%s waits %v", first, wait)
				}
			}
			if wait := try(second); wait != time.Second {
				t.Errorf("%s after %s: %v", second, first, wait)
			}
			if wait := try("203.0.113.77"); wait != 0 {
				t.Errorf("another address waits %v", wait)
			}
			longest := time.Duration(0)
			for range 20 {
				wait := try(second)
				longest = max(longest, wait)
				time.Sleep(wait)
				try(second)
			}
			if longest != paceOfAddress.longest {
				t.Errorf("at most %v", longest)
			}
		}
		// The owner of an account gets no further guesses by signing in.
		th := newThrottle()
		for i := range 3 * paceOfAddress.free {
			th.admit(fmt.Sprint("victim", i), "192.0.2.1")
			if th.admit("mallory", "192.0.2.1") == 0 {
				th.succeeded("mallory", "192.0.2.1")
			}
		}
		if wait := th.admit("victim", "192.0.2.1"); wait == 0 {
			t.Error("signing in resets the address")
		}
	})
}

func TestThrottleIsBounded(t *testing.T) {
	t.Parallel()
	th := newThrottle()
	for i := range 3 * maxTracked {
		th.admit(fmt.Sprint(i), "192.0.2.1") // from one address: most are not admitted
		th.admit(fmt.Sprint(i), fmt.Sprintf("2001:db8:%x:%x::1", i>>16, i&0xffff))
	}
	if len(th.tries) > maxTracked+2 {
		t.Errorf("%d are remembered", len(th.tries))
	}
}

// Attempts that are not admitted are not stored: otherwise a flood from one address could
// push out the entries of all others.
func TestRefusedTriesAreNotRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle()
		const waits, tries = "192.0.2.1", "198.51.100.1"
		for i := range paceOfAddress.free + 8 { // the last of which waits for minutes
			for th.admit(fmt.Sprint("a", i), waits) > 0 {
				time.Sleep(time.Second)
			}
		}
		for i := range paceOfAddress.free {
			th.admit(fmt.Sprint("b", i), tries)
		}
		time.Sleep(2 * time.Second) // the second address may try again now
		known := len(th.tries)
		for i := range 2 * maxTracked {
			if wait := th.admit(fmt.Sprint("flood ", i), waits); wait == 0 {
				t.Fatalf("attempt %d is admitted", i)
			}
		}
		if len(th.tries) != known {
			t.Errorf("%d are remembered, %d before", len(th.tries), known)
		}
		if th.admit("ada", tries); th.admit("ada", tries) == 0 {
			t.Error("the entry of the second address is lost")
		}
	})
}

// Attempts with a name from any address do not lock its owner out at an address from which
// the owner has signed in before; guesses from that address are limited too.
func TestStrangersKeepNobodyOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle()
		const office = "192.0.2.1"
		if wait := th.admit("ada", office); wait != 0 {
			t.Fatal(wait)
		}
		th.succeeded("ada", office)
		for i := range 50 { // one from each address, as soon as it is admitted
			for j := 0; th.admit("ada", fmt.Sprintf("2001:db8:%x::1", i)) > 0; j++ {
				if j > 60 {
					t.Fatal("it waits for more than a minute")
				}
				time.Sleep(time.Second)
			}
		}
		if wait := th.admit("ada", "203.0.113.9"); wait == 0 {
			t.Error("a new address does not wait")
		}
		for range 3 {
			if wait := th.admit("ada", office); wait != 0 {
				t.Errorf("the owner waits %v", wait)
			}
		}
		th.succeeded("ada", office)
		if wait := th.admit("ada", "203.0.113.9"); wait == 0 {
			t.Error("the owner's success admits other addresses")
		}
		for range paceOfName.free {
			th.admit("ada", office)
		}
		if wait := th.admit("ada", office); wait != time.Second {
			t.Errorf("guesses from the owner's address wait %v", wait)
		}
		if wait := th.admit("grace", office); wait != 0 {
			t.Errorf("another name there waits %v", wait)
		}
		for i := range 2 * maxPlaces {
			th.succeeded(fmt.Sprint(i), office)
		}
		if len(th.places) > maxPlaces {
			t.Errorf("%d places", len(th.places))
		}
	})
}

// Parallel attempts are all counted.
func TestTriesAtOnce(t *testing.T) {
	t.Parallel()
	a := door(t, nil)
	b := newBrowser(t, a, home)
	token := b.get("/sign-in").token()
	var tried, throttled atomic.Int32
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			form := url.Values{"name": {"admin"}, "password": {fmt.Sprint("guess ", i)}, TokenField: {token}}
			switch got := b.send(t.Context(), "POST", "/sign-in", form, nil); got.Code {
			case http.StatusUnauthorized:
				tried.Add(1)
			case http.StatusTooManyRequests:
				throttled.Add(1)
				if seconds, err := strconv.Atoi(got.Header().Get("Retry-After")); err != nil || seconds < 1 || seconds > 60 || !strings.Contains(got.body, "Too many attempts") {
					t.Errorf("Retry-After %q: %s", got.Header().Get("Retry-After"), got.body)
				}
			default:
				t.Errorf("%d %s", got.Code, got.body)
			}
		})
	}
	wg.Wait()
	if tried.Load() > int32(paceOfName.free)+3 || tried.Load()+throttled.Load() != 40 {
		t.Errorf("%d of 40 were tried, %d had to wait", tried.Load(), throttled.Load())
	}
	// The right password has to wait as well: otherwise guessing could go on.
	if got := b.signIn("admin"); got.Code != http.StatusTooManyRequests {
		t.Errorf("the right password: %d", got.Code)
	}
}
