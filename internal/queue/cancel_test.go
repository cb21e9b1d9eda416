package queue

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// waitingFixture has a delivery to ops that failed once and waits for an hour.
func waitingFixture(t *testing.T, change func(*Settings)) (b *fixture, busy *atomic.Bool) {
	t.Helper()
	busy = &atomic.Bool{}
	busy.Store(true)
	fake := newFakeCourier("ops")
	fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if busy.Load() {
			return nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseRcpt, Reason: "mailbox is busy", ReplyCode: 450}}
		}
		return nil, nil
	})
	b = start(t, fake, func(s *Settings) {
		s.RetryInitial, s.RetryMax = time.Hour, time.Hour
		if change != nil {
			change(s)
		}
	})
	b.publish(event("e1", "ops"))
	b.until("it waits", func() bool {
		e := b.entry("ops", "e1")
		return e.State == broker.StateWaiting && e.Attempts == 1 && !e.NextTry.IsZero()
	})
	return b, busy
}

func order() broker.Cancel {
	return broker.Cancel{Actor: tester, Reason: "the wrong target", At: time.Now().UTC()}
}

// waits returns the delivery to ops as the queue has it.
func (b *fixture) waits(event string) broker.Entry {
	b.t.Helper()
	list, _, _, err := b.broker.NewestWaiting(context.Background(), 0, 100)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, w := range list {
		if w.Entry.Event == event {
			e, _ := w.With(b.entry("ops", event))
			return e
		}
	}
	return broker.Entry{}
}

// withdrawn returns the audit's records of cancelled deliveries.
func (b *fixture) withdrawn() (all []broker.AuditRecord) {
	b.t.Helper()
	for r, err := range b.broker.ReadAudit(context.Background(), 1) {
		if err != nil {
			b.t.Fatal(err)
		}
		if r.Action == broker.ActionWithdrawn {
			all = append(all, r)
		}
	}
	return all
}

// cancelledOnce checks that the delivery has one letter, one record, and no mail.
func (b *fixture) cancelledOnce(event string) {
	b.t.Helper()
	b.settled()
	e, letters, audit := b.entry("ops", event), b.letters(), b.withdrawn()
	if e.State != broker.StateDead || e.Failure.Code != verdict.DeliveryCancelled || len(letters) != 1 || letters[0].Code != verdict.DeliveryCancelled || letters[0].Subject != e.DeadLetter {
		b.t.Fatalf("letters %+v, entry %+v", letters, e)
	}
	if len(audit) != 1 || audit[0].Name != tester.Name || audit[0].Reason != "the wrong target" || audit[0].Target != "ops" {
		b.t.Errorf("audit %+v", audit)
	}
	if mails := b.fake.mails(event); len(mails) != 0 {
		b.t.Errorf("%d mails", len(mails))
	}
}

