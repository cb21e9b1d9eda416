package smtp

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

func (b *breaker) position() verdict.Breaker {
	var s verdict.RelayStatus
	b.Status(&s)
	return s.Breaker
}

// mustEnter returns a permit, and fails the test if the breaker refuses.
func mustEnter(t *testing.T, b *breaker) *Permit {
	t.Helper()
	p, wait, reason := b.Admit()
	if p == nil {
		t.Fatalf("no permit, wait %v (%s)", wait, reason)
	}
	return p
}

func failTimes(t *testing.T, b *breaker, n int) {
	t.Helper()
	for range n {
		p := mustEnter(t, b)
		p.Failure(because("it is down"))
		p.End()
	}
}

// within80to120 reports whether d is the pause with jitter, 80 to 120 % of it.
func within80to120(d, pause time.Duration) bool { return d >= pause*8/10 && d <= pause*12/10 }

// Fault: connection refused. Result: the relay is not tried for a while.
func TestBreakerOpensAfterConsecutiveFailuresAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(3)
		failTimes(t, b, 2)
		p := mustEnter(t, b)
		p.Success() // a refused mail counts as an answer
		p.End()
		failTimes(t, b, 2)
		if got := b.position(); got != verdict.Closed {
			t.Fatalf("%s after 2, 1 success and 2 failures", got)
		}
		failTimes(t, b, 1)
		if got := b.position(); got != verdict.Open {
			t.Fatalf("%s after 3 failures in a row", got)
		}
		if p, wait, reason := b.Admit(); p != nil || !within80to120(wait, breakerFirst) || reason != "it is down" {
			t.Errorf("entered %v, wait %v, %q", p, wait, reason)
		}
	})
}

func TestBreakerPausesGrowAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(3)
		failTimes(t, b, 3)
		for pause := breakerFirst; ; pause = min(2*pause, breakerMax) {
			var s verdict.RelayStatus
			b.Status(&s)
			if s.Breaker != verdict.Open || !within80to120(s.Wait, pause) {
				t.Fatalf("%s, wait %v, want %v", s.Breaker, s.Wait, pause)
			}
			time.Sleep(s.Wait)
			if got := b.position(); got != verdict.HalfOpen {
				t.Fatalf("%s when the pause is over", got)
			}
			if pause == breakerMax {
				break
			}
			failTimes(t, b, 1)
		}
		p := mustEnter(t, b)
		p.Success()
		p.End()
		if got := b.position(); got != verdict.Closed {
			t.Fatalf("%s after a probe that was answered", got)
		}
		failTimes(t, b, 3)
		if _, wait, _ := b.Admit(); !within80to120(wait, breakerFirst) {
			t.Errorf("the next time begins with a pause of %v", wait)
		}
	})
}

func TestBreakerLetsOneProbeThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(3)
		failTimes(t, b, 3)
		time.Sleep(breakerFirst * 12 / 10)
		probe := mustEnter(t, b)
		if p, wait, _ := b.Admit(); p != nil || wait != probeTime {
			t.Fatalf("a second probe: %v, wait %v", p, wait)
		}
		if got := b.position(); got != verdict.HalfOpen {
			t.Errorf("%s while a probe is out", got)
		}
		probe.End() // a shutdown: no result
		probe = mustEnter(t, b)
		if away := probe.Failure(because("it is still down")); !within80to120(away, 2*breakerFirst) {
			t.Errorf("away for %v", away)
		}
		probe.End()
		if got := b.position(); got != verdict.Open {
			t.Errorf("%s after a failed probe", got)
		}
	})
}

// A permit from before the breaker opened neither lengthens the pause nor counts as the
// probe, but its success closes the breaker.
func TestBreakerAndWhatWasUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(3)
		late, lucky := mustEnter(t, b), mustEnter(t, b)
		failTimes(t, b, 3)
		var before, after verdict.RelayStatus
		b.Status(&before)
		if away := late.Failure(because("it is down")); away < before.Wait {
			t.Errorf("away for %v, before the pause of %v is over", away, before.Wait)
		}
		late.End()
		b.Status(&after)
		if after.Wait != before.Wait || after.Busy != 1 {
			t.Errorf("before %+v, after %+v", before, after)
		}
		time.Sleep(before.Wait)
		probe := mustEnter(t, b)
		lucky.Success()
		lucky.End()
		if got := b.position(); got != verdict.Closed {
			t.Errorf("%s after the relay has answered", got)
		}
		probe.Failure(because("too late"))
		probe.End()
		if p, wait, _ := b.Admit(); p != nil {
			_ = wait // whether closed or half-open, the next try decides
			p.Success()
			p.End()
		}
	})
}

