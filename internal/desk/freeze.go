package desk

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Freeze selects letters for a replay: all that match the query, or if numbers is not nil
// only those.
func (d *Desk) Freeze(q Query, numbers []uint64, withSuperseded bool) Frozen {
	return d.FreezeFor(ForReplay, q, numbers, withSuperseded)
}

// FreezeFor selects letters for a purpose: all that match the query, or if numbers is not
// nil only those. The selection is remembered for 15 minutes, so that an action can
// distinguish letters that have left since from letters that were never shown.
func (d *Desk) FreezeFor(purpose Purpose, q Query, numbers []uint64, withSuperseded bool) Frozen {
	if purpose == ForRestore {
		q.State = Discarded
	}
	d.mu.RLock()
	f, set := d.choose(purpose, q, numbers, withSuperseded)
	d.mu.RUnlock()
	d.shown.put(f.Hash, set)
	return f
}

// choose selects the letters, and counts what was left out. The lock is held.
func (d *Desk) choose(purpose Purpose, q Query, numbers []uint64, withSuperseded bool) (Frozen, []uint64) {
	q = q.fixed(time.Now())
	if known := d.letters.outcomes.highest(); q.AsOf == 0 || q.AsOf > known {
		q.AsOf = known
	}
	out := Frozen{Query: q, AsOf: q.AsOf, Purpose: purpose, Only: numbers, Named: numbers != nil, WithSuperseded: withSuperseded}
	var set []uint64
	x := d.of(q)
	if purpose.fits(q) != nil {
		x = newLetters(d.letters.hash, 0) // callers refuse it (CheckState): nothing is selected
	}
	choose := func(l *letter) {
		switch {
		case purpose == ForRestore && l.discard.tooLarge:
			out.Withheld++
			return
		case purpose == ForRestore:
		case purpose == ForRelease && l.hold == nil:
			return
		case purpose == ForRelease:
		case l.hold != nil:
			out.Held++
			return
		case l.run != nil:
			out.InRuns++
			return
		case purpose != ForReplay:
		case l.withheld || l.replaySubject() == "":
			out.Withheld++
			return
		case l.superseded != nil && !withSuperseded && (q.Superseded == nil || !*q.Superseded):
			out.Superseded++
			return
		}
		if l.uncertain() {
			out.Uncertain++
		}
		set = append(set, l.number)
	}
	if numbers != nil {
		for _, n := range slices.Compact(slices.Sorted(slices.Values(numbers))) {
			if l := x.find(n); l != nil {
				choose(l)
			}
		}
	} else {
		oldest := q
		oldest.Order = Oldest
		for l := range x.chosen(oldest.ready(), 0) {
			choose(l)
		}
	}
	out.Count, out.Hash, out.Numbers = len(set), hashNumbers(set), first(set)
	return out, set
}

// resolve returns the letters of a frozen query that are to be acted on: those that were
// shown, with their current counts. It selects again by the same query, which is bounded
// by AsOf, so letters that came later are not among them. Then:
//
//   - Letters that were shown and do not match any more (they have left, are held
//     or in a run by now) stay in the set. Each is checked when it is acted on,
//     and counted as gone or refused. Nothing is done to a letter that was not
//     shown.
//   - If a letter matches now that was not shown (its hold was released, for
//     example), the set has changed: the error is ErrChanged, with both counts.
//   - Only the process that showed a set remembers it. Another process (the page
//     came from another replica), or the same one after 15 minutes, acts only on
//     an identical set.
func (d *Desk) resolve(f Frozen, purpose Purpose) (Frozen, []uint64, error) {
	if f.Purpose == "" {
		f.Purpose = ForReplay
	}
	if f.Only != nil && (f.Purpose != purpose || f.Hash == "") {
		// The letters are named by number, so no query can have a different result.
		d.mu.RLock()
		defer d.mu.RUnlock()
		now, set := d.choose(purpose, f.Query, f.Only, f.WithSuperseded)
		return now, set, nil
	}
	q := f.Query
	q.AsOf = f.AsOf
	d.mu.RLock()
	now, set := d.choose(f.Purpose, q, f.Only, f.WithSuperseded)
	d.mu.RUnlock()
	if now.Hash == f.Hash {
		return now, set, nil
	}
	shown, known := d.shown.get(f.Hash)
	for _, n := range set {
		if _, found := slices.BinarySearch(shown, n); !found {
			known = false
			break
		}
	}
	if !known {
		return Frozen{}, nil, fmt.Errorf("%w: %d letters were shown, %d match now", ErrChanged, f.Count, now.Count)
	}
	now.Count, now.Hash, now.Numbers, now.Uncertain = len(shown), f.Hash, first(shown), d.uncertain(shown)
	return now, shown, nil
}

// first returns the numbers of a set that are shown: the first 20.
func first(set []uint64) []uint64 { return append([]uint64{}, set[:min(len(set), 20)]...) }

// Part splits a frozen query, for long work that reports its progress: its first letters,
// at most most, and the rest, whose Count is 0 in the end. The error is ErrChanged as for
// the whole query.
func (d *Desk) Part(f Frozen, most int) (part, rest Frozen, err error) {
	now, set, err := d.resolve(f, f.Purpose)
	if err != nil {
		return Frozen{}, Frozen{}, err
	}
	split := min(most, len(set))
	now.Act = f.Act // the parts are one act
	part, rest = now, now
	part.Only, part.Named, part.Hash = set[:split], true, "" // letters that have left are skipped
	part.Count, part.Numbers = split, first(part.Only)
	left := set[split:]
	if split > 0 {
		rest.Query.Above = set[split-1]
	}
	if f.Only != nil {
		rest.Only = left
	}
	rest.Count, rest.Hash, rest.Numbers = len(left), hashNumbers(left), first(left)
	if f.Query.Above != 0 {
		d.shown.forget(f.Hash) // a rest of an earlier Part: only its caller knew it
	}
	d.shown.put(rest.Hash, left)
	return part, rest, nil
}

// Limits of the sets that are remembered.
const (
	shownFor = 15 * time.Minute
	maxShown = 100
	maxBytes = 16 << 20
)

// shown is the sets of letters that were shown recently, by their hash.
type shown struct {
	mu    sync.Mutex
	sets  []shownSet // the oldest first
	bytes int
}

type shownSet struct {
	hash    string
	numbers []byte // encoded
	at      time.Time
}

func (s *shown) put(hash string, numbers []uint64) {
	encoded := encodeNumbers(numbers)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(func(i int) bool { return s.sets[i].hash == hash })
	s.sets = append(s.sets, shownSet{hash, encoded, time.Now()})
	s.bytes += len(encoded)
	for len(s.sets) > 1 && (s.bytes > maxBytes || len(s.sets) > maxShown || time.Since(s.sets[0].at) > shownFor) {
		s.drop(func(i int) bool { return i == 0 })
	}
}

func (s *shown) forget(hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(func(i int) bool { return s.sets[i].hash == hash })
}

// drop removes the sets that match. The lock is held.
func (s *shown) drop(fits func(i int) bool) {
	for i := len(s.sets) - 1; i >= 0; i-- {
		if fits(i) {
			s.bytes -= len(s.sets[i].numbers)
			s.sets = slices.Delete(s.sets, i, i+1)
		}
	}
}

func (s *shown) get(hash string) ([]uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.sets {
		if set.hash == hash && time.Since(set.at) <= shownFor {
			return decodeNumbers(set.numbers)
		}
	}
	return nil, false
}
