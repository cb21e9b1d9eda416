package desk

import (
	"math"
	"slices"
)

// order is that of a list of deliveries.
type order int

// The orders of deliveries.
const (
	// byLast is that of all doors: newest last attempt first, or cancellation of what was never
	// tried. A delivery that is discarded years later keeps its place.
	byLast order = iota
	byRevision
)

// peakBlock is how many slots share a peak.
const peakBlock = 4096

// notePeak updates the peaks with the slot at an index, the highest so far.
func (x *deliveries) notePeak(i int) {
	b := i / peakBlock
	if b == len(x.peaks) {
		before := uint32(0)
		if b > 0 {
			before = x.peaks[b-1]
		}
		x.peaks = append(x.peaks, before)
	}
	x.peaks[b] = max(x.peaks[b], x.slots[i].last)
}

// place is where a slot is in an order: the highest is first.
func (o order) place(last uint32, revision uint64) uint64 {
	if o == byRevision {
		return revision
	}
	return uint64(last)<<32 | revision&math.MaxUint32
}

// placeOf is the place of the row with a revision, also if its delivery has changed since: 0 is
// before the first row. After a compaction it is about there.
func (x *deliveries) placeOf(o order, revision uint64) uint64 {
	i, _ := x.find(revision)
	if revision == 0 || i == len(x.slots) {
		return math.MaxUint64
	}
	return o.place(x.slots[i].last, revision)
}

// search returns the revisions of a page in an order, beginning behind the row with the revision
// after (0: with the first), and how many match in all.
func (x *deliveries) search(q DeliveryQuery, o order, after uint64, size int) (page []uint64, total int, next uint64) {
	fits := x.matcher(q)
	counted := -1
	switch {
	case q == DeliveryQuery{}:
		counted = x.live
	case q == DeliveryQuery{State: q.State}:
		counted = x.states[slotState(q.State)]
	case q == DeliveryQuery{Target: q.Target}:
		counted = x.of(q.Target).live
	}
	type row struct{ place, revision uint64 }
	var rows []row // sorted; one more than the page, to know whether there is a next one
	from := x.placeOf(o, after)
	for i := len(x.slots) - 1; i >= 0; i-- {
		full := len(rows) > size
		if full && counted >= 0 && (o == byRevision || rows[size].place>>32 > uint64(x.peaks[i/peakBlock])) {
			break // no slot from here on is above what the page has
		}
		s := &x.slots[i]
		if s.state == 0 || !fits(s) {
			continue
		}
		total++
		r := row{o.place(s.last, s.revision), s.revision}
		if r.place >= from || full && r.place < rows[size].place {
			continue
		}
		at, _ := slices.BinarySearchFunc(rows, r, func(a, b row) int {
			if a.place > b.place {
				return -1
			}
			return 1
		})
		if rows = slices.Insert(rows, at, r); len(rows) > size+1 {
			rows = rows[:size+1]
		}
	}
	if counted >= 0 {
		total = counted
	}
	for _, r := range rows[:min(len(rows), size)] {
		page = append(page, r.revision)
	}
	switch {
	case len(rows) <= size:
	case size > 0:
		next = page[size-1]
	default:
		next = x.slots[len(x.slots)-1].revision + 1 // before the first row
	}
	return page, total, next
}
