package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/verdict"
)

// Two processes, each with its own connection, publish the dead letter of one message whose acknowledgement was
// overdue. Neither takes the letter of the other for an earlier one.
//
// Fault: two processes dead-letter the same message. Result: one dead letter.
func TestTwoProcessesBuryOneDelivery(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b, err := Open(Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", SyncInterval: "2m"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.EnsureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	other, err := Open(clientOf(b), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	for i := range 40 {
		id := fmt.Sprintf("e%d", i)
		if err := b.PublishDeadLetter(ctx, letterOf(id), "d1"); err != nil { // of an earlier delivery
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, process := range []*Broker{b, other, b, other} {
			wg.Go(func() {
				if err := process.PublishDeadLetter(ctx, letterOf(id), "d2"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		d := letterOf(id)
		raw, err := b.leaderGet(ctx, DeadLettersStream, getRequest{Last: d.subjectOf()})
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Fatalf("the letter of %s is lost", id)
		}
		if err != nil || raw.Header.Get("Nats-Msg-Id") != id+"/d2/dead" {
			t.Errorf("%v, %v", raw.Header, err)
		}
	}
	if numbers := letterNumbers(t, b, 1); len(numbers) != 40 {
		t.Errorf("%d letters of 40 deliveries: %v", len(numbers), numbers)
	}
}

// A letter that was acted on is gone, even if the stream still knows its message id.
// If its delivery message is redelivered and fails again, it needs a new letter.
func TestALetterThatWasActedOnIsBuriedAnew(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	if err := b.PublishDeadLetter(ctx, letterOf("e1"), "d1"); err != nil {
		t.Fatal(err)
	}
	if err := b.PublishDeadLetter(ctx, letterOf("e1"), "d1"); err != nil { // the same message, again after a crash
		t.Fatal(err)
	}
	if numbers := letterNumbers(t, b, 1); len(numbers) != 1 || numbers[0] != 1 {
		t.Fatalf("letters %v", numbers)
	}
	d, err := b.DeadLetter(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Replay(ctx, d, operator, Replay{}); err != nil {
		t.Fatal(err)
	}
	if err := b.PublishDeadLetter(ctx, letterOf("e1"), "d1"); err != nil {
		t.Fatal(err)
	}
	if numbers := letterNumbers(t, b, 1); len(numbers) != 1 || numbers[0] != 2 {
		t.Errorf("letters %v", numbers)
	}
}

// What is stored stays if it says what the next letter of the delivery would say, also if that is
// about another message of the same publication; otherwise the next one replaces it.
//
// Fault: kill -9 between the dead letter and the ledger's entry, and the event is fanned out again.
// Result: the letter is written once.
func TestALetterThatSaysTheSameStays(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), t.Context()
	letter := func(id string, generation int, event uint64, certainty verdict.Certainty) *DeadLetter {
		d := letterOf(id)
		d.Generation, d.Certainty = generation, certainty
		if event != 0 {
			d.Published = verdict.Publication{Sequence: event, At: time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)}
		}
		return d
	}
	for i, c := range []struct {
		what         string
		stored, next *DeadLetter
		message      string // of the next one; the stored one is about d1
		stays        bool
	}{
		{"the same message again", letter("e0", 1, 0, verdict.NotSent), letter("e0", 1, 0, verdict.NotSent), "d1", true},
		{"fanned out again", letter("e1", 1, 7, verdict.NotSent), letter("e1", 1, 7, verdict.NotSent), "d2", true},
		{"a slow attempt at what was replayed since", letter("e2", 2, 7, verdict.NotSent), letter("e2", 1, 7, verdict.NotSent), "d2", true},
		{"another publication", letter("e3", 1, 7, verdict.NotSent), letter("e3", 1, 8, verdict.NotSent), "d2", false},
		{"a publication that is not known", letter("e4", 1, 0, verdict.NotSent), letter("e4", 1, 0, verdict.NotSent), "d2", false},
		{"a later generation of the same message", letter("e5", 1, 7, verdict.NotSent), letter("e5", 2, 7, verdict.NotSent), "d1", false},
		{"a replay's failure", letter("e6", 1, 7, verdict.NotSent), letter("e6", 2, 7, verdict.NotSent), "d2", false},
		{"the mail may have been sent since", letter("e7", 1, 7, verdict.NotSent), letter("e7", 1, 7, verdict.MaybeSent), "d1", false},
	} {
		want := *c.next
		if c.stays {
			want = *c.stored
		}
		if err := b.PublishDeadLetter(ctx, c.stored, "d1"); err != nil {
			t.Fatal(err)
		}
		first := letterNumbers(t, b, 1)
		if err := b.PublishDeadLetter(ctx, c.next, c.message); err != nil {
			t.Fatal(err)
		}
		numbers := letterNumbers(t, b, 1)
		if len(numbers) != i+1 || len(first) != i+1 {
			t.Fatalf("%s: letters %v, then %v", c.what, first, numbers)
		}
		if stays := numbers[i] == first[i]; stays != c.stays {
			t.Errorf("%s: the stored letter stays: %t, want %t", c.what, stays, c.stays)
		}
		if got, err := b.DeadLetter(ctx, numbers[i]); err != nil || got.Generation != want.Generation || got.Certainty != want.Certainty {
			t.Errorf("%s: generation %d, %s, %v; want %d, %s", c.what, got.Generation, got.Certainty, err, want.Generation, want.Certainty)
		}
	}
}
