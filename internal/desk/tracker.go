package desk

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// tracker knows what became of each letter of a run. All of it follows from the streams:
// a process that takes a run over, or only shows it, gets the same results. Desk.mu
// guards it.
type tracker struct {
	run       string
	force     bool               // deliveries that were sent before are sent again
	members   []member           // by number
	byKey     map[uint64]*member // by delivery, hashed
	counts    [lastResult + 1]int
	sameCause *member // the first that died again of the same cause; nil: none has
}

// member is one letter of a run.
type member struct {
	number, newLetter uint64
	key               uint64 // of its delivery, hashed; 0: not known
	at                int64  // published, or gone; Unix nanoseconds
	began             int64  // when this run wrote its first intent; Unix nanoseconds
	target, event     string
	cause             string // its fingerprint, "" if not known
	note              string
	result            uint8
	intended          bool  // this run has written an intent
	unclear           bool  // not known whether it was published: the intent of this run has no outcome yet
	tried             int64 // the latest time at which this run can have published it; Unix nanoseconds
	tries             uint8
	again             time.Time // not retried before
}

// The results of a member.
const (
	isWaiting = iota
	isPublished
	isDelivered
	isDeadAgain
	isGone
	isFailed
	lastResult = isFailed
)

var resultNames = [lastResult + 1]string{"waiting", "published", "delivered", "dead again", "gone", "failed"}

// track creates a run's tracker from the index. The lock is held.
func (d *Desk) track(r *run) *tracker {
	numbers := r.numbers
	t := &tracker{run: r.id, force: r.record.Spec.Force, members: make([]member, len(numbers)), byKey: make(map[uint64]*member, len(numbers))}
	t.counts[isWaiting] = len(numbers)
	for i, n := range numbers {
		t.members[i].number = n
		if l := d.letters.find(n); l != nil {
			t.setDelivery(&t.members[i], d.letters.delivery(l), l.target.Value(), l.event, l.group.fingerprint)
		}
	}
	// Records from before the run's start are not about its letters: if the stream was
	// recreated, other letters had their numbers.
	records := d.history.records[d.history.started(r.id):]
	for i := range records {
		r := &records[i]
		if m := t.find(r.number); m != nil {
			rec := r.record()
			d.trackRecord(t, &rec, r.cause.Value())
		}
	}
	for i := range t.members {
		if m := &t.members[i]; m.result == isWaiting && !d.letters.outcomes.isOpen(m.number) && d.letters.outcomes.decided(m.number) {
			t.set(m, isGone)
			m.note = string(d.letters.outcomes.status(m.number))
		}
	}
	return t
}

func (t *tracker) find(number uint64) *member {
	i, found := slices.BinarySearchFunc(t.members, number, func(m member, n uint64) int {
		switch {
		case m.number < n:
			return -1
		case m.number > n:
			return 1
		}
		return 0
	})
	if !found || number == 0 {
		return nil
	}
	return &t.members[i]
}

// setDelivery sets which delivery a member is of.
func (t *tracker) setDelivery(m *member, key uint64, target, event, cause string) {
	m.key, m.target, m.event, m.cause = key, target, event, cause
	t.byKey[key] = m
}

// follow makes a member's delivery the one to the target that its replay was redirected to.
func (t *tracker) follow(m *member, key uint64) {
	if t.byKey[m.key] == m {
		delete(t.byKey, m.key)
	}
	m.key, t.byKey[key] = key, m
}

func (t *tracker) set(m *member, result uint8) {
	t.counts[m.result]--
	m.result = result
	t.counts[result]++
}

// published, underWay and left are sums of the counts.
func (t *tracker) published() int {
	return t.counts[isPublished] + t.counts[isDelivered] + t.counts[isDeadAgain]
}
func (t *tracker) underWay() int { return t.counts[isPublished] }
func (t *tracker) left() int     { return t.counts[isWaiting] }

// spent returns the latest times at which this run published letters, or may have. A
// process that was killed between intent and outcome may have published at any time until
// now. The lock is held.
func (t *tracker) spent(now time.Time) (times []time.Time) {
	for i := range t.members {
		switch m := &t.members[i]; {
		case m.unclear:
			times = append(times, now)
		case m.tried != 0:
			times = append(times, time.Unix(0, m.tried))
		}
	}
	return times
}

