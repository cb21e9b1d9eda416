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

// Deliveries that wait are cancelled by name, filter and lane, also in a lane that delivers nothing;
// what comes after the confirmation is not.
//
// Fault: deliveries of a suspended lane are cancelled. Result: each is a dead letter with who and why, in list and audit; the others wait.
func TestCancelWaiting(t *testing.T) {
	t.Parallel()
	x := startWith(t, t.TempDir(), func(s *queue.Settings) { s.RetryInitial, s.RetryMax = time.Hour, time.Hour })
	d, _ := x.desk(nil)
	busy := &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseRcpt, Reason: "mailbox is busy", ReplyCode: 450, Certainty: verdict.NotSent}}
	x.courier.fail("ops", busy)
	x.courier.fail("prod", busy)
	for _, id := range []string{"e1", "e2", "e3"} {
		x.publish(event(id, "ops", "prod"))
	}
	listed := func() DeliveryListing {
		l, err := d.Deliveries(t.Context(), DeliveryQuery{State: broker.StateWaiting}, 0, 50)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	x.until("all were tried once", func() bool {
		l := listed()
		for _, e := range l.Entries {
			if e.Attempts != 1 {
				return false
			}
		}
		return len(l.Entries) == 6
	})
	if err := d.Suspend(t.Context(), me, "relay", "maintenance", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Cancel(t.Context(), me, WaitSelection{}, " "); !errors.Is(err, broker.ErrNoReason) {
		t.Errorf("without a reason: %v", err)
	}
	if out, err := d.Cancel(t.Context(), me, WaitSelection{Query: DeliveryQuery{Target: "ops", Event: "e1"}}, "wrong target"); err != nil || out.Done != 1 {
		t.Fatalf("one: %+v, %v", out, err)
	}
	x.until("its letter", func() bool {
		l := d.Letters(Query{Code: verdict.DeliveryCancelled}, Page{Size: 10}).Letters
		return len(l) == 1 && l[0].Target == "ops" && l[0].Event == "e1" && strings.Contains(l[0].Reason, "cancelled by anna: wrong target")
	})
	if _, err := d.Cancel(t.Context(), me, WaitSelection{Named: []DeliveryName{{"ops", "e1"}}}, "again"); !errors.Is(err, ErrNothingWaits) {
		t.Errorf("again: %v", err)
	}
	if out, err := d.Cancel(t.Context(), me, WaitSelection{Named: []DeliveryName{{"ops", "e2"}, {"prod", "e3"}}}, "these two"); err != nil || out.Done != 2 {
		t.Errorf("some: %+v, %v", out, err)
	}
	contents, err := d.WaitContents(t.Context(), WaitSelection{Lane: "relay"})
	if err != nil || contents.Count != 3 || contents.Targets.Values != 2 || contents.Targets.First[0] != (Counted{"prod", 2}) || contents.UpTo == 0 || contents.SoonestName == "" {
		t.Errorf("%+v, %v", contents, err)
	}
	x.publish(event("e4", "prod"))
	x.until("a newer one", func() bool { return len(listed().Entries) == 4 })
	if out, err := d.Cancel(t.Context(), me, WaitSelection{Lane: "relay", UpTo: contents.UpTo}, "the lane goes away"); err != nil || out.Done != 3 {
		t.Errorf("a lane: %+v, %v", out, err)
	}
	if l := listed(); len(l.Entries) != 1 || l.Entries[0].Event != "e4" {
		t.Errorf("waits: %+v", l.Entries)
	}
	x.until("audit and letters", func() bool {
		h, _ := d.History(HistoryQuery{Action: broker.ActionWithdrawn}, 0, 10)
		return len(h) == 6 && h[0].Name == me.Name && h[0].Reason == "the lane goes away" && d.Balance().Open == 6
	})
	if n := x.courier.mails("ops", "e1") + x.courier.mails("prod", "e1"); n != 0 {
		t.Errorf("%d mails", n)
	}
}
