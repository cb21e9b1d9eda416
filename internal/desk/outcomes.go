package desk

import "github.com/certpost/certpost/internal/broker"

// outcomes records for every number that the stream of dead letters ever assigned whether
// its letter is open, or how it ended: one byte each. Numbers are dense, so the highest
// is how many letters there ever were, and every missing one is detected.
type outcomes struct {
	of          []byte               // by number; index 0 is unused
	base        uint64               // the numbers up to it were assigned by an earlier stream, if at all
	stored      int                  // in the stream
	open        int                  // in the stream, and not ended by an action
	ended       [lastOutcome + 1]int // by outcome
	unexplained int                  // gone, and no record says how
	early       map[uint64]byte      // outcomes of numbers that are not known yet
}

// maxEarly bounds early: anyone with write access to the audit can record any number.
const maxEarly = 100_000

// The low bits of a byte in of are the outcome that the audit records. An action writes its
// outcome first and removes the letter after, so the bits may be set while the letter is still
// in the stream, and stay so if the process is killed in between. Then the record counts: the
// letter has ended. Expired, replaced and removed are only what was concluded from a letter's
// absence: one that is in the stream in spite of them (restored from a backup) is open.
const (
	outcomeReplayed = iota + 1
	outcomeDiscarded
	outcomeExpired
	outcomeReplaced
	outcomeRemoved
	lastOutcome = outcomeRemoved

	outcomeMask = 0x0f
	isStored    = 0x80 // in the stream
	counted     = 0x40 // in letters.dead already
)

var outcomeNames = [lastOutcome + 1]Status{"", Replayed, Discarded, Expired, Replaced, Removed}

// outcomeOf returns the outcome of an action for its letter, 0 for none.
func outcomeOf(r *broker.AuditRecord) byte {
	if r.Stage == broker.StageIntent {
		return 0
	}
	return outcomeOfAction(r.Action)
}

// outcome is outcomeOf for a record of the index.
func (r *record) outcome() byte {
	if r.stage.Value() == string(broker.StageIntent) {
		return 0
	}
	return outcomeOfAction(broker.Action(r.action.Value()))
}

func outcomeOfAction(action broker.Action) byte {
	switch action {
	case broker.ActionReplayed, broker.ActionDelivered:
		return outcomeReplayed
	case broker.ActionDiscarded:
		return outcomeDiscarded
	case broker.ActionExpired:
		return outcomeExpired
	case broker.ActionReplaced:
		return outcomeReplaced
	case broker.ActionRemoved:
		return outcomeRemoved
	}
	return 0
}

// extendTo makes numbers up to last known. New ones are unexplained until setStored or
// setOutcome is called for them; those of an earlier stream need no explanation, because they
// were lost with it.
func (o *outcomes) extendTo(last uint64) {
	if have := uint64(len(o.of)); have <= last {
		if first := max(have, o.base+1); first <= last {
			o.unexplained += int(last + 1 - first)
		}
		o.of = append(o.of, make([]byte, last+1-have)...)
		for number, outcome := range o.early {
			if number <= last {
				delete(o.early, number)
				o.setOutcome(number, outcome)
			}
		}
	}
}

// highest is the highest number known.
func (o *outcomes) highest() uint64 { return uint64(max(len(o.of), 1) - 1) }

// total is how many letters there ever were, as far as is known of those of an earlier stream.
func (o *outcomes) total() uint64 {
	n := o.open + o.unexplained
	for _, ended := range o.ended {
		n += ended
	}
	return uint64(n)
}

func (o *outcomes) setStored(number uint64) {
	o.extendTo(number)
	o.change(number, o.of[number]|isStored)
}

func (o *outcomes) setGone(number uint64) {
	if o.isStored(number) {
		o.change(number, o.of[number]&^isStored)
	}
}

// setOutcome sets the outcome of a number; the first one stays. A letter may have come
// and ended since the letters were last read: its outcome is kept in early until
// extendTo.
func (o *outcomes) setOutcome(number uint64, outcome byte) {
	switch known := number <= o.highest(); {
	case known && o.of[number]&outcomeMask == 0 && number != 0:
		o.change(number, o.of[number]|outcome)
	case !known && o.early[number] == 0 && len(o.early) < maxEarly:
		if o.early == nil {
			o.early = map[uint64]byte{}
		}
		o.early[number] = outcome
	}
}

// change replaces the byte of a number, and updates the sums.
func (o *outcomes) change(number uint64, now byte) {
	o.sum(number, o.of[number], -1)
	o.of[number] = now
	o.sum(number, now, 1)
}

func (o *outcomes) sum(number uint64, of byte, by int) {
	if of&isStored != 0 {
		o.stored += by
	}
	switch outcome := of & outcomeMask; {
	case open(of):
		o.open += by
	case outcome != 0:
		o.ended[outcome] += by
	case number > o.base:
		o.unexplained += by
	}
}

// open reports whether a letter with this byte is on the list: the stream has it, and no action
// has ended it.
func open(of byte) bool { return of&isStored != 0 && !byAction(of) }

// byAction reports whether an action has ended the letter with this byte.
func byAction(of byte) bool {
	outcome := of & outcomeMask
	return outcome == outcomeReplayed || outcome == outcomeDiscarded
}

func (o *outcomes) byteOf(number uint64) byte {
	if number < uint64(len(o.of)) {
		return o.of[number]
	}
	return 0
}

func (o *outcomes) isOpen(number uint64) bool   { return open(o.byteOf(number)) }
func (o *outcomes) isStored(number uint64) bool { return o.byteOf(number)&isStored != 0 }

// unremoved reports whether an action has ended the letter, and its removal from the stream is
// still to be done.
func (o *outcomes) unremoved(number uint64) bool {
	of := o.byteOf(number)
	return of&isStored != 0 && byAction(of)
}

// status returns Open, how the letter ended, or "" for a number that is unexplained or was
// never assigned.
func (o *outcomes) status(number uint64) Status {
	of := o.byteOf(number)
	if open(of) {
		return Open
	}
	return outcomeNames[of&outcomeMask]
}

// decided reports whether the audit records an outcome, also while the letter is still in
// the stream.
func (o *outcomes) decided(number uint64) bool {
	return o.byteOf(number)&outcomeMask != 0
}

// count marks a number as counted in letters.dead, and reports whether it was not before.
func (o *outcomes) count(number uint64) bool {
	if number == 0 || number >= uint64(len(o.of)) || o.of[number]&counted != 0 {
		return false
	}
	o.of[number] |= counted
	return true
}

// storedUpTo counts the letters up to a number that are in the stream.
func (o *outcomes) storedUpTo(last uint64) int {
	n := o.stored
	for i := last + 1; i < uint64(len(o.of)); i++ {
		if o.of[i]&isStored != 0 {
			n--
		}
	}
	return n
}

// unexplainedNumbers returns the numbers of letters that are gone unexplained.
func (o *outcomes) unexplainedNumbers() (numbers []uint64) {
	for i := o.base + 1; i < uint64(len(o.of)) && len(numbers) < o.unexplained; i++ {
		if o.of[i]&(isStored|outcomeMask) == 0 {
			numbers = append(numbers, i)
		}
	}
	return numbers
}
