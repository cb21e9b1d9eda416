package desk

import (
	"slices"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// pacing keeps a run to its rate: in any span of rate.Per at most rate.Count letters are
// published, evenly except for what maxCatchUp allows. It assumes the latest time at
// which a publication can have happened, so that a slow one is not too close to the next.
//
// A worker that takes a run over, or continues it, gets the earlier publications from the
// audit: see tracker.spent.
type pacing struct {
	rate   verdict.Rate // zero: no limit
	bursts []burst      // within the last rate.Per, in order
	spent  int          // letters in them
	due    time.Time    // when the next letter is due at an even rate; zero: now
}

// burst is letters that were published shortly after each other.
type burst struct {
	since, until time.Time
	letters      int
}

// maxCatchUp is how much unused time of a rate is made up for.
const maxCatchUp = 200 * time.Millisecond

// newPacing continues after letters that were published at these times.
func newPacing(rate verdict.Rate, spent []time.Time, now time.Time) *pacing {
	p := &pacing{rate: rate}
	slices.SortFunc(spent, time.Time.Compare)
	for _, at := range spent {
		if at.After(now) {
			at = now // another machine's clock is ahead
		}
		if now.Sub(at) < rate.Per {
			p.spend(1, at)
		}
	}
	if last := len(p.bursts) - 1; last >= 0 {
		p.due = p.bursts[last].until.Add(p.interval())
	}
	return p
}

func (p *pacing) interval() time.Duration {
	return max(p.rate.Per/time.Duration(max(p.rate.Count, 1)), 1)
}

// room is how many letters may be published now, and, if none, when to ask again.
func (p *pacing) room(now time.Time) (letters int, again time.Time) {
	if p.rate.IsZero() {
		return actsAtOnce, now
	}
	over := 0
	for over < len(p.bursts) && now.Sub(p.bursts[over].until) >= p.rate.Per {
		p.spent -= p.bursts[over].letters
		over++
	}
	p.bursts = slices.Delete(p.bursts, 0, over)
	if p.spent >= p.rate.Count {
		return 0, p.bursts[0].until.Add(p.rate.Per)
	}
	if now.Before(p.due) {
		return 0, p.due
	}
	if p.due.IsZero() {
		p.due = now
	}
	if earliest := now.Add(-maxCatchUp); p.due.Before(earliest) {
		p.due = earliest
	}
	return min(p.rate.Count-p.spent, 1+int(now.Sub(p.due)/p.interval())), now
}

// spend records that letters were published, or may have been, the last of them before
// now.
func (p *pacing) spend(letters int, now time.Time) {
	if p.rate.IsZero() || letters == 0 {
		return
	}
	p.spent += letters
	p.due = p.due.Add(time.Duration(letters) * p.interval())
	// A thousandth of the span is accurate enough, and bounds the number of bursts.
	if last := len(p.bursts) - 1; last >= 0 && now.Sub(p.bursts[last].since) < p.rate.Per/1000 {
		p.bursts[last].until = now
		p.bursts[last].letters += letters
		return
	}
	p.bursts = append(p.bursts, burst{now, now, letters})
}
