package desk

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// keepsTo checks that no span of the rate contains more of the times than it allows.
func keepsTo(t *testing.T, rate verdict.Rate, times []time.Time) {
	t.Helper()
	slices.SortFunc(times, time.Time.Compare)
	for i := rate.Count; i < len(times); i++ {
		if span := times[i].Sub(times[i-rate.Count]); span < rate.Per {
			t.Fatalf("%v: publications %d to %d are within %v", rate, i-rate.Count, i, span)
		}
	}
}

// However long publishing takes, and however often another process takes over: no span of
// the rate has more letters than it allows, and not many fewer.
func TestPacing(t *testing.T) {
	t.Parallel()
	for _, rate := range []verdict.Rate{{Count: 1, Per: time.Second}, {Count: 10, Per: time.Minute}, {Count: 17, Per: time.Second}, {Count: 20, Per: time.Second},
		{Count: 997, Per: time.Second}, {Count: 500, Per: 24 * time.Hour}, {Count: 7, Per: time.Hour}} {
		for _, slow := range []time.Duration{10 * time.Millisecond, 3 * time.Second} {
			seed := rand.Uint64()
			r := rand.New(rand.NewPCG(seed, 1))
			what := fmt.Sprintf("%v, %v, seed %d", rate, slow, seed)
			began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			now, taken := began, 0
			p := newPacing(rate, nil, now)
			var published, ended []time.Time
			for steps := 0; len(published) < 3*rate.Count+50; steps++ {
				if steps > 1_000_000 {
					t.Fatalf("%s: stuck after %d", what, len(published))
				}
				if r.IntN(40) == 0 && taken < 20 { // paused, and continued by a process that has read the audit
					taken++
					now = now.Add(time.Duration(r.Int64N(int64(2 * time.Second))))
					p = newPacing(rate, slices.Clone(ended), now)
				}
				n, again := p.room(now)
				if n == 0 {
					if !again.After(now) {
						t.Fatalf("%s: no letter now, and no time to wait", what)
					}
					now = again
					continue
				}
				n = min(n, 1+r.IntN(actsAtOnce))
				took := time.Duration(r.Int64N(int64(slow)))
				for range n {
					published = append(published, now.Add(time.Duration(r.Int64N(int64(took)+1))))
					ended = append(ended, now.Add(took))
				}
				now = now.Add(took)
				p.spend(n, now)
			}
			keepsTo(t, rate, published)
			// Not slower than the rate, except for the time of publishing and of pauses.
			want := time.Duration(float64(rate.Per) * float64(len(published)) / float64(rate.Count) * 1.1)
			if took := now.Sub(began) - time.Duration(taken)*2*time.Second; slow < time.Second && took > want+rate.Per {
				t.Errorf("%s: %d letters took %v, want at most %v", what, len(published), took, want)
			}
			if len(p.bursts) > 1002 {
				t.Errorf("%s: %d spells are remembered", what, len(p.bursts))
			}
		}
	}
	// Another machine's clock is ahead: the pacing does not wait for it.
	now := time.Now()
	p := newPacing(verdict.Rate{Count: 1, Per: time.Second}, []time.Time{now.Add(time.Hour)}, now)
	if n, again := p.room(now); n != 0 || again.Sub(now) > time.Second {
		t.Errorf("%d, again in %v", n, again.Sub(now))
	}
}

// tries returns when a run's letters were claimed, which is right before they are
// published.
func (x *fixture) tries(run string) (times []time.Time) {
	x.t.Helper()
	last := map[uint64]time.Time{}
	for r, err := range x.b.ReadAudit(x.t.Context(), 1) {
		if err != nil {
			x.t.Fatal(err)
		}
		if r.Run == run && r.Stage == broker.StageIntent {
			last[r.LetterNumber] = r.Time // one with two intents is published once, under one message id
		}
	}
	return slices.Collect(maps.Values(last))
}

// Pausing and resuming does not exceed the rate, whichever process continues.
func TestRateHoldsAcrossPauses(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	other, _ := x.desk(nil)
	ctx := t.Context()
	const n = 24
	x.letters(d, "ops", 0, n)
	x.courier.succeed("ops")
	rate := verdict.Rate{Count: 6, Per: time.Second}
	r := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false), Rate: rate})
	for seen := 0; ; {
		x.until("more is published", func() bool {
			now, _ := other.RunOf(r.ID)
			more := now.Published > seen || !now.State.unfinished()
			seen = now.Published
			return more
		})
		if seen == n {
			break
		}
		if err := other.PauseRun(ctx, me, r.ID, ""); err != nil {
			t.Fatal(err)
		}
		x.until("its worker has released it", func() bool {
			a, _ := d.RunOf(r.ID)
			b, _ := other.RunOf(r.ID)
			return a.State == RunPaused && a.Worker == "" && b.Worker == ""
		})
		if err := d.ResumeRun(ctx, me, r.ID, ""); err != nil {
			t.Fatal(err)
		}
	}
	if r = x.reaches(d, r.ID, RunDone); r.Delivered != n {
		t.Errorf("%+v", r)
	}
	times := x.tries(r.ID)
	if len(times) < n {
		t.Errorf("%d tries for %d letters", len(times), n)
	}
	keepsTo(t, rate, times)
}
