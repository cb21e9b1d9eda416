package queue

import (
	"slices"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// windowParts is how many parts a rate's span is counted in. The window is one
// part longer than the span, so that a part counts as long as any of its mails is
// not older than the span.
const windowParts = 20

// window is the mails that a relay was given of late: the value at key
// rate.<relay> of the bucket CERTPOST_RELAYS.
type rateWindow struct {
	Relay string `json:"relay"`
	Limit string `json:"limit"` // for people; what counts is the configuration
	Parts []part `json:"parts"`
}

// part is the mails begun in a twentieth of the limit's span.
type part struct {
	Start time.Time `json:"start"`
	Mails int       `json:"mails"`
}

// length is how long a part counts from its start.
func windowLength(limit verdict.Rate) time.Duration {
	return limit.Per + limit.Per/windowParts
}

// room is how many mails the relay may be given now, and when there is room for
// none, how long until there is for one.
func (w *rateWindow) room(limit verdict.Rate, now time.Time) (n int, wait time.Duration) {
	w.forget(limit, now)
	n = limit.Count
	for _, p := range w.Parts {
		n -= p.Mails
	}
	if n > 0 {
		return n, 0
	}
	for _, p := range w.Parts {
		if n += p.Mails; n > 0 {
			return 0, max(p.Start.Add(windowLength(limit)).Sub(now), time.Millisecond)
		}
	}
	return 0, limit.Per
}

// add counts mails that are begun now.
func (w *rateWindow) add(limit verdict.Rate, mails int, now time.Time) {
	start := now.Truncate(limit.Per / windowParts)
	if i := slices.IndexFunc(w.Parts, func(p part) bool { return p.Start.Equal(start) }); i >= 0 {
		w.Parts[i].Mails += mails
		return
	}
	w.Parts = append(w.Parts, part{start, mails})
	slices.SortFunc(w.Parts, func(a, b part) int { return a.Start.Compare(b.Start) })
}

// forget drops parts that count no more, and those of a clock that was far ahead:
// they would count for as long as it was.
func (w *rateWindow) forget(limit verdict.Rate, now time.Time) {
	from, to := now.Add(-windowLength(limit)), now.Add(limit.Per+time.Minute)
	w.Parts = slices.DeleteFunc(w.Parts, func(p part) bool { return !p.Start.After(from) || p.Start.After(to) })
}
