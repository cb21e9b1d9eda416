package queue

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

func TestReplayForAnotherTarget(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("ops", "other")
	fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPAuth, verdict.PhaseAuth)
	})
	b := start(t, fake, nil)
	b.publish(event("e1", "ops"))
	b.until("dead", func() bool { return len(b.letters()) == 1 })
	ctx, d := context.Background(), b.letters()[0]
	if err := b.broker.Replay(ctx, d, tester, broker.Replay{Target: "other", Lane: "no-such-lane"}); err == nil || !strings.Contains(err.Error(), "no-such-lane") {
		t.Errorf("replay into a lane without a consumer: %v", err)
	}
	var seen []string
	fake.plan("other", func(_ int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		seen = a.Override
		return nil, nil
	})
	if err := b.broker.Replay(ctx, d, tester, broker.Replay{Target: "other", Lane: "relay", Recipients: []string{"c@example.com"}}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if mails := fake.mails("e1"); len(mails) != 1 || mails[0].target != "other" || !slices.Equal(seen, []string{"c@example.com"}) {
		t.Errorf("mails %+v, recipients asked for %v", mails, seen)
	}
	if len(b.letters()) != 0 {
		t.Error("the letter is still on the list")
	}
}

func TestDiscardedLettersCanBeRestored(t *testing.T) {
	t.Parallel()
	b, _ := deadLetterFixture(t)
	ctx, d := context.Background(), b.letters()[0]
	if _, err := b.broker.Discarded(ctx, d.Sequence); !errors.Is(err, broker.ErrNotDiscarded) {
		t.Errorf("before it was discarded: %v", err)
	}
	if err := b.broker.Discard(ctx, d, tester, "host is gone"); err != nil {
		t.Fatal(err)
	}
	record, err := b.broker.Discarded(ctx, d.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.broker.RecordAt(ctx, record.Sequence); err != nil || again.Hash != record.Hash {
		t.Errorf("by its sequence: %v", err)
	}
	number, err := b.broker.Restore(ctx, record, tester, "it is not")
	if err != nil || number != d.Sequence+1 {
		t.Fatalf("number %d, %v", number, err)
	}
	l := b.letters()
	if len(l) != 1 || l[0].Sequence != number || l[0].RestoredFrom != d.Sequence || l[0].Reason != d.Reason || string(l[0].Body) != string(d.Body) || !l[0].First.Equal(d.First) {
		t.Errorf("restored as %+v", l)
	}
	if e := b.entry("ops", "ev/1"); e.State != broker.StateDead || e.DeadLetter != d.Subject {
		t.Errorf("ledger: %+v", e)
	}
	var taken *broker.Taken
	if _, err := b.broker.Restore(ctx, record, tester, "again"); !errors.As(err, &taken) || taken.Record.NewLetter != number {
		t.Errorf("restored twice: %v", err)
	}
	// It can be discarded, and restored, under its new number.
	if err := b.broker.Discard(ctx, l[0], tester, "really"); err != nil {
		t.Fatal(err)
	}
	if record, err = b.broker.Discarded(ctx, number); err != nil {
		t.Fatal(err)
	}
	if number, err = b.broker.Restore(ctx, record, tester, "no"); err != nil {
		t.Fatal(err)
	}
	if err := b.broker.Replay(ctx, b.letters()[0], tester, broker.Replay{}); err != nil {
		t.Errorf("a restored letter %d is not replayed: %v", number, err)
	}
	if told := historyOf(t, b.broker, d.Sequence); !slices.Equal(told, []string{"intent discarded", "outcome discarded", "intent restored", "outcome restored"}) {
		t.Errorf("history %q", told)
	}
}

// A letter that a newer one of the same delivery replaces is recorded as replaced; a
// letter whose replay became a dead letter again, as replayed.
func TestReplacedLettersAreRecorded(t *testing.T) {
	t.Parallel()
	b, _ := deadLetterFixture(t)
	ctx, first := context.Background(), b.letters()[0]
	// As with `nats pub`, which does not remove the letter.
	if _, err := b.broker.JetStream().Publish(ctx, first.ReplaySubject, first.Body); err != nil {
		t.Fatal(err)
	}
	b.until("a second letter", func() bool { l := b.letters(); return len(l) == 1 && l[0].Sequence != first.Sequence })
	b.settled()
	if told := historyOf(t, b.broker, first.Sequence); !slices.Equal(told, []string{"outcome replaced"}) {
		t.Errorf("history of the first: %q", told)
	}
	second := b.letters()[0]
	if err := b.broker.Replay(ctx, second, tester, broker.Replay{}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if told := historyOf(t, b.broker, second.Sequence); !slices.Equal(told, []string{"intent replayed", "outcome replayed"}) {
		t.Errorf("history of the second: %q", told)
	}
	if l := b.letters(); len(l) != 1 || l[0].Sequence <= second.Sequence {
		t.Errorf("letters: %+v", l)
	}
}

// An event may be read, and its letter removed because of that, before the operator's
// replay is recorded: the record of the replay is written all the same.
func TestWhoReplaysAnEventIsRecorded(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("ops")
	var replayed func()
	b := &fixture{t: t, fake: fake, set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m", Reached: func(point string) {
		if point == broker.PointRepublished {
			replayed()
		}
	}}}
	b.start()
	b.publish(event("e1", "late"))
	b.until("dead", func() bool { return len(b.letters()) == 1 })
	d := b.letters()[0]
	fake.mu.Lock()
	fake.targets["late"] = "relay"
	fake.mu.Unlock()
	replayed = func() { b.until("the event was read", func() bool { return len(b.letters()) == 0 }) }
	if err := b.broker.Replay(context.Background(), d, broker.Actor{Name: "alice"}, broker.Replay{Run: "r1"}); err != nil {
		t.Fatal(err)
	}
	told := historyOf(t, b.broker, d.Sequence)
	if !slices.Equal(told, []string{"intent replayed", "outcome delivered", "outcome replayed"}) {
		t.Errorf("history %q", told)
	}
	if d.Code != verdict.TargetUnknown {
		t.Errorf("%+v", d)
	}
}