// trackRecord applies a record about one of the run's letters. The lock is held.
func (d *Desk) trackRecord(t *tracker, r *broker.AuditRecord, cause string) {
	m := t.find(r.LetterNumber)
	if m == nil || r.Action == broker.ActionSent { // the ledger tells of the success
		return
	}
	if r.Stage == broker.StageIntent {
		if r.Run == t.run {
			if !m.intended {
				m.began = nanoseconds(r.Time)
			}
			m.intended, m.unclear = true, true
		}
		return
	}
	if r.Run == t.run || m.unclear && r.Action == broker.ActionDelivered {
		m.tried, m.unclear = max(m.tried, nanoseconds(r.Time)), false
	}
	if m.event == "" && r.Event != "" {
		t.setDelivery(m, d.letters.hash.of(r.Target, events.Token(r.Event)), r.Target, r.Event, cause)
		d.lookUp(t, m)
	}
	switch {
	case r.Run == t.run && r.Action == broker.ActionReplayed:
		d.publish(t, m, nanoseconds(r.Time))
		if r.NewTarget != "" { // what was delivered under the former id counts, and was looked up before
			t.follow(m, d.letters.hash.of(r.NewTarget, events.Token(r.Event)))
		}
		d.lookUp(t, m) // publish does nothing if the worker in this process has noted it before
	case r.Action == broker.ActionDelivered && m.intended:
		// Published by this run, by a process that died before it recorded that.
		d.publish(t, m, nanoseconds(r.Time))
		t.arrived(m)
	case r.Run == t.run && r.Action == broker.ActionFailed && m.result == isWaiting:
		m.note = r.Reason // the worker retries, up to maxTries
	case r.Action.Ends() && (m.result == isWaiting || m.result == isFailed):
		t.set(m, isGone)
		m.at = nanoseconds(r.Time)
		m.note = fmt.Sprintf("%s by %s", r.Action, r.Name)
	}
}

// publish records that a member was published, and applies what is known of its delivery
// already. The lock is held.
func (d *Desk) publish(t *tracker, m *member, at int64) {
	if m.result != isWaiting && m.result != isGone && m.result != isFailed {
		return
	}
	t.set(m, isPublished)
	m.at, m.note = at, ""
	d.lookUp(t, m)
}

// lookUp applies what is known already of a published member's delivery: it may have
// ended before this process knew which delivery it is. The lock is held.
func (d *Desk) lookUp(t *tracker, m *member) {
	if m.key == 0 || m.result != isPublished {
		return
	}
	if n := d.letters.deliveries[m.key]; n > m.number {
		if l := d.letters.find(n); l != nil {
			t.died(m, l)
			return
		}
	}
	since := int64(0)
	if t.force {
		since = cmp.Or(m.began, m.at) // the lane may send before the publication is recorded
	}
	if d.deliveries.sentSince(m.key, since) {
		t.arrived(m)
	}
}

func (t *tracker) arrived(m *member) {
	if m.result == isPublished {
		t.set(m, isDelivered)
	}
}

func (t *tracker) died(m *member, l *letter) {
	if m.result != isPublished {
		return
	}
	t.set(m, isDeadAgain)
	m.newLetter = l.number
	m.note = string(l.group.code) + ": " + l.reason.Value()
	if m.cause == l.group.fingerprint && t.sameCause == nil {
		t.sameCause = m
	}
}

// letterAdded tells the trackers of a new letter. The lock is held.
func (x *runs) letterAdded(key uint64, l *letter) {
	for t := range x.each {
		if m := t.find(l.number); m != nil && m.event == "" { // the run was read before the letter
			t.setDelivery(m, key, l.target.Value(), l.event, l.group.fingerprint)
		}
		if m := t.byKey[key]; m != nil && m.number < l.number {
			t.died(m, l)
		}
	}
}

// entryChanged tells the trackers of a changed entry of the ledger. The lock is held.
func (x *runs) entryChanged(key uint64, sent bool) {
	if !sent {
		return
	}
	for t := range x.each {
		if m := t.byKey[key]; m != nil {
			t.arrived(m)
		}
	}
}

// outcome returns the exported form.
func (m *member) outcome() RunResult {
	return RunResult{Number: m.number, Target: m.target, Event: m.event, Result: resultNames[m.result], Note: m.note, At: fromNanoseconds(m.at), Letter: m.newLetter}
}
