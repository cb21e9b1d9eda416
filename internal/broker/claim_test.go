package broker

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/nats-io/nats.go"
)

// appendIntent appends an intent as a process does whose clock is wrong by the given time.
func appendIntent(t *testing.T, b *Broker, clock time.Duration, action Action) {
	t.Helper()
	d, err := b.DeadLetter(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	l := b.link(AuditRecord{Action: action, Stage: StageIntent, Actor: Actor{Name: "elsewhere"}, Event: d.Event, Target: d.Target, LetterNumber: 1}, "")
	l.record.Time = l.record.Time.Add(clock)
	if err := b.appendAll(t.Context(), []*link{l}); err != nil {
		t.Fatal(err)
	}
}

// The life of a claim does not depend on the clocks of the processes.
//
// Fault: or differ between processes. Result: claims and outcomes use the server's clock.
func TestClaimsOfProcessesWhoseClocksDiffer(t *testing.T) {
	t.Parallel()
	for _, clock := range []time.Duration{-time.Hour, time.Hour} {
		b, d := brokerWithLetter(t)
		appendIntent(t, b, clock, ActionReplayed)
		var taken *Taken
		if err := b.Discard(t.Context(), d, operator, "x"); !errors.As(err, &taken) || taken.Record.Name != "elsewhere" {
			t.Errorf("with a clock that is off by %v, while the claim lives: %v", clock, err)
		}
		b.cfg.ClaimLife = time.Second
		waitForClaimEnd(t, b, d)
		if err := b.Discard(t.Context(), d, operator, "x"); err != nil {
			t.Errorf("with a clock that is off by %v, when the claim has expired: %v", clock, err)
		}
	}
}

// delayAfterClaim delays the next action that has claimed a letter until the claim has
// expired, then calls act.
func delayAfterClaim(t *testing.T, b *Broker, d DeadLetter, act func()) {
	b.cfg.Reached = func(string) {
		b.cfg.Reached = nil
		waitForClaimEnd(t, b, d)
		act()
	}
}

// waitForClaimEnd waits until no claim on a letter is active, by the server's clock.
func waitForClaimEnd(t *testing.T, b *Broker, d DeadLetter) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		s, err := b.auditStateOf(context.Background(), AuditRecord{Event: d.Event, Target: d.Target, LetterNumber: d.Sequence})
		if err != nil {
			t.Fatal(err)
		}
		if alive, err := b.claimActive(context.Background(), s); err != nil {
			t.Fatal(err)
		} else if !alive {
			return
		}
	}
	t.Fatal("the claim does not end")
}

// A process that is so slow that another one takes the letter over does nothing more
// to the letter, and does not report that it did.
//
// Fault: an operator's process is delayed for longer than its claim lasts. Result: it does
// nothing further, and says so.
func TestAClaimThatWasTakenOverEndsNothing(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	b.cfg.ClaimLife = time.Second
	delayAfterClaim(t, b, d, func() {
		if err := b.Replay(context.Background(), d, Actor{Name: "bob"}, Replay{}); err != nil {
			t.Error(err)
		}
	})
	var taken *Taken
	if err := b.Discard(t.Context(), d, Actor{Name: "alice"}, "x"); !errors.As(err, &taken) || taken.Record.Name != "bob" {
		t.Errorf("the discard: %v", err)
	}
	if recorded := history(t, b, 1); !slices.Equal(recorded, []string{"intent discarded", "intent replayed", "outcome replayed"}) {
		t.Errorf("history %q", recorded)
	}
}

// Fault: an operator's process is delayed for longer than its claim lasts. Result: it does
// nothing further.
func TestALateReplayIsNotPublished(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	b.cfg.ClaimLife = time.Second
	delayAfterClaim(t, b, d, func() {
		if err := b.Discard(context.Background(), d, Actor{Name: "bob"}, "not needed"); err != nil {
			t.Error(err)
		}
	})
	if err := b.Replay(t.Context(), d, Actor{Name: "alice"}, Replay{}); err == nil {
		t.Error("replayed what was discarded meanwhile")
	}
	if n := countDeliveries(t, b); n != 0 {
		t.Errorf("%d deliveries of a discarded letter", n)
	}
}

