package desk

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// group is the open letters of one cause, with everything that is shown of it kept
// up to date as they come and go.
type group struct {
	fingerprint     string
	code            verdict.Code
	phase           verdict.Phase
	lane, enhanced  string
	label           string // of the fields above, for searching
	byNumber        sorted
	byExpiry        sorted
	current         sorted // by expiry: those with a certificate, and not superseded
	held, uncertain int
	superseded      int
	hours           hours
	targets         map[unique.Handle[string]]int
	top             []string // of the targets; nil: to be found anew
}

// maxTargets is how many targets of a group are named.
const maxTargets = 20

func newGroup(d *broker.DeadLetter) *group {
	return emptyGroup(&group{
		fingerprint: Fingerprint(d.Code, d.Phase, d.Lane, d.EnhancedCode),
		code:        verdict.Code(strings.Clone(string(d.Code))), phase: verdict.Phase(strings.Clone(string(d.Phase))),
		lane: strings.Clone(d.Lane), enhanced: strings.Clone(d.EnhancedCode),
		label: strings.Join([]string{string(d.Code), string(d.Code.Class()), string(d.Phase), d.Lane, d.EnhancedCode}, " "),
	})
}

// emptyGroup is a group of the same cause without letters.
func emptyGroup(g *group) *group {
	return &group{
		fingerprint: g.fingerprint, code: g.code, phase: g.phase, lane: g.lane, enhanced: g.enhanced, label: g.label,
		byNumber: sorted{compare: byNumber}, byExpiry: sorted{compare: byExpiry}, current: sorted{compare: byExpiry},
		targets: map[unique.Handle[string]]int{},
	}
}

func (g *group) add(l *letter) {
	g.byNumber.insert(l)
	g.byExpiry.insert(l)
	g.hours.add(l.at, 1)
	g.targets[l.target]++
	g.top = nil
	g.count(l, 1)
}

func (g *group) remove(l *letter) {
	g.byNumber.remove(l)
	g.byExpiry.remove(l)
	g.hours.add(l.at, -1)
	if g.targets[l.target]--; g.targets[l.target] == 0 {
		delete(g.targets, l.target)
	}
	g.top = nil
	g.count(l, -1)
}

// count adds a letter's state to the sums, or with -1 takes it out; what changes
// the state does both around it.
func (g *group) count(l *letter, by int) {
	if l.hold != nil {
		g.held += by
	}
	if l.uncertain() {
		g.uncertain += by
	}
	switch {
	case l.superseded != nil:
		g.superseded += by
	case l.hasLeaf && by > 0:
		g.current.insert(l)
	case l.hasLeaf:
		g.current.remove(l)
	}
}

// rank finds the most touched targets, once after each change. The lock for
// writing is held.
func (g *group) rank() {
	if g.top != nil {
		return
	}
	all := slices.SortedFunc(maps.Keys(g.targets), func(a, b unique.Handle[string]) int {
		return cmp.Or(cmp.Compare(g.targets[b], g.targets[a]), cmp.Compare(a.Value(), b.Value()))
	})
	g.top = make([]string, 0, min(len(all), maxTargets))
	for _, t := range all[:min(len(all), maxTargets)] {
		g.top = append(g.top, t.Value())
	}
}

// view is the group as others see it; it has letters, and is ranked.
func (g *group) view(now time.Time) Group {
	oldest, newest := g.byNumber.first(), g.byNumber.last()
	cause, remedy := Explain(g.code, g.phase)
	out := Group{
		Fingerprint: g.fingerprint, Code: g.code, Class: g.code.Class(), Phase: g.phase, Relay: g.lane, EnhancedCode: g.enhanced,
		Count: g.byNumber.size, Held: g.held, Superseded: g.superseded, Uncertain: g.uncertain,
		First: moment0(oldest.at), Last: moment0(newest.at), Hours: g.hours.last24(now),
		Targets: slices.Clone(g.top), TargetCount: len(g.targets), Reason: newest.reason.Value(),
		Cause: cause, Remedy: remedy, Example: newest.number,
	}
	if soonest := g.current.first(); soonest != nil {
		out.SoonestExpiry = time.Unix(soonest.notAfter, 0).UTC()
	}
	return out
}

// hours counts what happened in each of the last hours. The zero value is ready.
type hours struct {
	newest int64 // hours since 1970
	counts [48]int
}

// add counts something at a moment (Unix nanoseconds), or with -1 takes it back.
// What is older than the newest by two days is not counted.
func (h *hours) add(at int64, by int) {
	hour := at / int64(time.Hour)
	n := int64(len(h.counts))
	if hour <= h.newest-n || at <= 0 {
		return
	}
	for ; h.newest < hour; h.newest++ {
		if hour-h.newest > n {
			h.newest = hour - n
		}
		h.counts[(h.newest+1)%n] = 0
	}
	if c := &h.counts[hour%n]; *c+by >= 0 {
		*c += by
	}
}

// last24 are the 24 hours up to now, the oldest first.
func (h *hours) last24(now time.Time) (out [24]int) {
	last := now.UnixNano() / int64(time.Hour)
	n := int64(len(h.counts))
	for i := range int64(24) {
		if hour := last - 23 + i; hour <= h.newest && hour > h.newest-n {
			out[i] = h.counts[hour%n]
		}
	}
	return out
}