// TestPermitsAreRevoked checks what those learn who have a permit and wait for a connection
// when the breaker opens.
func TestPermitsAreRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(3)
		waiting := mustEnter(t, b)
		failTimes(t, b, 2)
		if wait, _ := waiting.Revoked(); wait != 0 {
			t.Errorf("revoked for %v before the breaker opened", wait)
		}
		failTimes(t, b, 1)
		if wait, reason := waiting.Revoked(); !within80to120(wait, breakerFirst) || reason != "it is down" {
			t.Errorf("revoked for %v (%s), want the breaker's pause", wait, reason)
		}
		time.Sleep(2 * breakerFirst)
		probe := mustEnter(t, b)
		if wait, _ := probe.Revoked(); wait != 0 {
			t.Errorf("the probe is revoked for %v", wait)
		}
		if wait, _ := waiting.Revoked(); wait != probeTime {
			t.Errorf("revoked for %v while the probe runs, want %v", wait, probeTime)
		}
		probe.Success()
		probe.End()
		if wait, _ := waiting.Revoked(); wait != 0 {
			t.Errorf("revoked for %v although the relay answers again", wait)
		}
		waiting.End()
	})
}

// A limit of the relay opens the breaker at once, for a time that mails under way do not
// change; then a probe decides.
//
// Fault: is at a limit of its own: mails per day (550 5.4.5). Result: the lane pauses for
// limit_pause (1h) and says so.
func TestBreakerPausesForALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(3)
		first, lucky, unlucky, second := mustEnter(t, b), mustEnter(t, b), mustEnter(t, b), mustEnter(t, b)
		first.Pause(because("it is at its limit"), time.Hour)
		time.Sleep(time.Minute)
		lucky.Success()
		if away := unlucky.Failure(because("it closed the connection")); away < 59*time.Minute {
			t.Errorf("away for %v", away)
		}
		for _, p := range []*Permit{first, lucky, unlucky} {
			p.End()
		}
		var s verdict.RelayStatus
		b.Status(&s)
		if want := (verdict.RelayStatus{Breaker: verdict.Open, Wait: 59 * time.Minute, Reason: "it is at its limit", Limit: true, Busy: 1}); s != want {
			t.Fatalf("got %+v, want %+v", s, want)
		}
		time.Sleep(59 * time.Minute)
		probe := mustEnter(t, b)
		if p, wait, _ := b.Admit(); p != nil || wait != probeTime {
			t.Errorf("a second probe: %v, wait %v", p, wait)
		}
		probe.Pause(because("it is at its limit"), time.Hour)
		probe.End()
		time.Sleep(time.Hour)
		probe = mustEnter(t, b)
		second.Pause(because("it is at its limit"), time.Minute) // a mail that took two hours
		second.End()
		probe.Success()
		probe.End()
		if b.Status(&s); s.Breaker != verdict.Open || s.Wait != time.Minute {
			t.Errorf("got %+v", s)
		}
		time.Sleep(time.Minute)
		probe = mustEnter(t, b)
		probe.Success()
		probe.End()
		if b.Status(&s); s != (verdict.RelayStatus{Breaker: verdict.Closed}) {
			t.Errorf("got %+v after a probe that was accepted", s)
		}
		// A relay that goes down behind its limit is down.
		probe = mustEnter(t, b)
		probe.Pause(because("it is at its limit"), time.Minute)
		probe.End()
		time.Sleep(time.Minute)
		failTimes(t, b, 1)
		if b.Status(&s); s.Limit || s.Reason != "it is down" || !within80to120(s.Wait, 2*breakerFirst) {
			t.Errorf("got %+v", s)
		}
	})
}

func because(reason string) verdict.Outcome { return verdict.Outcome{Reason: reason} }

// A pause that another process has begun, or this one before a restart, keeps all mails
// away; an operator can end it.
//
// Fault: is at a limit of its own: mails per day (550 5.4.5). Result: the pause outlives the
// process.
func TestBreakerTakesOverAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(3)
		refusal := verdict.Outcome{Reason: "it is at its limit", Reply: "5.4.5 Daily limit"}
		b.Hold(refusal, time.Now()) // over
		mustEnter(t, b).End()
		b.Hold(refusal, time.Now().Add(time.Hour))
		b.Hold(because("earlier"), time.Now().Add(time.Minute))
		var s verdict.RelayStatus
		b.Status(&s)
		if want := (verdict.RelayStatus{Breaker: verdict.Open, Wait: time.Hour, Reason: refusal.Reason, Reply: refusal.Reply, Limit: true}); s != want {
			t.Fatalf("got %+v, want %+v", s, want)
		}
		b.Resume()
		probe := mustEnter(t, b)
		if p, _, _ := b.Admit(); p != nil {
			t.Error("two probes after the end of the pause")
		}
		probe.Success()
		probe.End()
		if b.Status(&s); s != (verdict.RelayStatus{Breaker: verdict.Closed}) {
			t.Errorf("got %+v after the probe", s)
		}
		// Only a limit's pause can be ended: a relay that is down is down.
		failTimes(t, b, 3)
		before := b.until
		b.Resume()
		if !b.until.Equal(before) {
			t.Error("a breaker that is open for failures was resumed")
		}
	})
}
