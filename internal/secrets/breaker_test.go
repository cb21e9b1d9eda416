package secrets

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &breaker{threshold: 3, least: time.Second, most: 8 * time.Second}
		why := &Error{Kind: ErrUnavailable, What: "away"}
		admit := func() permit {
			t.Helper()
			p, last, wait := b.admit()
			if last != nil {
				t.Fatalf("not admitted: %v, wait %v", last, wait)
			}
			return p
		}
		refused := func() time.Duration {
			t.Helper()
			_, last, wait := b.admit()
			if last != why || wait <= 0 {
				t.Fatalf("admitted while open (%v, %v)", last, wait)
			}
			return wait
		}

		// A success in between starts the count again.
		for range 2 {
			admit().failed(why)
		}
		admit().succeeded()
		var late []permit
		for range 10 {
			late = append(late, admit())
		}
		for range 2 {
			if admit().failed(why) || b.failure() != nil {
				t.Fatal("open before the threshold")
			}
		}
		if !admit().failed(why) || b.failure() != why {
			t.Fatal("not open at the threshold")
		}

		// Failures of requests from before the opening do not make the pause longer.
		for _, p := range late {
			if p.failed(why) {
				t.Fatal("opened twice")
			}
		}
		for _, most := range []time.Duration{1, 2, 4, 8, 8, 8} {
			wait := refused()
			if wait > most*time.Second || wait < most*time.Second/2 {
				t.Fatalf("a pause of %v, want at most %d s", wait, most)
			}
			time.Sleep(wait)
			trial := admit()
			refused() // one trial at a time
			if trial.failed(why) {
				t.Fatal("a failed trial reports that it opened the breaker")
			}
		}

		// An abandoned trial makes room for the next one.
		time.Sleep(8 * time.Second)
		admit().abandoned()
		if !admit().succeeded() || b.failure() != nil {
			t.Fatal("a successful trial does not close the breaker")
		}
		for range 2 {
			admit().failed(why)
		}
		if b.failure() != nil {
			t.Fatal("failures from before the success are counted")
		}
		admit().failed(why)
		if wait := refused(); wait > time.Second {
			t.Fatalf("the pauses do not start again: %v", wait)
		}
	})
}
