package queue

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// leftLetter stores the dead letter of a delivery of which the ledger does not know: the
// process died between the two.
func (b *fixture) leftLetter(id string) {
	b.t.Helper()
	ev := event(id, "ops")
	d := &broker.DeadLetter{Event: id, Token: id, Target: "ops", Lane: "relay", Generation: 1, Body: ev.Encode(), ReplaySubject: broker.DeliverySubject("relay", "ops"),
		Outcome: verdict.Outcome{Code: verdict.SMTPPermanent, Phase: verdict.PhaseRcpt, Reason: "left behind"}}
	if err := b.broker.PublishDeadLetter(b.t.Context(), d, "d1"); err != nil {
		b.t.Fatal(err)
	}
}

func refusedOnce(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	if try == 1 {
		return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
	}
	return nil, nil
}

// The letter is stored, the process dies before the ledger says so, and the next attempt
// fails with another code: one letter is left on the list, the newer one, and the audit
// says what became of the other.
//
// Fault: kill -9 between the dead letter and the ledger's entry, and the next attempt ends
// otherwise. Result: the newer letter replaces the one that was left.
func TestOneLetterAfterACrashAndAnotherCode(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops"), nil)
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		return nil, fail(verdict.SMTPAuth, verdict.PhaseAuth)
	})
	b.leftLetter("e1")
	left := b.letters()[0]
	b.publish(event("e1", "ops"))
	b.settled()
	letters := b.letters()
	if len(letters) != 1 || letters[0].Code != verdict.SMTPAuth {
		t.Errorf("letters: %+v", letters)
	}
	if e := b.entry("ops", "e1"); e.State != broker.StateDead || e.DeadLetter != letters[0].Subject {
		t.Errorf("ledger: %+v", e)
	}
	b.until("the earlier letter is recorded as replaced", func() bool {
		history := historyOf(t, b.broker, left.Sequence)
		return len(history) == 1 && history[0] == "outcome replaced"
	})
}

// As before, but the next attempt succeeds, in a process that started after the message
// was published: the server may have forgotten that it delivered the message.
//
// Fault: kill -9 between the dead letter and the ledger's entry, and the next attempt ends
// otherwise. Result: after a success none is left.
func TestNoLetterAfterACrashAndASuccess(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.start()
	b.leftLetter("e1")
	b.until("the lane is served", func() bool { return len(b.runner.LaneStatus()) == 1 })
	if err := b.broker.Suspend(t.Context(), broker.Suspension{Lane: "relay", Reason: "the process is to end first"}, tester); err != nil {
		t.Fatal(err)
	}
	b.until("suspended", func() bool { return len(b.runner.Suspensions()) == 1 })
	b.publish(event("e1", "ops"))
	b.until("the delivery waits", func() bool {
		backlog, err := b.broker.Backlog(t.Context())
		return err == nil && backlog.Events == 0 && backlog.Deliveries == 1
	})
	b.stop()
	b.run()
	if err := b.broker.Resume(t.Context(), "relay", tester, ""); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if l, mails := b.letters(), b.fake.mails("e1"); len(l) != 0 || len(mails) != 1 {
		t.Errorf("letters %+v, mails %+v", l, mails)
	}
}

// The list of letters cannot be read when a replayed delivery has succeeded, or an event
// that had a letter was resolved. That is tried again until the letter is off the list;
// the mail is sent once.
//
// Fault: the list of letters cannot be read after a success. Result: the message is settled
// only when the delivery's letter is off the list; tried again until then.
func TestLettersAreTakenOffLater(t *testing.T) {
	t.Parallel()
	const unreadable = 8 // requests: more than one attempt makes
	lossy := func(t *testing.T, filter string) (b *fixture, wasLost func() bool) {
		srv := lab.NATS(t, lab.FreeAddress(t), "")
		link := lab.NewNATSLink(t, srv.Addr().String())
		b = &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{URL: link.URL}}
		b.start()
		lost := 0
		link.Lose(func(m lab.NATSMessage) bool {
			lists := m.ToServer && m.Subject == "$JS.API.STREAM.MSG.GET."+broker.DeadLettersStream && bytes.Contains(m.Data, []byte(filter))
			if lists && lost < unreadable {
				lost++
				return true
			}
			return false
		})
		return b, func() bool { link.Lose(nil); return lost == unreadable }
	}
	t.Run("of a delivery", func(t *testing.T) {
		t.Parallel()
		b, wasLost := lossy(t, `"next_by_subj":"certpost.dead.*.*.ops.e1"`)
		b.fake.plan("ops", refusedOnce)
		b.publish(event("e1", "ops"))
		b.settled()
		letters := b.letters()
		if len(letters) != 1 {
			t.Fatalf("letters: %+v", letters)
		}
		m := nats.NewMsg(letters[0].ReplaySubject) // as with the NATS CLI
		m.Data = letters[0].Body
		if _, err := b.broker.JetStream().PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		b.until("the letter is off the list", func() bool { return len(b.letters()) == 0 })
		b.settled()
		if mails := b.fake.mails("e1"); len(mails) != 1 {
			t.Errorf("mails: %+v", mails)
		}
		if !wasLost() {
			t.Error("the list could be read all the time")
		}
	})
	t.Run("of an event", func(t *testing.T) {
		t.Parallel()
		b, wasLost := lossy(t, `"next_by_subj":"certpost.dead.*._.*.e1"`)
		ev := event("e1", "later")
		b.publish(ev)
		b.settled()
		if l := b.letters(); len(l) != 1 || l[0].Code != verdict.TargetUnknown {
			t.Fatalf("letters: %+v", l)
		}
		b.fake.mu.Lock()
		b.fake.targets["later"] = "relay"
		b.fake.mu.Unlock()
		b.publish(ev)
		b.until("the letter is off the list", func() bool { return len(b.letters()) == 0 })
		b.settled()
		if mails := b.fake.mails("e1"); len(mails) != 1 {
			t.Errorf("mails: %+v", mails)
		}
		if !wasLost() {
			t.Error("the list could be read all the time")
		}
	})
}

