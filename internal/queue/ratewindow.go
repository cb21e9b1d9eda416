package queue

import (
	"slices"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// windowParts is the number of parts into which a rate's period is divided. The window
// is one part longer than the period, so that a part counts as long as any of its mails
// is not older than the period.
const windowParts = 20

// rateWindow counts the mails that a relay was given recently: the value at key
// rate.<relay> of the bucket CERTPOST_RELAYS.
type rateWindow struct {
	Relay string `json:"relay"`
	Limit string `json:"limit"` // for operators; only the configuration's limit applies
	Parts []part `json:"parts"`
}

// part counts the mails begun in a twentieth of the limit's period.
type part struct {
	Start time.Time `json:"start"`
	Mails int       `json:"mails"`
}

// windowLength returns how long a part counts, from its start.
func windowLength(limit verdict.Rate) time.Duration {
	return limit.Per + limit.Per/windowParts
}

// room returns how many mails the relay may be given now; when it is none, also how long
// until it is one.
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

// add counts mails that begin now.
func (w *rateWindow) add(limit verdict.Rate, mails int, now time.Time) {
	start := now.Truncate(limit.Per / windowParts)
	if i := slices.IndexFunc(w.Parts, func(p part) bool { return p.Start.Equal(start) }); i >= 0 {
		w.Parts[i].Mails += mails
		return
	}
	w.Parts = append(w.Parts, part{start, mails})
	slices.SortFunc(w.Parts, func(a, b part) int { return a.Start.Compare(b.Start) })
}

// forget removes the parts that no longer count, and those that a clock far ahead has
// written: they would count for as long as that clock was ahead.
func (w *rateWindow) forget(limit verdict.Rate, now time.Time) {
	from, to := now.Add(-windowLength(limit)), now.Add(limit.Per+time.Minute)
	w.Parts = slices.DeleteFunc(w.Parts, func(p part) bool { return !p.Start.After(from) || p.Start.After(to) })
}
