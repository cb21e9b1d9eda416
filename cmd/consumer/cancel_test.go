package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/events"
)

// Waiting deliveries are cancelled at page, command and NATS service, and a replay that waits is shown
// as what it is.
func TestCancelAtEveryDoor(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	d := o.doors()
	lane := "localhost-" + port(o.relay.Submission())
	o.until("the lane is suspended", func() bool {
		return o.certpost("relays", "suspend", lane, "--reason", "maintenance").code == exitDone
	})
	o.until("the lane stops", func() bool {
		return strings.Contains(o.certpost("relays", "list", "-o", "json").done(t), "maintenance")
	})
	o.publish("first", "ops") // may have been fetched already
	for _, id := range []string{"w1", "w2", "w3", "w4"} {
		o.publish(id, "ops")
	}
	waiting := func() int {
		return strings.Count(o.certpost("deliveries", "list", "--state", "waiting").done(t), "\nw")
	}
	o.until("they wait", func() bool { return waiting() == 4 })

	if out := o.certpost("deliveries", "cancel", "--all"); out.code != exitUsage || !strings.Contains(out.stderr, "a reason is required") {
		t.Errorf("without a reason: %+v", out)
	}
	if out := o.certpost("deliveries", "cancel", "--reason", "why"); out.code != exitUsage || !strings.Contains(out.stderr, "give a filter, a lane, or all") {
		t.Errorf("nothing chosen: %+v", out)
	}
	if out := o.certpost("deliveries", "cancel", "--event", "w1", "--reason", "why"); out.code != exitUsage || !strings.Contains(out.stderr, "1 waiting delivery would be cancelled: add --yes") {
		t.Errorf("not confirmed: %+v", out)
	}
	if out := o.certpost("deliveries", "cancel", "--event", "w1", "--dry-run").done(t); !strings.Contains(out, "targets: ops (1)\n") || !strings.Contains(out, "names: www.example.com (1)") ||
		!strings.Contains(out, "soonest expiry: ") || !strings.HasSuffix(out, "1 waiting delivery would be cancelled\n") {
		t.Errorf("dry run: %s", out)
	}
	if out := o.certpost("deliveries", "cancel", "--event", "w1", "--target", "ops", "--reason", "the wrong certificate").done(t); !strings.HasPrefix(out, "1 delivery cancelled") {
		t.Errorf("%s", out)
	}
	page := "/deliveries/ops/" + events.Token("w2")
	if status, text := d.visit("GET " + page); status != http.StatusOK || !strings.Contains(text, "Cancel the delivery") {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.visit("POST " + page + "/cancel reason="); status != http.StatusUnprocessableEntity {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.visit("POST " + page + "/cancel reason=by+page"); status != http.StatusSeeOther {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.visit("GET " + page + "?done=withdrawn"); status != http.StatusOK || !strings.Contains(text, "by page") || !strings.Contains(text, "It is a dead letter now") || strings.Contains(text, "Cancel the delivery") {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.visit("POST " + page + "/cancel reason=again"); status != http.StatusConflict || !strings.Contains(text, "Event w2 to ops is dead letter 2") {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.request(`deliveries.cancel {"deliveries": [{"target": "ops", "event": "w3"}], "dry_run": true}`); status != http.StatusOK || !strings.Contains(text, `"count":1`) || !strings.Contains(text, `"up_to":`) {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.request(`deliveries.cancel {"deliveries": [{"target": "ops", "event": "w3"}]}`); status != http.StatusUnprocessableEntity {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.request(`deliveries.cancel {"deliveries": [{"target": "ops", "event": "w3"}], "reason": "by request"}`); status != http.StatusOK || !strings.Contains(text, `"done":1`) {
		t.Errorf("%d, %s", status, text)
	}
	if out := o.certpost("deliveries", "cancel", "--lane", lane, "--event", "w4", "--reason", "the lane goes", "--yes").done(t); !strings.HasPrefix(out, "1 delivery cancelled") {
		t.Errorf("%s", out)
	}
	if n := waiting(); n != 0 {
		t.Errorf("%d wait", n)
	}
	history := o.certpost("audit", "list", "--action", "withdrawn").done(t)
	for _, reason := range []string{"the wrong certificate", "by page", "by request", "the lane goes"} {
		if !strings.Contains(history, reason) {
			t.Errorf("no record %q: %s", reason, history)
		}
	}

	letters := read[[]desk.Letter](t, o.certpost("dead-letters", "list", "--code", "DELIVERY_CANCELLED", "-o", "json").done(t))
	i := slices.IndexFunc(letters, func(l desk.Letter) bool { return l.Event == "w2" })
	if len(letters) != 4 || i < 0 {
		t.Fatalf("%+v", letters)
	}
	number := fmt.Sprint(letters[i].Sequence)
	o.certpost("dead-letters", "replay", number).done(t)
	if status, text := d.visit("GET " + page); status != http.StatusOK || !strings.Contains(text, "Replay 1, of dead letter "+number+", waits in lane "+lane+" since") || !strings.Contains(text, "Retry now") || !strings.Contains(text, "Cancel the delivery") {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.request(`deliveries.show {"target": "ops", "event": "w2"}`); status != http.StatusOK || !strings.Contains(text, `"state":"waiting"`) || !strings.Contains(text, `"replay":1,"letter":`+number) {
		t.Errorf("%d, %s", status, text)
	}
	if out := o.certpost("deliveries", "show", "w2", "ops").done(t); !strings.Contains(out, "replay 1 of dead letter "+number) {
		t.Errorf("%s", out)
	}
	o.certpost("relays", "resume", lane).done(t)
	o.settled()
	if out := o.certpost("deliveries", "show", "w2", "ops").done(t); !strings.Contains(out, "sent") || strings.Contains(out, "Waits") {
		t.Errorf("%s", out)
	}
	if out := o.certpost("deliveries", "show", "w1", "ops").done(t); !strings.Contains(out, "dead") {
		t.Errorf("%s", out)
	}
}

// What was delivered is sent again at page, command and NATS service, once for each order that is confirmed.
func TestResendAtEveryDoor(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	d := o.doors()
	o.publish("r1", "ops")
	o.settled()
	if out := o.certpost("deliveries", "resend", "--event", "r1", "--target", "ops", "--dry-run").done(t); !strings.Contains(out, "preflight of r1 to ops: ") || !strings.HasSuffix(out, "1 delivery would be sent again\n") {
		t.Errorf("%s", out)
	}
	if out := o.certpost("deliveries", "resend", "--event", "r1", "--reason", "lost"); out.code != exitUsage || !strings.Contains(out.stderr, "1 delivery would be sent again: add --yes") {
		t.Errorf("not confirmed: %+v", out)
	}
	if out := o.certpost("deliveries", "resend", "--event", "r1", "--to-target", "nobody", "--reason", "a new team", "--yes"); out.code != exitFailed || !strings.Contains(out.stderr, "the event names its targets, and nobody is not among them") {
		t.Errorf("another target: %+v", out)
	}
	if out := o.certpost("deliveries", "resend", "--event", "r1", "--reason", "lost", "--yes").done(t); out != "1 delivery published again\n" {
		t.Errorf("%s", out)
	}
	o.settled()
	page := "/deliveries/ops/" + events.Token("r1")
	status, text := d.visit("POST " + page + "/resend reason=lost+again")
	if status != http.StatusOK || !strings.Contains(text, "A second mail goes out") || !strings.Contains(text, "To ops: ") {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.visit("POST " + page + "/resend reason=lost+again&confirm=yes&hash=other"); status != http.StatusConflict {
		t.Errorf("another selection: %d, %s", status, text)
	}
	if status, text := d.visit("POST " + page + "/resend reason=lost+again&confirm=yes"); status != http.StatusSeeOther {
		t.Errorf("%d, %s", status, text)
	}
	o.settled()
	if status, text := d.request(`deliveries.resend {"reason": "all"}`); status != http.StatusBadRequest || !strings.Contains(text, "no deliveries are selected") {
		t.Errorf("%d, %s", status, text)
	}
	if status, text := d.request(`deliveries.resend {"deliveries": [{"target": "ops", "event": "r1"}], "reason": "by request"}`); status != http.StatusOK || !strings.Contains(text, `"done":1`) {
		t.Errorf("%d, %s", status, text)
	}
	o.settled()
	if status, text := d.request(`deliveries.show {"target": "ops", "event": "r1"}`); status != http.StatusOK || !strings.Contains(text, `"state":"sent"`) || !strings.Contains(text, `"generation":4`) {
		t.Errorf("%d, %s", status, text)
	}
}
