package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
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
