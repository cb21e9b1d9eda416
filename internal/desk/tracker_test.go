package desk

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// In a forced run, a mail counts only if it was sent since the run began with the letter.
// The lane may send before the publication is recorded.
func TestForcedRunKnowsWhatWasSentSince(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sent  time.Duration // after the run began with the letter
		noted bool          // by the worker, before the audit was read
		want  uint8
	}{{-time.Hour, false, isPublished}, {-time.Hour, true, isPublished}, {50 * time.Millisecond, false, isDelivered},
		{50 * time.Millisecond, true, isDelivered}, {time.Second, false, isDelivered}} {
		d := dry()
		letter := someLetter(1, rand.New(rand.NewPCG(1, 2)))
		d.add(letter, nil)
		r := &run{id: "r1", numbers: []uint64{1}}
		r.record.Spec.Force = true
		tracker := d.track(r)
		began := time.Unix(1_800_000_000, 900_000_000)
		record := broker.AuditRecord{Time: began, Action: broker.ActionReplayed, Stage: broker.StageIntent, Event: letter.Event, Target: letter.Target, LetterNumber: 1, Run: "r1"}
		published := began.Add(200 * time.Millisecond)
		d.applyEntry(&broker.LedgerChange{Key: letter.Target + "." + letter.Token, Revision: 1,
			Entry: broker.Entry{Event: letter.Event, Target: letter.Target, State: broker.StateSent, Last: began.Add(c.sent)}})
		if c.noted {
			d.publish(tracker, tracker.find(1), published.UnixNano())
		}
		d.trackRecord(tracker, &record, "")
		record.Stage, record.Time = broker.StageOutcome, published
		d.trackRecord(tracker, &record, "")
		if got := tracker.find(1).result; got != c.want {
			t.Errorf("sent %v after the run began with it: %s, want %s", c.sent, resultNames[got], resultNames[c.want])
		}
	}
}

// When the stream of letters is recreated, the audit still has records of earlier letters
// with the same numbers.
func TestARunIsNotAboutLettersOfAnEarlierStream(t *testing.T) {
	t.Parallel()
	d := dry()
	said := func(sequence uint64, action broker.Action, number uint64, run string) {
		d.history.put(&broker.AuditRecord{Sequence: sequence, Action: action, Stage: broker.StageOutcome, LetterNumber: number, Run: run})
	}
	said(1, broker.ActionReplayed, 1, "r0")
	said(2, broker.ActionDiscarded, 2, "")
	said(3, broker.ActionStarted, 0, "r1")
	said(4, broker.ActionReplayed, 3, "r1")
	r := rand.New(rand.NewPCG(1, 2))
	for n := uint64(1); n <= 3; n++ {
		d.add(someLetter(n, r), nil)
	}
	tracker := d.track(&run{id: "r1", numbers: []uint64{1, 2, 3}})
	for n, want := range map[uint64]uint8{1: isWaiting, 2: isWaiting, 3: isPublished} {
		if got := tracker.find(n).result; got != want {
			t.Errorf("letter %d: %s, want %s", n, resultNames[got], resultNames[want])
		}
	}
}
