package desk

import (
	"cmp"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/certpost/certpost/internal/broker"
)

// letters is the index of open letters. Desk.mu guards it.
type letters struct {
	hash       hasher
	limit      int // of letters kept in detail
	byNumber   orderedIndex
	byExpiry   orderedIndex
	groups     map[string]*group
	outcomes   outcomes
	restored   int
	dead       hours                // letters that came, whatever became of them
	deliveries map[uint64]uint64    // target and event, hashed -> the newest letter of theirs
	named      map[uint64][]*letter // target and primary name, hashed
	targets    map[unique.Handle[string]]*tally
	goneExpiry map[uint64]int64 // when the certificates of letters that left lately expire
	since      time.Time        // of the first letter known
}

// tally is what is known of a target's letters.
type tally struct {
	open int
	last int64 // Unix nanoseconds, of the newest letter there ever was
}

// maxGone bounds what is remembered for those who are turning pages.
const maxGone = 20_000

func newLetters(hash hasher, limit int) *letters {
	return &letters{
		hash: hash, limit: limit, byNumber: orderedIndex{compare: byNumber}, byExpiry: orderedIndex{compare: byExpiry},
		groups: map[string]*group{}, deliveries: map[uint64]uint64{}, named: map[uint64][]*letter{},
		targets: map[unique.Handle[string]]*tally{}, goneExpiry: map[uint64]int64{},
	}
}

// hasher makes the short forms of what is looked up exactly. Two of a million have
// the same once in 40 million times; they leave the process nowhere.
type hasher struct{ seed maphash.Seed }

func newHasher() hasher { return hasher{maphash.MakeSeed()} }

