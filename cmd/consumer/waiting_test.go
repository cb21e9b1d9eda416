package main

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/desk"
)

// A delivery that waits for its first attempt is shown at every door, although the ledger does
// not know it.
//
// Fault: a delivery that was never attempted, such as in a suspended lane. Result: shown as waiting
// with its lane and since when, at page, command and NATS service.
func TestWaitingDeliveryIsShown(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	lane := "localhost-" + port(o.relay.Submission())
	o.certpost("relays", "suspend", lane, "--reason", "maintenance").done(t)
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
	o.certpost("relays", "resume", lane).done(t)
	o.settled()
	if out := o.certpost("deliveries", "show", "waits/here", "ops").done(t); strings.Contains(out, "Waits") || !strings.Contains(out, "sent") {
		t.Errorf("%s", out)
	}
}
