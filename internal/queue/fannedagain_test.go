package queue

import (
	"context"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

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
// operator, or another publication of the event, makes a dead delivery be tried again; where the
// outcome is unknown, and dead_letter is configured, only an operator.
//
// Fault: kill -9 that makes the server forget that events were acknowledged. Result: they are fanned
// out again; what was sent, is dead, was skipped or discarded stays so, and no mail is sent.
//
// Fault: the event of a dead letter of unknown outcome is published again, with on_unknown_outcome:
// dead_letter. Result: the letter stays as it is, and only an operator's replay sends the mail.
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
			if name == "unknown" { // only an operator can know
				unchanged("published again", before, letters, c.mails)
				replayLetter(b, letters[0])
				b.settled()
				if got := b.entry("ops", "e1"); got.State != broker.StateSent || len(b.fake.mails("e1")) != 2 {
					t.Errorf("replayed: %+v, %d mails", got, len(b.fake.mails("e1")))
				}
				return
			}
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
	if err := b.broker.Replay(context.Background(), d, tester, broker.Replay{Reason: "the address is corrected", Uncertain: true}); err != nil {
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

// A dead delivery is replayed, and while its replay is in work the server, which was killed, delivers
// the message that ended as the letter once more.
//
// Fault: kill -9 during a replay that makes the server forget that the first message was acknowledged.
// Result: only the replay goes on; its outcome is its own, and one order makes one mail.
func TestAMessageThatItsReplayHasOvertaken(t *testing.T) {
	t.Parallel()
	inWork := func(state broker.State) (b *fixture, again func(copyOf bool) *nats.Msg, release func()) {
		b = start(t, newFakeCourier("ops"), func(s *Settings) {
			s.DeadLetterUnknown, s.RetryInitial, s.RetryMax = true, time.Hour, time.Hour
		})
		hang := make(chan struct{})
		release = sync.OnceFunc(func() { close(hang) })
		t.Cleanup(release)
		b.fake.plan("ops", func(try int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
			switch {
			case try == 1:
				return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
			case try == 2 && state == broker.StateWaiting:
				return nil, fail(verdict.SMTPTransient, verdict.PhaseRcpt)
			}
			if err := a.Claim(time.Now().Add(time.Minute)); err != nil {
				return nil, claimLost(err)
			}
			<-hang
			return &verdict.Receipt{Recipients: []string{"a@example.com"}}, nil
		})
		b.publish(event("e1", "ops"))
		b.settled()
		letter := b.letters()[0]
		replayLetter(b, letter)
		b.until("the replay is in work", func() bool { e := b.entry("ops", "e1"); return e.State == state && e.Generation == 2 })
		again = func(copyOf bool) *nats.Msg {
			m := nats.NewMsg(letter.ReplaySubject)
			m.Data = letter.Body
			m.Header.Set(broker.HeaderGeneration, "1")
			m.Header.Set(broker.HeaderEventSequence, "1")
			if copyOf {
				m.Header.Set(broker.HeaderCopyOf, "1")
			}
			return m
		}
		return b, again, release
	}
	deliver := func(b *fixture, m *nats.Msg) {
		t.Helper()
		ack, err := b.broker.JetStream().PublishMsg(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		b.until("the message is settled", func() bool {
			held, err := b.broker.HoldsDelivery(t.Context(), ack.Sequence, "ops", "e1")
			return err == nil && !held
		})
	}
	for _, state := range []broker.State{broker.StateWaiting, broker.StateSending} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			b, again, release := inWork(state)
			before := b.entry("ops", "e1")
			deliver(b, again(false)) // fanned out again
			deliver(b, again(true))  // stranded, and published again
			if after := b.entry("ops", "e1"); !reflect.DeepEqual(after, before) {
				t.Errorf("the entry was %+v, and is %+v", before, after)
			}
			if letters := b.letters(); len(letters) != 0 {
				t.Errorf("letters %+v", letters)
			}
			release()
			if state == broker.StateSending {
				b.settled()
				b.wantSent("the replay's own success", "e1 to ops, letter 1, ordered by "+tester.Name)
			}
		})
	}
	t.Run("the replay is lost", func(t *testing.T) {
		t.Parallel()
		b, again, release := inWork(broker.StateWaiting)
		release()
		deliveries, err := b.broker.JetStream().Stream(t.Context(), broker.DeliveriesStream)
		if err != nil {
			t.Fatal(err)
		}
		if err := deliveries.DeleteMsg(t.Context(), b.entry("ops", "e1").Sequence); err != nil {
			t.Fatal(err)
		}
		deliver(b, again(true))
		if e := b.entry("ops", "e1"); e.State != broker.StateSent || e.Generation != 2 {
			t.Errorf("the message has not taken the place of the lost one: %+v", e)
		}
	})
}

// An event is published again after its delivery has died. Its message does not say the generation,
// which each attempt at it must keep: the replay of its letter has an id that is made of it.
func TestRetriesKeepTheGeneration(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("ops", func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if try == 2 {
			return nil, fail(verdict.SMTPTransient, verdict.PhaseRcpt)
		}
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	b.publish(event("e1", "ops"))
	b.settled()
	b.publish(event("e1", "ops"))
	b.until("tried again", func() bool { return b.fake.tried("ops") == 3 })
	b.settled()
	if e, letters := b.entry("ops", "e1"), b.letters(); e.Generation != 2 || len(letters) != 1 || letters[0].Generation != 2 {
		t.Errorf("ledger %+v, letters %+v", e, letters)
	}
}

// As above, but the process was killed between the dead letter and the ledger's entry: the message
// that is made again fails as well, and its letter is the one that is there.
//
// Fault: kill -9 between the dead letter and the ledger's entry, and the event is fanned out again.
// Result: the letter is written once.
func TestFannedOutAgainBeforeTheLedgerKnows(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	})
	b.publish(event("e1", "ops"))
	b.settled()
	letters := b.letters()
	ledger, err := b.broker.JetStream().KeyValue(t.Context(), broker.LedgerBucket)
	if err != nil {
		t.Fatal(err)
	}
	if err := ledger.Delete(t.Context(), broker.LedgerKey("ops", "e1")); err != nil {
		t.Fatal(err)
	}
	b.forgetEvents()
	if e := b.entry("ops", "e1"); e.State != broker.StateDead || e.Generation != 1 {
		t.Errorf("ledger: %+v", e)
	}
	if now := b.letters(); len(now) != 1 || !reflect.DeepEqual(now, letters) {
		t.Errorf("the letters were %+v, and are %+v", letters, now)
	}
}