// A delivery that waits for an hour is cancelled: a letter says who and why, and can be replayed.
func TestCancel(t *testing.T) {
	t.Parallel()
	b, busy := waitingFixture(t, nil)
	if err := b.runner.Cancel(t.Context(), b.waits("e1"), order()); err != nil {
		t.Fatal(err)
	}
	b.cancelledOnce("e1")
	l := b.letters()[0]
	if !strings.Contains(l.Reason, "cancelled by tester: the wrong target; the last failure was SMTP_TRANSIENT: mailbox is busy") || l.Attempts != 1 || l.Certainty != verdict.NotSent || l.FailedReplays != 0 {
		t.Errorf("%+v", l)
	}
	if err := b.runner.Cancel(t.Context(), broker.Entry{Event: "e1", Target: "ops", Lane: "relay", Sequence: 1}, order()); !errors.Is(err, broker.ErrNoEntry) {
		t.Errorf("again: %v", err)
	}
	busy.Store(false)
	if err := b.broker.Replay(t.Context(), l, tester, broker.Replay{}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if e := b.entry("ops", "e1"); e.State != broker.StateSent || e.Generation != 2 || e.Cancel != nil || len(b.fake.mails("e1")) != 1 || len(b.letters()) != 0 {
		t.Errorf("after the replay: %+v, letters %+v", e, b.letters())
	}
}

// The process that cancels a delivery ends at every step. The next process that gets the message,
// or the same order, finishes it.
//
// Fault: the process ends at any step of the cancellation of a delivery. Result: one dead letter, one record, no mail.
func TestCancelThatEndsHalfWay(t *testing.T) {
	t.Parallel()
	for _, point := range []string{pointCancelled, pointWithdrawn, pointDeadLettering, pointDeadLettered, pointDead} {
		for _, finish := range []string{"the order again", "the lane"} {
			t.Run(point+", then "+finish, func(t *testing.T) {
				t.Parallel()
				var dies atomic.Bool
				b, busy := waitingFixture(t, func(s *Settings) {
					s.Reached = func(p string) {
						if p == point && dies.CompareAndSwap(true, false) {
							runtime.Goexit()
						}
					}
				})
				one := b.waits("e1")
				dies.Store(true)
				var ended sync.WaitGroup
				ended.Go(func() { _ = b.runner.Cancel(context.Background(), one, order()) })
				ended.Wait()
				if dies.Load() {
					t.Fatal("the point was not reached")
				}
				busy.Store(false) // an attempt would send the mail
				var err error
				if finish == "the lane" {
					err = b.broker.RetryNow(t.Context(), one)
				} else {
					err = b.runner.Cancel(t.Context(), one, order())
				}
				if err != nil {
					t.Fatal(err)
				}
				b.cancelledOnce("e1")
			})
		}
	}
}

// An attempt that has begun, but not claimed the delivery, loses it to the order; one that has
// claimed it wins. Two processes run.
//
// Fault: a delivery is cancelled while an attempt runs. Result: before its claim one dead letter and no mail; after it one mail, and the order is refused.
func TestCancelDuringAnAttempt(t *testing.T) {
	t.Parallel()
	for point, sent := range map[string]bool{pointDue: false, pointClaiming: false, pointClaimed: true, pointAccepted: true} {
		for name, tried := range map[string]bool{"tried before": true, "new": false} {
			t.Run(point+", "+name, func(t *testing.T) {
				t.Parallel()
				var holds atomic.Bool
				stands, goes := make(chan struct{}), make(chan struct{})
				b, busy := waitingFixture(t, func(s *Settings) {
					s.Reached = func(p string) {
						if p == point && holds.CompareAndSwap(true, false) {
							close(stands)
							<-goes
						}
					}
				})
				second := b.replica()
				defer second.stop()
				busy.Store(false)
				holds.Store(true)
				id := "e1"
				if tried {
					if err := b.broker.RetryNow(t.Context(), b.waits("e1")); err != nil {
						t.Fatal(err)
					}
				} else {
					if err := b.runner.Cancel(t.Context(), b.waits("e1"), order()); err != nil {
						t.Fatal(err)
					}
					for _, l := range b.letters() {
						if err := b.broker.Discard(t.Context(), l, tester, "not this one"); err != nil {
							t.Fatal(err)
						}
					}
					id = "e2"
					b.publish(event("e2", "ops"))
				}
				<-stands
				one := broker.Entry{Event: id, Target: "ops", Lane: "relay"}
				if err := b.broker.WaitingFor(t.Context(), "ops", func(token string, sequence uint64) {
					if token == events.Token(id) {
						one.Sequence = sequence
					}
				}); err != nil {
					t.Fatal(err)
				}
				err := second.runner.Cancel(t.Context(), one, order())
				close(goes)
				b.settled()
				e, letters, mails := b.entry("ops", id), b.letters(), b.fake.mails(id)
				if sent && (!errors.Is(err, broker.ErrInAttempt) || len(mails) != 1 || len(letters) != 0 || e.State != broker.StateSent) {
					t.Errorf("%v, %d mails, letters %+v, %s", err, len(mails), letters, e.State)
				}
				if !sent && (err != nil || len(mails) != 0 || len(letters) != 1 || e.State != broker.StateDead) {
					t.Errorf("%v, %d mails, letters %+v, %s", err, len(mails), letters, e.State)
				}
			})
		}
	}
}

// Two processes cancel one delivery at the same time, and it has a copy: there is one letter.
//
// Fault: a waiting delivery with a copy is cancelled in two processes at once. Result: one dead letter, one record, no mail.
func TestCancelTwiceAtOnce(t *testing.T) {
	t.Parallel()
	b, busy := waitingFixture(t, nil)
	second := b.replica()
	defer second.stop()
	one := b.waits("e1")
	stream, err := b.broker.JetStream().Stream(t.Context(), broker.DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := stream.GetMsg(t.Context(), one.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	busy.Store(false)
	var both sync.WaitGroup
	for _, r := range []*Runner{b.runner, second.runner} {
		both.Go(func() {
			if err := r.Cancel(context.Background(), one, order()); err != nil && !errors.Is(err, broker.ErrNoEntry) {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if err := b.broker.PublishCopy(t.Context(), raw, "relay", "ops"); err != nil { // a search that was under way
		t.Fatal(err)
	}
	b.cancelledOnce("e1")
}

// A replay that waits is cancelled: the new letter says so, and is one failed replay more. A resend
// of what was delivered leaves it delivered.
func TestCancelAReplay(t *testing.T) {
	t.Parallel()
	b, busy := waitingFixture(t, nil)
	if err := b.runner.Cancel(t.Context(), b.waits("e1"), order()); err != nil {
		t.Fatal(err)
	}
	b.cancelledOnce("e1")
	if err := b.broker.Suspend(t.Context(), broker.Suspension{Lane: "relay", Reason: "maintenance"}, tester); err != nil {
		t.Fatal(err)
	}
	b.until("the lane stands", func() bool { return b.runner.lanes.paused()["relay"] })
	if err := b.broker.Replay(t.Context(), b.letters()[0], tester, broker.Replay{}); err != nil {
		t.Fatal(err)
	}
	if e := b.waits("e1"); e.State != broker.StateWaiting || e.EarlierAttempts != 1 {
		t.Fatalf("%+v", e)
	}
	if err := b.runner.Cancel(t.Context(), b.waits("e1"), order()); err != nil {
		t.Fatal(err)
	}
	b.settled()
	letters, e := b.letters(), b.entry("ops", "e1")
	if len(letters) != 1 || letters[0].Generation != 2 || letters[0].FailedReplays != 1 || letters[0].Attempts != 1 || e.State != broker.StateDead || len(b.withdrawn()) != 2 {
		t.Errorf("letters %+v, entry %+v", letters, e)
	}
	busy.Store(false)
	if err := b.broker.Resume(t.Context(), "relay", tester, ""); err != nil {
		t.Fatal(err)
	}
	if err := b.broker.Replay(t.Context(), letters[0], tester, broker.Replay{}); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if n := len(b.fake.mails("e1")); n != 1 || b.entry("ops", "e1").State != broker.StateSent {
		t.Errorf("%d mails", n)
	}
}

// An order that comes before the process has opened the ledger is refused, and nothing is done.
func TestCancelBeforeTheStart(t *testing.T) {
	t.Parallel()
	b, _ := waitingFixture(t, nil)
	starting := NewRunner(b.broker, b.fake, b.set, b.runner.metrics)
	if err := starting.Cancel(t.Context(), b.waits("e1"), order()); err == nil || !strings.Contains(err.Error(), "give the order again in a moment") {
		t.Errorf("%v", err)
	}
	if e := b.entry("ops", "e1"); e.State != broker.StateWaiting || e.Cancel != nil {
		t.Errorf("%+v", e)
	}
}
