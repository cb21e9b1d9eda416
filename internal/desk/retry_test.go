package desk

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/queue"
	"github.com/certpost/certpost/internal/verdict"
)

// A delivery that waits for an hour is tried at once when that is ordered, with the record of who
// ordered it, and sent once. A lane that delivers nothing is named instead.
//
// Fault: a delivery is retried now whose lane delivers nothing. Result: it is left; and the answer says why the lane delivers nothing.
func TestRetryNow(t *testing.T) {
	t.Parallel()
	x := startWith(t, t.TempDir(), func(s *queue.Settings) { s.RetryInitial, s.RetryMax = time.Hour, time.Hour })
	d, _ := x.desk(nil)
	busy := &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseRcpt, Reason: "mailbox is busy", ReplyCode: 450, Certainty: verdict.NotSent}}
	x.courier.fail("ops", busy)
	x.courier.fail("prod", busy)
	x.publish(event("e1", "ops", "prod"))
	x.publish(event("e2", "ops"))
	waits := func(target, event string) bool {
		e, err := d.Delivery(t.Context(), target, event)
		return err == nil && e.State == broker.StateWaiting && e.Attempts == 1 && time.Until(e.NextTry) > 10*time.Minute && e.Wait.Next.Equal(e.NextTry) &&
			e.Wait.Reason == "SMTP_TRANSIENT: mailbox is busy"
	}
	x.until("all were tried once", func() bool { return waits("ops", "e1") && waits("prod", "e1") && waits("ops", "e2") })

	x.courier.fail("ops", nil)
	x.courier.fail("prod", nil)
	if r, err := d.RetryNow(t.Context(), me, WaitSelection{Query: DeliveryQuery{Target: "ops", Event: "e1"}}, "the mailbox is free"); err != nil || r.Done != 1 || len(r.Blocked) != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	x.until("it is sent", func() bool { return x.courier.mails("ops", "e1") == 1 })
	if !waits("prod", "e1") || !waits("ops", "e2") {
		t.Error("others were retried as well")
	}
	x.until("the audit has it", func() bool {
		h, _ := d.History(HistoryQuery{Action: broker.ActionRetried}, 0, 10)
		return len(h) == 1 && h[0].Event == "e1" && h[0].Target == "ops" && h[0].Name == me.Name && h[0].Reason == "the mailbox is free"
	})
	x.until("the ledger has it", func() bool {
		e, err := d.Delivery(t.Context(), "ops", "e1")
		return err == nil && e.State == broker.StateSent && e.AllAttempts() == 2 && e.NextTry.IsZero()
	})
	if _, err := d.RetryNow(t.Context(), me, WaitSelection{Query: DeliveryQuery{Target: "ops", Event: "e1"}}, ""); !errors.Is(err, ErrNothingWaits) {
		t.Errorf("what was sent: %v", err)
	}
	if _, err := d.RetryNow(t.Context(), me, WaitSelection{Query: DeliveryQuery{State: broker.StateDead}}, ""); err == nil || !strings.Contains(err.Error(), "replay dead letters") {
		t.Errorf("dead letters: %v", err)
	}
	if _, err := d.RetryNow(t.Context(), me, WaitSelection{Lane: "elsewhere"}, ""); !errors.Is(err, ErrNothingWaits) {
		t.Errorf("another lane: %v", err)
	}

	if err := d.Suspend(t.Context(), me, "relay", "maintenance", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if r, err := d.RetryNow(t.Context(), me, WaitSelection{Lane: "relay"}, ""); err != nil || r.Done != 0 || len(r.Blocked) != 1 || r.Blocked[0].Deliveries != 2 ||
		r.Blocked[0].String() != "2 deliveries still wait for lane relay: suspended: maintenance" {
		t.Errorf("%+v, %v", r, err)
	}
	if err := d.Resume(t.Context(), me, "relay", ""); err != nil {
		t.Fatal(err)
	}
	if r, err := d.RetryNow(t.Context(), me, WaitSelection{Lane: "relay"}, ""); err != nil || r.Done != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	x.until("they are sent", func() bool { return x.courier.mails("prod", "e1") == 1 && x.courier.mails("ops", "e2") == 1 })
}

// A process that is killed between the copy and the removal of the message leaves both. The mail
// is sent once when the order is given again.
//
// Fault: the process ends after the copy of a delivery that an operator retries now, before its message is removed; the order is given again. Result: one mail.
func TestRetryNowThatEndsHalfWay(t *testing.T) {
	t.Parallel()
	x := startWith(t, t.TempDir(), func(s *queue.Settings) { s.RetryInitial, s.RetryMax = time.Hour, time.Hour })
	d, _ := x.desk(nil)
	x.courier.fail("ops", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseRcpt, Reason: "mailbox is busy", Certainty: verdict.NotSent}})
	x.publish(event("e1", "ops"))
	x.until("it was tried", func() bool {
		e, err := d.Delivery(t.Context(), "ops", "e1")
		return err == nil && e.State == broker.StateWaiting && e.Attempts == 1
	})
	x.courier.fail("ops", nil)
	e, err := d.Delivery(t.Context(), "ops", "e1")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := x.js.Stream(t.Context(), broker.DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	original, err := stream.GetMsg(t.Context(), e.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.b.PublishCopy(t.Context(), original, "relay", "ops"); err != nil { // and no more
		t.Fatal(err)
	}
	x.until("the copy is sent", func() bool { return x.courier.mails("ops", "e1") == 1 })
	if err := x.b.RetryNow(t.Context(), e.Entry); err != nil { // the order is given again: there is no second copy
		t.Fatal(err)
	}
	x.until("the queue is empty", func() bool {
		held, err := x.b.HeldDeliveries(t.Context())
		return err == nil && held.Messages == 0
	})
	if n := x.courier.mails("ops", "e1"); n != 1 {
		t.Errorf("%d mails", n)
	}
}
