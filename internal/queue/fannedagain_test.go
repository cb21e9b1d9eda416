package queue

import (
	"context"
	"reflect"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// forgetEvents starts the process again, on a store that has forgotten which events were
// acknowledged and which deliveries were stored, as after kill -9.
func (b *fixture) forgetEvents() {
	b.t.Helper()
	b.close()
	b.open()
	if err := b.broker.JetStream().DeleteConsumer(b.t.Context(), broker.EventsStream, broker.FanoutConsumer); err != nil {
		b.t.Fatal(err)
	}
	b.run()
	b.settled()
}

// The events are fanned out again, into new messages, after their deliveries have ended. Only an
// operator, or another publication of the event, makes a dead delivery be tried again.
//
// Fault: kill -9 that makes the server forget that events were acknowledged. Result: they are fanned
// out again; what was sent, is dead, was skipped or discarded stays so, and no mail is sent.
func TestEventsFannedOutAgain(t *testing.T) {
	t.Parallel()
	// The relay takes every mail after the first tries: what is attempted again is seen there.
	unknown := fail(verdict.SMTPTransient, verdict.PhaseContent)
	unknown.Certainty = verdict.MaybeSent
	refuses := func(tries int) func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
			if try <= tries {
				return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
			}
			return nil, nil
		}
	}
	for name, c := range map[string]struct {
		deliver        func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure)
		act            func(*fixture, broker.DeadLetter) // an operator's order, before the process is killed
		state          broker.State
		mails, letters int
	}{
		"sent": {refuses(0), nil, broker.StateSent, 1, 0},
		"dead": {refuses(1), nil, broker.StateDead, 0, 1},
		"unknown": {func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
			if try == 1 {
				return lostReply, unknown
			}
			return nil, nil
		}, nil, broker.StateDead, 1, 1},
		"discarded":                {refuses(1), discardLetter, broker.StateDiscarded, 0, 0},
		"replayed, and dead again": {refuses(2), replayLetter, broker.StateDead, 0, 1},
		"replayed, and sent":       {refuses(1), replayLetter, broker.StateSent, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, newFakeCourier("ops"), func(s *Settings) { s.DeadLetterUnknown = true })
			b.fake.plan("ops", c.deliver)
			unchanged := func(when string, before broker.Entry, letters []broker.DeadLetter, mails int) {
				t.Helper()
				if after := b.entry("ops", "e1"); !reflect.DeepEqual(after, before) {
					t.Errorf("%s: the entry was %+v, and is %+v", when, before, after)
				}
				if now := b.letters(); !reflect.DeepEqual(now, letters) {
					t.Errorf("%s: the letters were %+v, and are %+v", when, letters, now)
				}
				if got := len(b.fake.mails("e1")); got != mails {
					t.Errorf("%s: %d mails, want %d", when, got, mails)
				}
			}
			b.publish(event("e1", "ops"))
			b.settled()
			if c.act != nil {
				c.act(b, b.letters()[0])
				b.settled()
			}
			before, letters := b.entry("ops", "e1"), b.letters()
			if before.State != c.state || len(letters) != c.letters || len(b.fake.mails("e1")) != c.mails {
				t.Fatalf("%+v, %d letters, %d mails", before, len(letters), len(b.fake.mails("e1")))
			}
			for range 2 {
				b.forgetEvents()
				unchanged("fanned out again", before, letters, c.mails)
			}

			b.publish(event("e1", "ops")) // the publisher wants it
			b.settled()
			mails := c.mails
			if c.state != broker.StateSent {
				mails++
			}
			if got := b.entry("ops", "e1"); got.State != broker.StateSent || len(b.letters()) != 0 || len(b.fake.mails("e1")) != mails {
				t.Fatalf("published again: %+v, %d letters, %d mails", got, len(b.letters()), len(b.fake.mails("e1")))
			}
			before = b.entry("ops", "e1")
			b.forgetEvents()
			unchanged("both publications fanned out again", before, nil, mails)
		})
	}
}

// replayLetter replays the letter, as an operator does.
func replayLetter(b *fixture, d broker.DeadLetter) {
	b.t.Helper()
	if err := b.broker.Replay(context.Background(), d, tester, broker.Replay{Reason: "the address is corrected"}); err != nil {
		b.t.Fatal(err)
	}
	b.until("the replay", func() bool { return b.fake.tried("ops") > 1 })
}

// discardLetter discards the letter, as an operator does.
func discardLetter(b *fixture, d broker.DeadLetter) {
	b.t.Helper()
	if err := b.broker.Discard(context.Background(), d, tester, "not wanted"); err != nil {
		b.t.Fatal(err)
	}
}
