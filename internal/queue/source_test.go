package queue

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// sourceCourier notes on which subject the events are said to have been published that it is to
// resolve or to deliver. Every delivery is refused.
type sourceCourier struct {
	*fakeCourier
	mu                 sync.Mutex
	resolved, attempts []string
}

func (c *sourceCourier) Resolve(ctx context.Context, ev *events.Event) ([]verdict.Route, *verdict.Failure) {
	c.mu.Lock()
	c.resolved = append(c.resolved, ev.Subject)
	c.mu.Unlock()
	return c.fakeCourier.Resolve(ctx, ev)
}

func (c *sourceCourier) Deliver(_ context.Context, ev *events.Event, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	c.mu.Lock()
	c.attempts = append(c.attempts, ev.Subject)
	c.mu.Unlock()
	return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
}

func (c *sourceCourier) noted() (resolved, attempts []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.resolved), slices.Clone(c.attempts)
}

// The subject that an event was published on stays with it, whichever way it comes to another
// attempt, and no header of its publisher changes it.
//
// Fault: its letters are replayed, restored, sent to another target, or published again without
// headers; its publisher sets our headers. Result: the source stays with the event, and its
// limits of today apply.
func TestTheSourceStaysWithTheEvent(t *testing.T) {
	t.Parallel()
	const subject = "certificate.issued.web1.example.com"
	c := &sourceCourier{fakeCourier: newFakeCourier("ops", "other")}
	b := &fixture{t: t, fake: c.fakeCourier, courier: c, set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.start()
	ctx := t.Context()
	js := b.broker.JetStream()
	attempts := 0
	attempted := func(how string) broker.DeadLetter {
		t.Helper()
		attempts++
		b.until("attempt "+how, func() bool { _, all := c.noted(); return len(all) >= attempts })
		b.settled()
		_, all := c.noted()
		if len(all) != attempts || all[attempts-1] != subject {
			t.Fatalf("%s: attempts of events of %q, want one more, of %s", how, all, subject)
		}
		letters := b.letters()
		if len(letters) != 1 || letters[0].EventSubject != subject {
			t.Fatalf("%s: letters %+v, want one of %s", how, letters, subject)
		}
		return letters[0]
	}

	m := nats.NewMsg(subject)
	m.Data = event("e1", "ops").Encode()
	m.Header.Set(broker.HeaderEventSubject, "certificate.issued.admin")
	if _, err := js.PublishMsg(ctx, m); err != nil {
		t.Fatal(err)
	}
	letter := attempted("first")
	if resolved, _ := c.noted(); !slices.Equal(resolved, []string{subject}) {
		t.Errorf("resolved events of %q, want one of %s", resolved, subject)
	}
	if e := b.entry("ops", "e1"); e.EventSubject != subject {
		t.Errorf("the ledger says %q, want %s", e.EventSubject, subject)
	}

	if err := b.broker.Replay(ctx, letter, tester, broker.Replay{}); err != nil {
		t.Fatal(err)
	}
	letter = attempted("replayed")

	// As the NATS CLI replays: only the body, no headers.
	if _, err := js.Publish(ctx, letter.ReplaySubject, letter.Body); err != nil {
		t.Fatal(err)
	}
	letter = attempted("published again without headers")

	if err := b.broker.Discard(ctx, letter, tester, "by mistake"); err != nil {
		t.Fatal(err)
	}
	discarded, err := b.broker.Discarded(ctx, letter.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.broker.Restore(ctx, discarded, tester, ""); err != nil {
		t.Fatal(err)
	}
	letter = b.letters()[0]
	if err := b.broker.Replay(ctx, letter, tester, broker.Replay{Target: "other", Lane: "relay"}); err != nil {
		t.Fatal(err)
	}
	attempted("restored, and replayed to another target")
}

// A letter about the event as a whole has the source in its replay subject.
func TestTheSourceOfAnEventLetter(t *testing.T) {
	t.Parallel()
	c := &sourceCourier{fakeCourier: newFakeCourier("ops")}
	b := &fixture{t: t, fake: c.fakeCourier, courier: c, set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.start()
	ev := event("e1", "gone")
	ev.Subject = "certificate.issued.web1"
	if _, _, err := b.broker.Publish(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	// The same event from another source is another event: its rights are others.
	other := *ev
	other.Subject = "certificate.issued.web2"
	if _, duplicate, err := b.broker.Publish(t.Context(), &other); err != nil || duplicate {
		t.Fatalf("duplicate %v, %v", duplicate, err)
	}
	if _, duplicate, err := b.broker.Publish(t.Context(), ev); err != nil || !duplicate {
		t.Fatalf("the same event from the same source: duplicate %v, %v", duplicate, err)
	}
	b.settled()
	b.until("the letter", func() bool { return len(b.letters()) == 1 })
	if resolved, _ := c.noted(); !slices.Equal(resolved, []string{ev.Subject, other.Subject}) {
		t.Errorf("resolved events of %q", resolved)
	}
	letter := b.letters()[0]
	if letter.EventSubject != other.Subject || letter.ReplaySubject != other.Subject {
		t.Errorf("the letter says %q and %q, want %s", letter.EventSubject, letter.ReplaySubject, other.Subject)
	}
	if err := b.broker.Replay(t.Context(), letter, tester, broker.Replay{}); err != nil {
		t.Fatal(err)
	}
	b.until("the replay", func() bool { resolved, _ := c.noted(); return len(resolved) == 3 && resolved[2] == other.Subject })
}