// The event is published a second time within the stream's duplicate window, because its
// certificate or its delivery is to be tried again, and the process that fetches it stops
// before it has published anything: its delivery is not dropped as a duplicate of the
// first one.
//
// Fault: the same event again, and its fetcher stops before it publishes anything. Result:
// its delivery is not dropped as a duplicate.
func TestSecondPublicationThatIsNAKedFirst(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.fake.plan("ops", refusedOnce)
	b.start()
	b.publish(event("e1", "ops"))
	b.settled()
	if l := b.letters(); len(l) != 1 {
		t.Fatalf("letters: %+v", l)
	}
	b.stop()
	b.publish(event("e1", "ops")) // a replay, by a publisher
	consumer, err := b.broker.JetStream().Consumer(t.Context(), broker.EventsStream, broker.FanoutConsumer)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := consumer.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.NakWithDelay(atOnce); err != nil { // as a process that is told to stop does
		t.Fatal(err)
	}
	b.run()
	b.settled()
	if mails, l := b.fake.mails("e1"), b.letters(); len(mails) != 1 || len(l) != 0 {
		t.Errorf("mails %+v, letters %+v", mails, l)
	}
}

// An event is delivered again by the server after its deliveries were published, and after
// the delivery ended dead: that is no replay.
//
// Fault: the same event again. Result: an event that only comes again is no replay.
func TestRedeliveredEventIsNoReplay(t *testing.T) {
	t.Parallel()
	for _, gone := range []bool{false, true} { // whether the first delivery is settled when the event comes again
		t.Run(fmt.Sprintf("settled %v", gone), func(t *testing.T) {
			t.Parallel()
			srv := lab.NATS(t, lab.FreeAddress(t), "")
			link := lab.NewNATSLink(t, srv.Addr().String())
			b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{URL: link.URL, AckWait: 2 * time.Second}}
			hold := make(chan struct{})
			b.fake.plan("ops", func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
				if !gone {
					<-hold
				}
				return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
			})
			b.start()
			lost := 0
			link.Lose(func(m lab.NATSMessage) bool {
				first := m.ToServer && strings.HasPrefix(m.Subject, "$JS.ACK."+broker.EventsStream+"."+broker.FanoutConsumer+".1.") && string(m.Data) == "+ACK"
				if first {
					lost++
				}
				return first
			})
			b.publish(event("e1", "ops"))
			b.until("the event is acknowledged when it comes again", func() bool {
				backlog, err := b.broker.Backlog(t.Context())
				return err == nil && backlog.Events == 0
			})
			close(hold)
			b.settled()
			link.Lose(nil)
			if lost == 0 {
				t.Fatal("the acknowledgement was not lost")
			}
			if tried, l := b.fake.tried("ops"), b.letters(); tried != 1 || len(l) != 1 || l[0].Generation != 1 {
				t.Errorf("tried %d times, letters %+v", tried, l)
			}
		})
	}
}

// A delivery is settled, but has not looked for the letters that its outcome makes obsolete. Then
// a replay of it fails, and leaves a letter under another code. Only the first delivery's letters
// are taken off the list.
//
// Fault: a process that has recorded the outcome of a delivery stands still, and a replay fails
// meanwhile. Result: the letter of the replay stays.
func TestTheLetterOfALaterDeliveryStays(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		point string
		codes []verdict.Code // by attempt; "": sent. The last but one stands still.
	}{
		"after a failure": {pointDead, []verdict.Code{verdict.SMTPAuth, verdict.SMTPPermanent}},
		"after a success": {pointRecorded, []verdict.Code{verdict.SMTPAuth, "", verdict.SMTPPermanent}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := newFakeCourier("ops")
			fake.plan("ops", func(try int, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
				if code := tt.codes[try-1]; code != "" {
					return nil, fail(code, verdict.PhaseRcpt)
				}
				return nil, nil
			})
			stands, goes := make(chan struct{}), make(chan struct{})
			stand := sync.OnceFunc(func() { close(stands); <-goes })
			b := start(t, fake, func(s *Settings) {
				s.Reached = func(point string) {
					if point == tt.point {
						stand()
					}
				}
			})
			publish := func() {
				m := nats.NewMsg(broker.DeliverySubject("relay", "ops"))
				m.Data = event("e1", "ops").Encode()
				m.Header.Set(broker.HeaderForce, "true")
				if _, err := b.broker.JetStream().PublishMsg(t.Context(), m); err != nil {
					t.Fatal(err)
				}
			}
			b.publish(event("e1", "ops"))
			if len(tt.codes) > 2 {
				b.until("a letter", func() bool { return len(b.letters()) == 1 })
				b.settled()
				publish()
			}
			<-stands
			publish()
			b.until("the letter of the replay", func() bool {
				letters := b.letters()
				return len(letters) > 0 && letters[len(letters)-1].Code == verdict.SMTPPermanent
			})
			close(goes)
			b.settled()
			if letters := b.letters(); len(letters) != 1 || letters[0].Code != verdict.SMTPPermanent {
				t.Errorf("letters: %+v", letters)
			}
		})
	}
}
