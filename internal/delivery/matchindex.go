package delivery

import (
	"slices"
	"strings"
)

// matchIndex finds the targets that can match an event. Its cost grows with what an event
// holds and with what may match it, not with the number of targets. It only narrows: each
// candidate is still compared in full, so an entry too many costs time and nothing else.
type matchIndex struct {
	bySuffix map[string][]int // by the whole labels at the end that one of the DNS globs requires
	byLabel  map[label][]int  // by a label that must have exactly this value
	rest     []int            // whose conditions fix no such text: always candidates
}

type label struct{ key, value string }

// newMatchIndex indexes the targets whose matchers are made. A target without Match, or a
// disabled one, is no candidate for any event.
func newMatchIndex(targets []*Target) *matchIndex {
	x := &matchIndex{bySuffix: make(map[string][]int), byLabel: make(map[label][]int)}
	for i, t := range targets {
		if t.Match == nil || t.Disabled {
			continue
		}
		if suffixes, ok := t.matcher.suffixes(); ok {
			for _, s := range suffixes {
				x.bySuffix[s] = append(x.bySuffix[s], i)
			}
			continue
		}
		if l, ok := t.matcher.exactLabel(); ok {
			x.byLabel[l] = append(x.byLabel[l], i)
			continue
		}
		x.rest = append(x.rest, i)
	}
	return x
}

// candidates returns the indexes of the targets that may match, in the order in which the
// targets are defined.
func (x *matchIndex) candidates(f facts) []int {
	found := slices.Clone(x.rest)
	for _, n := range f.dnsNames {
		found = x.appendSuffixes(found, n.ascii)
		if n.unicode != n.ascii {
			found = x.appendSuffixes(found, n.unicode)
		}
	}
	if len(x.byLabel) > 0 {
		for key, value := range f.labels {
			found = append(found, x.byLabel[label{key, value}]...)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// appendSuffixes appends the targets of a name and of each of its parents.
func (x *matchIndex) appendSuffixes(found []int, text string) []int {
	for more := true; more; _, text, more = strings.Cut(text, ".") {
		found = append(found, x.bySuffix[text]...)
	}
	return found
}

// suffixes returns, for each DNS glob, the labels that a matching name must end with. It
// reports false if there is no DNS glob, or one without such labels.
func (m *matcher) suffixes() (all []string, ok bool) {
	for _, g := range m.dnsNames {
		for _, form := range []glob{g.ascii, g.unicode} {
			s, ok := form.labelSuffix()
			if !ok {
				return nil, false
			}
			all = append(all, s)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), len(all) > 0
}

// labelSuffix is the literal end of the pattern, from the start of a label on: all of a
// pattern without wildcards, and "example.com" for "*.example.com" and "a*b.example.com".
func (g glob) labelSuffix() (string, bool) {
	if len(g.parts) == 1 {
		return g.parts[0], true
	}
	_, suffix, ok := strings.Cut(g.parts[len(g.parts)-1], ".")
	return suffix, ok
}

// exactLabel returns a label that a matching event must have with exactly one value. Of
// several it takes the one that sorts first, so that equal definitions give equal indexes.
func (m *matcher) exactLabel() (label, bool) {
	var exact []label
	for key, g := range m.labels {
		if len(g.parts) == 1 {
			exact = append(exact, label{key, g.parts[0]})
		}
	}
	if exact == nil {
		return label{}, false
	}
	return slices.MinFunc(exact, func(a, b label) int { return strings.Compare(a.key, b.key) }), true
}
