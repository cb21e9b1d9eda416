package desk

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// What was tried, what was not and a replay of what had failed are listed while they wait, each
// once, with what they wait for; pages have all of them.
func TestAllThatWaitsIsListed(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	x.letters(d, "prod", 0, 1)
	x.courier.fail("ops", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseRcpt, Reason: "mailbox is busy", ReplyCode: 450, Certainty: verdict.NotSent}})
	x.publish(event("tried", "ops"))
	x.until("it was tried", func() bool {
		e, err := d.Delivery(t.Context(), "ops", "tried")
		return err == nil && e.Attempts > 0 && e.State == broker.StateWaiting
	})
	x.until("the lane is suspended", func() bool { return d.Suspend(t.Context(), me, "relay", "maintenance", time.Time{}) == nil })
	x.until("no process takes deliveries", func() bool {
		lanes, err := d.lanes(t.Context())
		return err == nil && len(lanes) == 1 && lanes[0].InFlight == 0 && len(lanes[0].Statuses) > 0 && lanes[0].Statuses[0].Paused != ""
	})
	if err := d.Replay(t.Context(), me, d.Letters(Query{}, Page{Size: 1}).Letters[0].Sequence, false, false, ""); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		x.publish(event(fmt.Sprintf("new%d", i), "ops"))
	}
	list := func(q DeliveryQuery, after uint64, size int) DeliveryListing {
		q.State = broker.StateWaiting
		found, err := d.Deliveries(t.Context(), q, after, size)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	x.until("all are listed", func() bool { return len(list(DeliveryQuery{}, 0, 100).Entries) == 5 })
	var seen []string
	for after, more := uint64(0), true; more; {
		page := list(DeliveryQuery{}, after, 2)
		for _, e := range page.Entries {
			seen = append(seen, e.Event)
			if e.State != broker.StateWaiting || e.Wait == nil || e.Wait.Since.IsZero() || e.Wait.Then == "" {
				t.Errorf("%s: %+v", e.Event, e.Wait)
			}
			if why := e.Wait.Reason; !strings.Contains(why, "suspended: maintenance") {
				t.Errorf("%s waits for %q", e.Event, why)
			}
			if (e.AllAttempts() > 0) != (e.Event == "tried" || e.Event == "e0") {
				t.Errorf("%s: %d attempts", e.Event, e.AllAttempts())
			}
		}
		after, more = page.Next, page.Next != 0
	}
	if fmt.Sprint(seen) != "[new2 new1 new0 e0 tried]" {
		t.Errorf("pages: %v", seen)
	}
	if l := list(DeliveryQuery{Target: "prod"}, 0, 10); len(l.Entries) != 1 || l.Entries[0].Event != "e0" || l.Next != 0 || l.Total != 1 {
		t.Errorf("by target: %+v", l)
	}
	if l := list(DeliveryQuery{Name: "*.example.com"}, 0, 2); len(l.Entries) != 2 || l.Next == 0 {
		t.Errorf("by name: %+v", l)
	}
	if l := list(DeliveryQuery{Since: time.Hour}, 0, 10); len(l.Entries) != 2 {
		t.Errorf("with an attempt in the last hour: %+v", l)
	}
}

// A lane that delivers is no reason to wait: the last failure is, until the next try.
func TestReasonsToWait(t *testing.T) {
	t.Parallel()
	now := time.Now()
	failed := &broker.FailureRecord{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Reason: "mailbox is busy"}}
	delivers := broker.LaneInfo{Lane: "relay", Replicas: 2}
	half := broker.LaneInfo{Lane: "relay", Replicas: 2, Statuses: []broker.LaneStatus{{Paused: broker.PausedRate}}}
	away := broker.LaneInfo{Lane: "relay", Replicas: 1, Statuses: []broker.LaneStatus{{Paused: broker.PausedBreaker, Relays: []broker.RelayAway{{Reason: "connection refused"}}}}}
	limit := broker.LaneInfo{Lane: "relay", Replicas: 1, Suspension: &broker.Suspension{Reason: "night", Until: now.Add(time.Hour)}}
	for what, one := range map[string]struct {
		entry  broker.Entry
		lane   broker.LaneInfo
		reason string
		next   time.Duration
	}{
		"new":                 {broker.Entry{}, delivers, "its turn", 0},
		"failed":              {broker.Entry{Attempts: 1, Failure: failed, NextTry: now.Add(time.Minute)}, delivers, "SMTP_TRANSIENT: mailbox is busy", time.Minute},
		"failed, due":         {broker.Entry{Attempts: 1, Failure: failed, NextTry: now.Add(-time.Minute)}, half, "SMTP_TRANSIENT: mailbox is busy", 0},
		"relay away":          {broker.Entry{Attempts: 1, Failure: failed, NextTry: now.Add(time.Minute)}, away, "lane relay: relay does not answer: connection refused", 0},
		"suspended":           {broker.Entry{}, limit, "lane relay: suspended: night", time.Hour},
		"suspended, later on": {broker.Entry{Attempts: 9, Failure: failed, NextTry: now.Add(2 * time.Hour)}, limit, "lane relay: suspended: night", 2 * time.Hour},
	} {
		e := one.entry
		e.State, e.Lane = broker.StateWaiting, "relay"
		explainWait(&e, one.lane, now)
		if next := time.Duration(0); e.Wait.Reason != one.reason || e.Wait.Then == "" || !e.Wait.Next.IsZero() != (one.next != next) || one.next != 0 && !e.Wait.Next.Equal(now.Add(one.next)) {
			t.Errorf("%s: %+v", what, e.Wait)
		}
	}
}
