package desk

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// What was delivered is sent again once for each order, with the record of who ordered it; also to a
// target that did not have it. Cancelled while it waits, it stays delivered.
//
// Fault: two orders to send a delivery again, and one whose event has expired. Result: one mail, the second order is refused; the refusal says that the event is gone.
func TestResend(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	x.publish(event("e1", "ops"))
	x.publish(event("e2", "prod"))
	state := func(target, event string, s broker.State, generation int) bool {
		e, err := d.Delivery(t.Context(), target, event)
		return err == nil && e.State == s && e.Generation == generation
	}
	sent := func(q DeliveryQuery, n int) {
		t.Helper()
		q.State = broker.StateSent
		x.until("the index has them", func() bool {
			l, err := d.Deliveries(t.Context(), q, 0, 10)
			return err == nil && l.Total == n
		})
	}
	sent(DeliveryQuery{}, 2)
	one := ResendSelection{Query: DeliveryQuery{Target: "ops", Event: "e1"}}
	contents, err := d.ResendContents(t.Context(), one, true)
	if err != nil || contents.Count != 1 || len(contents.Parts) != 1 || contents.Parts[0].Outlook != verdict.WouldDeliver || contents.Recipients.First[0].Value != "a@example.com" {
		t.Fatalf("%+v, %v", contents, err)
	}
	if _, err := d.Resend(t.Context(), me, one, contents.Hash, ""); !errors.Is(err, broker.ErrNoReason) {
		t.Errorf("without a reason: %v", err)
	}
	if _, err := d.Resend(t.Context(), me, one, "another", "lost at the recipient"); !errors.Is(err, ErrChanged) {
		t.Errorf("another selection: %v", err)
	}
	if err := d.Suspend(t.Context(), me, "relay", "maintenance", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if out, err := d.Resend(t.Context(), me, one, contents.Hash, "lost at the recipient"); err != nil || out.Done != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	if _, err := d.Resend(t.Context(), me, one, "", "again"); !errors.Is(err, broker.ErrNotResendable) || !strings.Contains(err.Error(), "waits already") {
		t.Errorf("a second order: %v", err)
	}
	if e, err := d.Delivery(t.Context(), "ops", "e1"); err != nil || e.State != broker.StateWaiting || e.Wait.Replay != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	if out, err := d.Cancel(t.Context(), me, WaitSelection{Query: DeliveryQuery{Target: "ops", Event: "e1"}}, "found it"); err != nil || out.Done != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	if !state("ops", "e1", broker.StateSent, 1) || d.Balance().Open != 0 || x.courier.mails("ops", "e1") != 1 {
		t.Error("a cancelled resend")
	}
	if err := d.Resume(t.Context(), me, "relay", ""); err != nil {
		t.Fatal(err)
	}
	// The order has the message id of the cancelled one, whose message is gone.
	if out, err := d.Resend(t.Context(), me, one, "", "lost after all"); err != nil || out.Done != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	x.until("the mail", func() bool { return x.courier.mails("ops", "e1") == 2 && state("ops", "e1", broker.StateSent, 2) })
	x.until("the audit", func() bool {
		h, _ := d.History(HistoryQuery{Action: broker.ActionSent}, 0, 10)
		return len(h) == 1 && strings.HasPrefix(h[0].Reason, "sent again, ordered by anna")
	})

	later := ResendSelection{Query: DeliveryQuery{Event: "e2"}, To: "ops"}
	if out, err := d.Resend(t.Context(), me, later, "", "a new team"); err != nil || out.Done != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	x.until("it is there", func() bool { return x.courier.mails("ops", "e2") == 1 && state("ops", "e2", broker.StateSent, 1) })
	sent(DeliveryQuery{Event: "e2"}, 2)
	if _, err := d.Resend(t.Context(), me, ResendSelection{Query: DeliveryQuery{Target: "prod", Event: "e2"}, To: "ops"}, "", "again"); !errors.Is(err, broker.ErrNotResendable) || !strings.Contains(err.Error(), "force") {
		t.Errorf("delivered there: %v", err)
	}
	if _, err := d.Resend(t.Context(), me, ResendSelection{Query: DeliveryQuery{Target: "prod", Event: "e2"}}, "", "again"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a target that is not defined: %v", err)
	}
	if err := x.js.DeleteStream(t.Context(), broker.EventsStream); err != nil {
		t.Fatal(err)
	}
	x.until("the event is gone, and the stream is there again", func() bool {
		_, err := d.Resend(t.Context(), me, one, "", "once more")
		return errors.Is(err, broker.ErrNoEvent) && strings.Contains(err.Error(), "publish the certificate again under a new id")
	})
	if n := x.courier.mails("ops", "e1") + x.courier.mails("ops", "e2"); n != 3 {
		t.Errorf("%d mails", n)
	}
}
