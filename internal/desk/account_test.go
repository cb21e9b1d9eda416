package desk

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
)

// stepwise returns a desk that looks at the streams only when the test calls look.
func (x *fixture) stepwise() *follower {
	x.t.Helper()
	d := New(x.b, fakeDeliverer{}, zerolog.New(zerolog.NewTestWriter(x.t)).Level(zerolog.ErrorLevel))
	d.pace.grace = time.Millisecond
	d.mayRecord.Store(true)
	f := newFollower(d)
	x.look(f)
	return f
}

func (x *fixture) look(f *follower) {
	x.t.Helper()
	if err := f.look(x.t.Context()); err != nil {
		x.t.Fatal(err)
	}
}

func (x *fixture) actions(number uint64) (told []broker.Action) {
	x.t.Helper()
	for r, err := range x.b.ReadAudit(x.t.Context(), 1) {
		if err != nil {
			x.t.Fatal(err)
		}
		if r.LetterNumber == number && r.Stage != broker.StageIntent {
			told = append(told, r.Action)
		}
	}
	return told
}

// A letter may come and end while the index has read the letters and not yet the audit:
// then its end is read first. Reading a large audit at the start takes seconds.
func TestALetterThatEndsBeforeItIsRead(t *testing.T) {
	t.Parallel()
	x := start(t)
	other, _ := x.desk(nil)
	f := x.stepwise()
	x.letters(other, "ops", 0, 2)
	if n, err := other.Discard(t.Context(), me, other.Freeze(Query{}, []uint64{1}, true), "not needed"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := f.readAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		x.look(f)
		backoff.Sleep(t.Context(), 5*time.Millisecond)
	}
	if b := f.Desk.balance(); b.Total != 2 || b.Open != 1 || b.Ended[Discarded] != 1 || f.Desk.letters.outcomes.unexplained != 0 {
		t.Errorf("%+v", b)
	}
	if told := x.actions(1); !slices.Equal(told, []broker.Action{broker.ActionDiscarded}) {
		t.Errorf("the audit says %v", told)
	}
}

// A recorded end counts whatever the clock of its author says.
//
// Fault: or differ between processes. Result: claims and outcomes use the server's clock.
func TestEndsByAClockThatIsWrong(t *testing.T) {
	t.Parallel()
	for _, clock := range []time.Duration{-time.Hour, time.Hour} {
		x := start(t)
		d, _ := x.desk(nil)
		x.letters(d, "ops", 0, 1)
		record, err := json.Marshal(broker.AuditRecord{Time: time.Now().Add(clock), Action: broker.ActionReplayed, Stage: broker.StageOutcome,
			Actor: me, Event: "e0", Target: "ops", LetterNumber: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.js.Publish(t.Context(), "certpost.audit.replayed.ops.e0", record); err != nil {
			t.Fatal(err)
		}
		if err := x.stream().DeleteMsg(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		x.until("it is counted as replayed", func() bool { b := d.Balance(); return b.Ended[Replayed] == 1 && b.Open == 0 })
	}
}

// When the audit takes no records, the letters are still shown, and unrecorded ends are a
// difference in the balance.
//
// Fault: the audit accepts no records. Result: letters are shown; outcomes that it lacks
// are shown as a difference.
func TestAnAuditThatTakesNoRecords(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, stop := x.desk(nil)
	x.letters(d, "ops", 0, 3)
	stop()
	audit, err := x.js.Stream(t.Context(), broker.AuditStream)
	if err != nil {
		t.Fatal(err)
	}
	whole := audit.CachedInfo().Config
	full := whole
	full.MaxMsgs = int64(max(1, audit.CachedInfo().State.Msgs)) // Discard New, as always
	if audit.CachedInfo().State.Msgs == 0 {
		if _, err := x.js.Publish(t.Context(), "certpost.audit.held.ops.e9", []byte(`{"action":"held"}`)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.js.UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	if err := x.stream().Purge(t.Context(), jetstream.WithPurgeSequence(3)); err != nil {
		t.Fatal(err)
	}
	again, _ := x.desk(func(d *Desk) { d.pace.grace, d.pace.mismatch = time.Millisecond, time.Millisecond })
	x.until("the difference is shown", func() bool { b := again.Balance(); return b.Open == 1 && b.Unexplained == 2 && again.Lag() == "" })
	for range 5 {
		again.CatchUp(t.Context())
		if lag := again.Lag(); lag != "" {
			t.Errorf("the lists are reported as outdated: %s", lag)
		}
	}
	if _, err := x.js.UpdateStream(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	x.until("it is recorded", func() bool { b := again.Balance(); return b.Ended[Removed] == 2 && b.Unexplained == 0 })
}