func (s hasher) of(parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	for _, p := range parts {
		_, _ = h.WriteString(p)
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

// put adds a letter that the stream has; l is d, made ready by newLetter.
func (x *letters) put(d *broker.DeadLetter, l *letter) {
	if x.outcomes.isOpen(l.number) && x.find(l.number) != nil {
		return // read again
	}
	x.outcomes.setOpen(l.number)
	if x.outcomes.count(l.number) {
		x.dead.add(l.at, 1)
	}
	if at := time.Unix(0, l.at).UTC(); x.since.IsZero() || at.Before(x.since) {
		x.since = at
	}
	t := x.targets[l.target]
	if t == nil {
		t = &tally{}
		x.targets[l.target] = t
	}
	t.last = max(t.last, l.at)
	if x.byNumber.size >= x.limit {
		oldest := x.byNumber.first()
		if oldest.number > l.number {
			return // open, and not kept in detail
		}
		x.take(oldest)
	}
	t.open++
	fingerprint := Fingerprint(d.Code, d.Phase, d.Lane, d.EnhancedCode)
	if l.group = x.groups[fingerprint]; l.group == nil {
		l.group = newGroup(d)
		x.groups[fingerprint] = l.group
	}
	l.setRareFields(d)
	x.byNumber.insert(l)
	x.byExpiry.insert(l)
	l.group.add(l)
	if key := x.delivery(l); x.deliveries[key] < l.number {
		x.deliveries[key] = l.number
	}
	if key, ok := x.pairOf(l); ok {
		x.named[key] = append(x.named[key], l)
	}
}

// take removes a letter from all that is kept in detail.
func (x *letters) take(l *letter) {
	x.byNumber.remove(l)
	x.byExpiry.remove(l)
	l.group.remove(l)
	if l.group.byNumber.size == 0 {
		delete(x.groups, l.group.fingerprint)
	}
	if key := x.delivery(l); x.deliveries[key] == l.number {
		delete(x.deliveries, key)
	}
	if key, ok := x.pairOf(l); ok {
		rest := slices.DeleteFunc(x.named[key], func(o *letter) bool { return o == l })
		if x.named[key] = rest; len(rest) == 0 {
			delete(x.named, key)
		}
	}
	if t := x.targets[l.target]; t != nil {
		t.open--
	}
}

// gone takes a letter off that the stream no longer has. It returns what the index
// knew of it, nil when that was nothing.
func (x *letters) gone(number uint64) *letter {
	x.outcomes.setGone(number)
	l := x.find(number)
	if l == nil {
		return nil
	}
	x.take(l)
	if len(x.goneExpiry) >= maxGone {
		clear(x.goneExpiry)
	}
	x.goneExpiry[number] = l.notAfter
	return l
}

// alter changes a letter's state (hold, superseded) and the sums with it.
func (x *letters) alter(l *letter, change func()) {
	l.group.count(l, -1)
	change()
	l.group.count(l, 1)
}

func (x *letters) find(number uint64) *letter { return x.byNumber.find(&letter{number: number}) }

// beyond is how many open letters are too old to be kept in detail.
func (x *letters) beyond() int { return x.outcomes.open - x.byNumber.size }

func (x *letters) delivery(l *letter) uint64 { return x.hash.of(l.target.Value(), l.token()) }

// pair is the target and the name that a newer certificate would be for.
func (x *letters) pairOf(l *letter) (key uint64, ok bool) {
	if !l.hasLeaf || l.target.Value() == "" {
		return 0, false
	}
	name := l.leaf.Value().primaryName()
	return x.hash.of(l.target.Value(), name), name != ""
}

// chosen are the letters of a query in its order, beginning behind the letter with
// the number after (0: with the first).
func (x *letters) chosen(f *filter, after uint64) iter.Seq[*letter] {
	numbers, expiries := &x.byNumber, &x.byExpiry
	if f.Fingerprint != "" {
		g := x.groups[f.Fingerprint]
		if g == nil {
			return func(func(*letter) bool) {}
		}
		numbers, expiries = &g.byNumber, &g.byExpiry
	}
	var from *letter
	if after != 0 {
		from = &letter{number: after}
	}
	var all iter.Seq[*letter]
	switch f.Order {
	case Oldest:
		if from == nil && f.Above != 0 {
			from = &letter{number: f.Above}
		}
		all = numbers.after(from)
	case Expiry:
		if from != nil {
			if l := x.find(after); l != nil {
				from.notAfter = l.notAfter
			} else if from.notAfter = x.goneExpiry[after]; from.notAfter == 0 {
				from = nil // nobody knows where that was: from the first on
			}
		}
		all = expiries.after(from)
	default:
		if from == nil && f.AsOf != 0 {
			from = &letter{number: f.AsOf + 1}
		}
		all = numbers.before(from)
	}
	return func(yield func(*letter) bool) {
		for l := range all {
			if f.fits(l) && !yield(l) {
				return
			}
		}
	}
}

// total is how many letters fit. Where groups fit as a whole nothing is counted but
// what is newer than the query.
func (x *letters) total(f *filter) int {
	n := 0
	if !f.wholeGroups() {
		for range x.chosen(f, 0) {
			n++
		}
		return n
	}
	for _, g := range x.groups {
		if f.group(g) {
			n += g.byNumber.size
		}
	}
	if f.AsOf != 0 {
		for l := range x.byNumber.after(&letter{number: f.AsOf}) {
			if f.group(l.group) {
				n--
			}
		}
	}
	return n
}

// list is a page of a query, and how many fit. The first page is found while they are
// counted.
func (x *letters) list(f *filter, after uint64, size int) (page []Letter, total int, next uint64) {
	if after != 0 || f.wholeGroups() {
		total = x.total(f)
		page, next = x.page(f, after, size)
		return page, total, next
	}
	for l := range x.chosen(f, 0) {
		if total++; total <= size {
			page = append(page, l.letter())
		}
	}
	if total > size {
		next = page[size-1].Sequence
	}
	return page, total, next
}

// page is some letters of a query, beginning behind the letter with the number
// after; next is the last one's number if there are more.
func (x *letters) page(f *filter, after uint64, size int) (page []Letter, next uint64) {
	for l := range x.chosen(f, after) {
		if len(page) == size {
			return page, page[size-1].Sequence
		}
		page = append(page, l.letter())
	}
	return page, 0
}

// groupsOf are the groups of a query, the largest first.
func (x *letters) groupsOf(q Query, now time.Time) []Group {
	f := q.ready()
	var chosen []*group
	if q.wholeGroups() && (q.AsOf == 0 || q.AsOf >= x.outcomes.total()) {
		for g := range maps.Values(x.groups) {
			if q.group(g) {
				chosen = append(chosen, g)
			}
		}
	} else {
		parts := map[*group]*group{}
		f.Order = Oldest // so that all is added at the end
		for l := range x.chosen(f, 0) {
			part := parts[l.group]
			if part == nil {
				part = emptyGroup(l.group)
				parts[l.group] = part
				chosen = append(chosen, part)
			}
			part.add(l)
		}
	}
	out := make([]Group, 0, len(chosen))
	for _, g := range chosen {
		g.rank()
		out = append(out, g.view(now))
	}
	slices.SortFunc(out, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), b.Last.Compare(a.Last), strings.Compare(a.Fingerprint, b.Fingerprint))
	})
	return out
}
