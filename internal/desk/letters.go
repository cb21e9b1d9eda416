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
	dead       hours                // letters by the hour of their time, also those that have ended
	deliveries map[uint64]uint64    // target and event, hashed -> number of the newest open letter
	named      map[uint64][]*letter // target and primary name, hashed
	targets    map[unique.Handle[string]]*tally
	goneExpiry map[uint64]int64 // number -> expiry of the certificate, of letters that left recently
	since      time.Time        // time of the oldest known letter
}

// tally is counts of a target's letters.
type tally struct {
	open int
	last int64 // time of the newest letter ever, Unix nanoseconds
}

// maxGone bounds goneExpiry, which keeps the place of callers that page through a list by
// expiry.
const maxGone = 20_000

func newLetters(hash hasher, limit int) *letters {
	return &letters{
		hash: hash, limit: limit, byNumber: orderedIndex{compare: byNumber}, byExpiry: orderedIndex{compare: byExpiry},
		groups: map[string]*group{}, deliveries: map[uint64]uint64{}, named: map[uint64][]*letter{},
		targets: map[unique.Handle[string]]*tally{}, goneExpiry: map[uint64]int64{},
	}
}

// hasher hashes the keys of exact look-ups. The probability that two of a million keys
// have the same hash is 1 in 40 million. The hashes never leave the process.
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

// put adds a letter that the stream has; newLetter made l from d. One that an action has ended
// already is counted, and not listed.
func (x *letters) put(d *broker.DeadLetter, l *letter) {
	if x.outcomes.isOpen(l.number) && x.find(l.number) != nil {
		return // known already
	}
	x.outcomes.setStored(l.number)
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
	fingerprint := fingerprintOf(d)
	if !x.outcomes.isOpen(l.number) {
		l.group = cmp.Or(x.groups[fingerprint], newGroup(d)) // for the runs
		l.setRareFields(d)
		return
	}
	if x.byNumber.size >= x.limit {
		oldest := x.byNumber.first()
		if oldest.number > l.number {
			return // open, and not kept in detail
		}
		x.take(oldest)
	}
	t.open++
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

// take removes a letter from everything that is kept in detail.
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

// gone removes a letter that the stream no longer has. It returns what the index kept of
// it, nil if nothing.
func (x *letters) gone(number uint64) *letter {
	x.outcomes.setGone(number)
	return x.unlist(number)
}

// ended notes the outcome of a letter. If that is an action's, the letter leaves the list, also
// while the stream still has it.
func (x *letters) ended(number uint64, outcome byte) {
	x.outcomes.setOutcome(number, outcome)
	if !x.outcomes.isOpen(number) {
		x.unlist(number)
	}
}

// unlist removes a letter from the list. It returns what the index kept of it, nil if nothing.
func (x *letters) unlist(number uint64) *letter {
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

// alter changes a letter's state (hold, superseded), and updates the sums of its group.
func (x *letters) alter(l *letter, change func()) {
	l.group.count(l, -1)
	change()
	l.group.count(l, 1)
}

func (x *letters) find(number uint64) *letter { return x.byNumber.find(&letter{number: number}) }

// beyond returns how many open letters are too old to be kept in detail.
func (x *letters) beyond() int { return x.outcomes.open - x.byNumber.size }

func (x *letters) delivery(l *letter) uint64 { return x.hash.of(l.target.Value(), l.token()) }

// pairOf returns the hash of the target, the primary name and the kind of key for which a newer
// certificate would supersede the letter; false if it lacks one of them.
func (x *letters) pairOf(l *letter) (key uint64, ok bool) {
	if !l.hasLeaf || l.target.Value() == "" {
		return 0, false
	}
	name := l.leaf.Value().primaryName()
	return x.hash.of(l.target.Value(), name, l.leaf.Value().keyType), name != ""
}

// chosen yields the letters of a query in its order, beginning after the letter with the
// number after (0: with the first).
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
				from = nil // its place is not known any more: from the first on
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

// total returns how many letters match. Where groups match as a whole, only letters newer
// than the query are counted one by one.
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

// list returns a page of a query, and how many letters match. The first page is collected
// while counting.
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

// page returns at most size letters of a query, beginning after the letter with the
// number after; next is the number of the last one if there are more.
func (x *letters) page(f *filter, after uint64, size int) (page []Letter, next uint64) {
	for l := range x.chosen(f, after) {
		if len(page) == size {
			return page, page[size-1].Sequence
		}
		page = append(page, l.letter())
	}
	return page, 0
}

// soonest compares the groups by the expiry of a certificate that is needed; groups without one
// are last.
func soonest(a, b Group) int {
	if a.SoonestExpiry.IsZero() || b.SoonestExpiry.IsZero() {
		return b.SoonestExpiry.Compare(a.SoonestExpiry)
	}
	return a.SoonestExpiry.Compare(b.SoonestExpiry)
}

// groupsOf returns the groups of a query: the largest first, of equal ones that whose certificate
// expires first.
func (x *letters) groupsOf(q Query, now time.Time) []Group {
	f := q.ready()
	var chosen []*group
	if q.wholeGroups() && (q.AsOf == 0 || q.AsOf >= x.outcomes.highest()) {
		for g := range maps.Values(x.groups) {
			if f.group(g) {
				chosen = append(chosen, g)
			}
		}
	} else {
		parts := map[*group]*group{}
		f.Order = Oldest // so that every letter is appended, which is cheapest
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
		return cmp.Or(cmp.Compare(b.Count, a.Count), soonest(a, b), b.Last.Compare(a.Last), strings.Compare(a.Fingerprint, b.Fingerprint))
	})
	return out
}
