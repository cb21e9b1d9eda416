package main

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/events"
)

// A delivery that waits for its first attempt is shown at every door, although the ledger does
// not know it.
//
// Fault: a delivery that was never attempted, such as in a suspended lane. Result: shown as waiting
// with its lane and since when, and listed, at page, command and NATS service.
func TestWaitingDeliveryIsShown(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	lane := "localhost-" + port(o.relay.Submission())
	o.until("the lane is suspended", func() bool { // as soon as there is one
		return o.certpost("relays", "suspend", lane, "--reason", "maintenance").code == exitDone
	})
	o.until("the lane stops", func() bool {
		return strings.Contains(o.certpost("relays", "list", "-o", "json").done(t), "maintenance")
	})
	o.publish("first", "ops") // may have been fetched already
	o.publish("waits/here", "ops", "nobody")
	var one desk.DeliveryDetail
	o.until("the delivery waits", func() bool {
		said := o.certpost("deliveries", "show", "waits/here", "ops", "-o", "json")
		if said.code == exitDone {
			one = read[desk.DeliveryDetail](t, said.stdout)
		}
		return said.code == exitDone
	})
	if one.State != "waiting" || one.Lane != lane || one.WaitingSince.IsZero() || one.Attempts != 0 || one.Certificate == nil || one.Event != "waits/here" || one.Target != "ops" {
		t.Fatalf("%+v", one)
	}
	out := o.certpost("deliveries", "show", "waits/here", "nobody").done(t)
	if !regexp.MustCompile(`(?m)^Waits +in lane `+lane+` since \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ, not tried yet$`).MatchString(out) || !strings.Contains(out, "www.example.com") {
		t.Errorf("%s", out)
	}
	d := o.doors()
	if status, text := d.visit("GET /deliveries/ops/waits%2Fhere"); status != http.StatusOK || !strings.Contains(text, "waits in lane "+lane+" since") || strings.Contains(text, "First attempt") {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.request(`deliveries.show {"target": "ops", "event": "waits/here"}`); status != http.StatusOK || !strings.Contains(text, `"waiting_since":"`) || strings.Contains(text, "0001-01-01") {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.request(`deliveries.show {"target": "prod", "event": "waits/here"}`); status != http.StatusNotFound {
		t.Errorf("%d, %s", status, text)
	}
	for _, flags := range [][]string{{"--state", "waiting"}, {"--event", "waits/here"}, {"--name", "*.example.com", "--state", "waiting"}} {
		list := read[[]broker.Entry](t, o.certpost(append([]string{"deliveries", "list", "-o", "json"}, flags...)...).done(t))
		var targets []string
		for _, e := range list {
			if e.Event == "waits/here" && e.Untried() {
				targets = append(targets, e.Target)
			}
		}
		if slices.Sort(targets); !slices.Equal(targets, []string{"nobody", "ops"}) {
			t.Errorf("%v lists %v of %+v", flags, targets, list)
		}
	}
	if list := o.certpost("deliveries", "list", "--state", "waiting", "--target", "ops").done(t); !regexp.MustCompile(`(?m)^waits/here +ops +\S+ +0 +not tried yet +when the lane delivers again +lane \S+: suspended.*www`).MatchString(list) {
		t.Errorf("%s", list)
	}
	for _, flags := range [][]string{{"--state", "sent"}, {"--since", "24h", "--event", "waits/here"}, {"--recipient", "a@example.com"}, {"--target", "prod"}} {
		if list := o.certpost(append([]string{"deliveries", "list"}, flags...)...).done(t); strings.Contains(list, "waits/here") {
			t.Errorf("%v lists %s", flags, list)
		}
	}
	if out := o.certpost("deliveries", "show", "waits/here").done(t); strings.Count(out, "not tried yet") != 2 {
		t.Errorf("%s", out)
	}
	if status, text := d.visit("GET /deliveries?state=waiting"); status != http.StatusOK || !strings.Contains(text, "not tried yet waiting ops") {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.request(`deliveries.list {"filter": {"state": "waiting"}, "size": 1}`); status != http.StatusOK || !strings.Contains(text, `"waits/here"`) || !strings.Contains(text, `"reason":"lane `) || !strings.Contains(text, `"next":`) {
		t.Errorf("%d, %s", status, text)
	}
	for _, flags := range [][]string{{"--event", "waits/here", "--target", "ops"}, {"--lane", lane}, {"--all"}} {
		out := o.certpost(append([]string{"deliveries", "retry"}, flags...)...)
		if out.code != exitFailed || !strings.Contains(out.stdout, "0 deliveries are tried now") || !strings.Contains(out.stdout, "lane "+lane+": suspended") {
			t.Errorf("%v: %+v", flags, out)
		}
	}
	if out := o.certpost("deliveries", "retry"); out.code != exitUsage || !strings.Contains(out.stderr, "give a filter, a lane, or all") {
		t.Errorf("nothing chosen: %+v", out)
	}
	if out := o.certpost("deliveries", "retry", "--event", "unknown"); out.code != exitFailed || !strings.Contains(out.stderr, "nothing that waits matches") {
		t.Errorf("an unknown event: %+v", out)
	}
	if status, text := d.request(`deliveries.retry {"all": true, "lane": "relay"}`); status != http.StatusBadRequest || !strings.Contains(text, "give one of filter or lane, and all") {
		t.Errorf("%d, %s", status, text)
	}
	page := "/deliveries/ops/" + events.Token("waits/here")
	if status, text := d.visit("GET " + page); status != http.StatusOK || !strings.Contains(text, "Retry now") || !strings.Contains(text, "Waits for lane "+lane+": suspended") {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.visit("POST " + page + "/retry reason="); status != http.StatusConflict || !strings.Contains(text, "1 delivery still waits for lane "+lane+": suspended") {
		t.Errorf("%d, %s", status, text)
	}
	o.certpost("relays", "resume", lane).done(t)
	o.settled()
	if out := o.certpost("deliveries", "show", "waits/here", "ops").done(t); strings.Contains(out, "Waits") || !strings.Contains(out, "sent") {
		t.Errorf("%s", out)
	}
}
