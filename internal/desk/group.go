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

// group is the open letters of one cause, with sums that are updated as letters come and
// go.
type group struct {
	fingerprint     string
	code            verdict.Code
	phase           verdict.Phase
	lane, enhanced  string
	toFix           string
	label           string // of the fields above, for text search
	byNumber        orderedIndex
	byExpiry        orderedIndex
	current         orderedIndex // by expiry: letters with a certificate that is not superseded
	held, uncertain int
	superseded      int
	hours           hours
	targets         map[unique.Handle[string]]int
	top             []string       // targets with the most letters; nil: to be computed by rank
	advice          map[string]int // letters by the advice of their reason (adviceOf)
}

// maxTargets is how many targets of a group are listed.
const maxTargets = 20

func newGroup(d *broker.DeadLetter) *group {
	return emptyGroup(&group{
		fingerprint: fingerprintOf(d),
		code:        verdict.Code(strings.Clone(string(d.Code))), phase: verdict.Phase(strings.Clone(string(d.Phase))),
		lane: strings.Clone(d.Lane), enhanced: strings.Clone(d.EnhancedCode), toFix: strings.Clone(toFix(d)),
		label: strings.Join([]string{string(d.Code), string(d.Code.Class()), string(d.Phase), d.Lane, d.EnhancedCode, toFix(d)}, " "),
	})
}

// emptyGroup returns a group of the same cause without letters.
func emptyGroup(g *group) *group {
	return &group{
		fingerprint: g.fingerprint, code: g.code, phase: g.phase, lane: g.lane, enhanced: g.enhanced, toFix: g.toFix, label: g.label,
		byNumber: orderedIndex{compare: byNumber}, byExpiry: orderedIndex{compare: byExpiry}, current: orderedIndex{compare: byExpiry},
		targets: map[unique.Handle[string]]int{}, advice: map[string]int{},
	}
}

func (g *group) add(l *letter) {
	g.byNumber.insert(l)
	g.byExpiry.insert(l)
	g.hours.add(l.at, 1)
	if l.target.Value() != "" { // an event that no target matches has none
		g.targets[l.target]++
	}
	g.countAdvice(l, 1)
	g.top = nil
	g.count(l, 1)
}

func (g *group) remove(l *letter) {
	g.byNumber.remove(l)
	g.byExpiry.remove(l)
	g.hours.add(l.at, -1)
	if g.targets[l.target]--; g.targets[l.target] <= 0 {
		delete(g.targets, l.target)
	}
	g.countAdvice(l, -1)
	g.top = nil
	g.count(l, -1)
}

// count adds a letter's state to the sums, or with -1 subtracts it. Whatever changes the
// state subtracts before and adds after (letters.alter).
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

func (g *group) countAdvice(l *letter, by int) {
	advice := adviceOf(g.code, g.phase, l.reason.Value())
	if g.advice[advice] += by; g.advice[advice] == 0 {
		delete(g.advice, advice)
	}
}

// commonAdvice returns the advice that all reasons of the group have, "" if they differ.
func (g *group) commonAdvice() string {
	if len(g.advice) == 1 {
		for advice := range g.advice {
			return advice
		}
	}
	return ""
}

// rank finds the targets with the most letters, once after each change. The lock for
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

// view returns the exported form. The group has letters, and is ranked.
func (g *group) view(now time.Time) Group {
	oldest, newest := g.byNumber.first(), g.byNumber.last()
	cause, remedy := Explain(g.code, g.phase, g.commonAdvice())
	out := Group{
		Fingerprint: g.fingerprint, Code: g.code, Class: g.code.Class(), Phase: g.phase, Lane: g.lane, EnhancedCode: g.enhanced, ToFix: g.toFix,
		Count: g.byNumber.size, Held: g.held, Superseded: g.superseded, Uncertain: g.uncertain,
		First: fromNanoseconds(oldest.at), Last: fromNanoseconds(newest.at), Hours: g.hours.last24(now),
		Targets: slices.Clone(g.top), TargetCount: len(g.targets), Reason: newest.reason.Value(),
		Cause: cause, Remedy: remedy, Example: newest.number,
	}
	if soonest := g.current.first(); soonest != nil {
		out.SoonestExpiry = time.Unix(soonest.notAfter, 0).UTC()
	}
	return out
}

// hours counts events by hour, for the last 48 hours. The zero value is ready.
type hours struct {
	newest int64 // hours since 1970
	counts [48]int
}

// add counts an event at a time (Unix nanoseconds), or with -1 takes it back. Events 48
// hours older than the newest are not counted.
func (h *hours) add(at int64, by int) {
	if at <= 0 {
		return
	}
	if c := place(h.counts[:], &h.newest, at/int64(time.Hour)); c != nil && *c+by >= 0 {
		*c += by
	}
}

// last24 returns the counts of the 24 hours up to now, the oldest first.
func (h *hours) last24(now time.Time) (out [24]int) {
	last := now.UnixNano() / int64(time.Hour)
	for i := range out {
		out[i] = countOf(h.counts[:], h.newest, last-23+int64(i))
	}
	return out
}

// place returns the counter of a span of time in a ring of the newest spans; spans are
// numbered. It is nil for a span older than the ring. A newer span takes the place of the
// oldest.
func place(counts []int, newest *int64, span int64) *int {
	n := int64(len(counts))
	if span < 0 || span <= *newest-n {
		return nil
	}
	*newest = max(*newest, span-n)
	for ; *newest < span; *newest++ {
		counts[(*newest+1)%n] = 0
	}
	return &counts[span%n]
}

// countOf returns the count of a span, 0 if the ring does not have it.
func countOf(counts []int, newest, span int64) int {
	n := int64(len(counts))
	if span > newest || span <= newest-n {
		return 0
	}
	return counts[span%n]
}