// The mail of a resend may be accepted before the outcome of the order is recorded: the record
// of the mail says who ordered it all the same.
func TestWhoOrderedASentMailIsRecorded(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("ops")
	var republished func()
	b := &fixture{t: t, fake: fake, set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m", Reached: func(point string) {
		if point == broker.PointRepublished {
			republished()
		}
	}}}
	b.start()
	b.publish(event("e1", "ops"))
	sent := func() (records []broker.AuditRecord) {
		for r, err := range b.broker.ReadAudit(context.Background(), 1) {
			if err != nil {
				t.Fatal(err)
			}
			if r.Action == broker.ActionSent {
				records = append(records, r)
			}
		}
		return records
	}
	var e broker.Entry
	b.until("sent", func() bool {
		e = b.entry("ops", "e1")
		return e.State == broker.StateSent
	})
	republished = func() { b.until("the mail was recorded", func() bool { return len(sent()) == 1 }) }
	if _, err := b.broker.Resend(context.Background(), e, broker.Actor{Name: "alice"}, broker.Resend{Target: "ops", Lane: "relay", Reason: "lost"}); err != nil {
		t.Fatal(err)
	}
	if r := sent()[0]; r.OrderedBy == nil || r.OrderedBy.Name != "alice" || r.Reason != "sent again, ordered by alice" {
		t.Errorf("%+v", r)
	}
}

// Fault: unavailable at start. Result: Certpost waits without a time limit.
func TestNATSThatComesLaterIsWaitedFor(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{URL: "nats://" + addr}}
	b.open()
	b.runner = NewRunner(b.broker, b.fake, b.set, newTestMetrics())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.runner.Run(ctx) }()
	b.stop = func() { cancel(); <-done }
	defer b.close()
	if err := b.runner.Ready(ctx); err == nil {
		t.Error("ready without NATS")
	}
	if err := b.broker.Health(ctx); err == nil || !strings.Contains(err.Error(), "not connected to NATS") {
		t.Errorf("health: %v", err)
	}
	lab.NATS(t, addr, "")
	b.until("ready", func() bool { return b.runner.Ready(ctx) == nil })
	b.publish(event("e1", "ops"))
	b.settled()
	if got := len(b.fake.mails("e1")); got != 1 {
		t.Errorf("%d mails", got)
	}
}
