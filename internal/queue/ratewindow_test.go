package queue

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// For any pattern of calls, no period of the limit's length has more mails than the limit,
// and a caller that always asks gets at least 20/22 of it.
func TestWindowHoldsInEverySpan(t *testing.T) {
	for _, limit := range []verdict.Rate{{Count: 14, Per: time.Second}, {Count: 1, Per: time.Second}, {Count: 500, Per: 24 * time.Hour}, {Count: 100, Per: time.Minute}} {
		t.Run(limit.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seed := rand.Uint64()
				random := rand.New(rand.NewPCG(seed, 1))
				var w rateWindow
				var given []time.Time
				begin := time.Now()
				for time.Since(begin) < 10*limit.Per {
					n, wait := w.room(limit, time.Now())
					if n == 0 {
						if wait <= 0 || wait > windowLength(limit) {
							t.Fatalf("seed %d: wait %v", seed, wait)
						}
						time.Sleep(wait)
						continue
					}
					n = min(n, 1+random.IntN(limit.Count))
					w.add(limit, n, time.Now())
					for range n {
						given = append(given, time.Now())
					}
					if random.IntN(4) == 0 {
						time.Sleep(time.Duration(random.Int64N(int64(limit.Per / 3))))
					}
				}
				for i, at := range given {
					if i >= limit.Count && at.Sub(given[i-limit.Count]) < limit.Per {
						t.Fatalf("seed %d: %d mails within %v", seed, limit.Count+1, at.Sub(given[i-limit.Count]))
					}
				}
				if least := limit.Count * 9; len(given) < least {
					t.Errorf("seed %d: %d mails in ten spans, want at least %d", seed, len(given), least)
				}
				if len(w.Parts) > windowParts+2 {
					t.Errorf("%d parts are kept", len(w.Parts))
				}
			})
		})
	}
}

// Fault: clocks that jump. Result: and rates from the future are not waited for.
func TestWindowWhenLimitsAndClocksChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		day := verdict.Rate{Count: 500, Per: 24 * time.Hour}
		var w rateWindow
		w.add(day, 400, time.Now())
		time.Sleep(2 * time.Hour)
		w.add(day, 50, time.Now())
		if n, _ := w.room(day, time.Now()); n != 50 {
			t.Errorf("room for %d, want 50", n)
		}
		// The limit is lowered: the older part has to leave the window first.
		if n, wait := w.room(verdict.Rate{Count: 300, Per: 24 * time.Hour}, time.Now()); n != 0 || wait < 22*time.Hour || wait > 24*time.Hour {
			t.Errorf("room for %d in %v", n, wait)
		}
		// A part written by a clock a month ahead must not stop the relay for a month.
		w.add(day, 500, time.Now().Add(30*24*time.Hour))
		if n, _ := w.room(day, time.Now()); n != 50 {
			t.Errorf("room for %d after a wrong clock, want 50", n)
		}
		if n, _ := w.room(verdict.Rate{Count: 14, Per: time.Second}, time.Now().Add(2*time.Second)); n != 14 {
			t.Errorf("room for %d under a shorter span, want 14", n)
		}
	})
}
