package desk

import "github.com/certpost/certpost/internal/broker"

// fates knows of every number that the stream of dead letters ever gave whether its
// letter is open, or how it ended: one byte each. Numbers are dense, so the highest
// is how many letters there ever were, and nothing can leave unnoticed.
type fates struct {
	of          []byte // by number; the first is nobody's
	open        int
	ended       [lastFate + 1]int // by fate
	unexplained int               // gone, and nothing says how
	early       map[uint64]byte   // fates of numbers that are not known yet
}

// maxEarly bounds what is remembered of numbers that are not known yet: anybody who may
// write to the audit can make them up.
const maxEarly = 100_000

// What of says in its low bits is the fate that the audit gives, also while the letter
// is still there: an action writes its outcome first and removes after.
const (
	fateReplayed = iota + 1
	fateDiscarded
	fateExpired
	fateReplaced
	fateRemoved
	lastFate = fateRemoved

	fateMask = 0x0f
	isOpen   = 0x80 // in the stream
	counted  = 0x40 // among the dead of the last hours
)

var fateNames = [lastFate + 1]Fate{"", Replayed, Discarded, Expired, Replaced, Removed}

// fateOf is what an action means for its letter; 0: nothing.
func fateOf(r *broker.AuditRecord) byte {
	if r.Stage == broker.StageIntent {
		return 0
	}
	switch r.Action {
	case broker.ActionReplayed, broker.ActionDelivered:
		return fateReplayed
	case broker.ActionDiscarded:
		return fateDiscarded
	case broker.ActionExpired:
		return fateExpired
	case broker.ActionReplaced:
		return fateReplaced
	case broker.ActionRemoved:
		return fateRemoved
	}
	return 0
}

// reach makes numbers up to last known: those that are new are not there until
// appear says so.
func (f *fates) reach(last uint64) {
	if have := uint64(len(f.of)); have <= last {
		f.unexplained += int(last) + 1 - max(int(have), 1)
		f.of = append(f.of, make([]byte, last+1-have)...)
		for number, fate := range f.early {
			if number <= last {
				delete(f.early, number)
				f.end(number, fate)
			}
		}
	}
}

func (f *fates) total() uint64 { return uint64(max(len(f.of), 1) - 1) }

func (f *fates) appear(number uint64) {
	f.reach(number)
	f.change(number, f.of[number]|isOpen)
}

func (f *fates) vanish(number uint64) {
	if f.isOpen(number) {
		f.change(number, f.of[number]&^isOpen)
	}
}

// end gives a number its fate; the first one stays. A letter may have come and ended
// since the letters were read last: then its number is known with the next ones.
func (f *fates) end(number uint64, fate byte) {
	switch known := number <= f.total(); {
	case known && f.of[number]&fateMask == 0 && number != 0:
		f.change(number, f.of[number]|fate)
	case !known && f.early[number] == 0 && len(f.early) < maxEarly:
		if f.early == nil {
			f.early = map[uint64]byte{}
		}
		f.early[number] = fate
	}
}

// change keeps the sums.
func (f *fates) change(number uint64, now byte) {
	f.sum(f.of[number], -1)
	f.of[number] = now
	f.sum(now, 1)
}

func (f *fates) sum(of byte, by int) {
	switch fate := of & fateMask; {
	case of&isOpen != 0:
		f.open += by
	case fate != 0:
		f.ended[fate] += by
	default:
		f.unexplained += by
	}
}

func (f *fates) isOpen(number uint64) bool {
	return number < uint64(len(f.of)) && f.of[number]&isOpen != 0
}

// fate is Open, how the letter ended, or "" for a number that is gone unexplained or
// was never given.
func (f *fates) fate(number uint64) Fate {
	switch {
	case number == 0 || number >= uint64(len(f.of)):
		return ""
	case f.of[number]&isOpen != 0:
		return Open
	}
	return fateNames[f.of[number]&fateMask]
}

// decided reports whether the audit says how the letter ended, or is to end.
func (f *fates) decided(number uint64) bool {
	return number < uint64(len(f.of)) && f.of[number]&fateMask != 0
}

// count reports, once for each number, that it is to be counted among the dead.
func (f *fates) count(number uint64) bool {
	if number == 0 || number >= uint64(len(f.of)) || f.of[number]&counted != 0 {
		return false
	}
	f.of[number] |= counted
	return true
}

// openUpTo counts the open ones up to a number.
func (f *fates) openUpTo(last uint64) int {
	n := f.open
	for i := last + 1; i < uint64(len(f.of)); i++ {
		if f.of[i]&isOpen != 0 {
			n--
		}
	}
	return n
}

// lacking are the numbers of letters that are gone unexplained.
func (f *fates) lacking() (numbers []uint64) {
	for i := 1; i < len(f.of) && len(numbers) < f.unexplained; i++ {
		if f.of[i]&(isOpen|fateMask) == 0 {
			numbers = append(numbers, uint64(i))
		}
	}
	return numbers
}