// After a lost acknowledgement, a process recognizes its own intent.
func TestOwnIntentIsRecognized(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	r := AuditRecord{Action: ActionReplayed, Actor: operator, Event: d.Event, Target: d.Target, LetterNumber: 1}
	c, err := b.claimFor(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.auditStateOf(t.Context(), r)
	if err != nil || s.intent == nil || !s.intent.sameAs(c.intent) {
		t.Fatalf("%+v, %v", s.intent, err)
	}
	if again, err := b.claimFor(t.Context(), r); err == nil || again.intent.sameAs(c.intent) {
		t.Errorf("a second click of the same operator is another claim: %v", err)
	}
}

// Numbers restart when the stream is recreated. An end recorded before belongs to another
// letter: it neither blocks nor removes the new letter with the same number.
//
// Fault: the stream of letters is created again. Result: its letters are not confused with
// earlier ones: not blocked; not removed.
func TestEndsOfAnEarlierStreamAreNoEnds(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	ctx := t.Context()
	if err := b.Replay(ctx, d, operator, Replay{}); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureTopology(ctx); err != nil { // sees that the stream is there
		t.Fatal(err)
	}
	if err := b.js.DeleteStream(ctx, DeadLettersStream); err != nil {
		t.Fatal(err)
	}
	// By an administrator, who does not know which numbers were assigned before.
	backoff.Sleep(ctx, deletionTime)
	for _, want := range b.streams() {
		if want.Name == DeadLettersStream {
			if _, err := b.js.CreateStream(ctx, want); err != nil {
				t.Fatal(err)
			}
		}
	}
	publishLetters(t, b, 1)
	if err := b.TakeOff(ctx, 1); err != nil {
		t.Fatal(err)
	}
	d, err := b.DeadLetter(ctx, 1)
	if err != nil {
		t.Fatalf("the letter was taken off: %v", err)
	}
	if err := b.Discard(ctx, d, operator, "x"); err != nil {
		t.Errorf("it is blocked: %v", err)
	}
}

// Two letters of one delivery were discarded: each can be restored.
func TestRestoreOfTheFirstOfTwo(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	ctx := t.Context()
	if err := b.Discard(ctx, d, operator, "x"); err != nil {
		t.Fatal(err)
	}
	publishLetters(t, b, 1) // the same delivery died again
	if d, err := b.DeadLetter(ctx, 2); err != nil {
		t.Fatal(err)
	} else if err := b.Discard(ctx, d, operator, "y"); err != nil {
		t.Fatal(err)
	}
	record, err := b.Discarded(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if number, err := b.Restore(ctx, record, operator, "needed"); err != nil || number != 3 {
		t.Errorf("number %d, %v", number, err)
	}
	var taken *Taken
	if _, err := b.Restore(ctx, record, operator, "again"); !errors.As(err, &taken) || taken.Record.NewLetter != 3 {
		t.Errorf("restored twice: %v", err)
	}
}

// The end of a letter of which only the number is known is recorded once, as any other.
func TestUnknownLettersAreObservedOnce(t *testing.T) {
	t.Parallel()
	b := newTestBroker(t)
	publishLetters(t, b, 2)
	for n := uint64(1); n <= 2; n++ {
		if err := b.RemoveLetter(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for n := uint64(1); n <= 2; n++ {
			if _, err := b.Observe(t.Context(), AuditRecord{Action: ActionRemoved, Actor: operator, LetterNumber: n}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := uint64(1); n <= 2; n++ {
		if recorded := history(t, b, n); !slices.Equal(recorded, []string{"outcome removed"}) {
			t.Errorf("letter %d: %q", n, recorded)
		}
	}
}

// After a lost acknowledgement the replay is published again while the claim lives: the
// message id makes that harmless, and a replay that was published is not recorded as failed.
func TestALostAcknowledgementOfAReplay(t *testing.T) {
	t.Parallel()
	b, d := brokerWithLetter(t)
	d.ReplaySubject = DeliveryPrefix + "nobody" // no stream has subjects of three tokens
	var asked []*nats.Msg
	sub, err := b.nc.Subscribe(d.ReplaySubject, func(m *nats.Msg) {
		if asked = append(asked, m); len(asked) > 1 {
			_ = m.Respond([]byte(`{"stream":"X","seq":7,"duplicate":true}`))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := b.Replay(t.Context(), d, operator, Replay{}); err != nil {
		t.Fatal(err)
	}
	if len(asked) != 2 || asked[0].Header.Get(nats.MsgIdHdr) == "" || asked[0].Header.Get(nats.MsgIdHdr) != asked[1].Header.Get(nats.MsgIdHdr) {
		t.Errorf("published %d times", len(asked))
	}
	if recorded := history(t, b, 1); !slices.Equal(recorded, []string{"intent replayed", "outcome replayed"}) {
		t.Errorf("history %q", recorded)
	}
}
