package dashboard

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

// What was sent is sent again from its list: what is selected and what a filter matches, exactly what
// was shown, by an operator, with a reason in the audit.
func TestSendManyAgain(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{access: operatorAndViewer()})
	v, viewer := o.signIn("ann"), o.signIn("vic")
	publish := func(id, name, target string) {
		t.Helper()
		before := len(o.relay.Mails())
		o.publish(id, name, target)
		o.until("the mail of "+id, func() bool { return len(o.relay.Mails()) == before+1 })
	}
	for i, name := range []string{"a", "b", "c", "d"} {
		publish(fmt.Sprintf("e%d", i), name+".example.com", []string{"ops", "java"}[i%2])
	}
	sent := func(n int) {
		t.Helper()
		o.until(fmt.Sprint(n, " are listed as sent"), func() bool {
			found, err := o.desk.Deliveries(t.Context(), desk.DeliveryQuery{State: broker.StateSent}, 0, 100)
			return err == nil && found.Total == n
		})
	}
	sent(4)
	const list = "/deliveries?state=sent"

	if text := viewer.opens(list).body; strings.Contains(text, "Send again…") || strings.Contains(text, "checkbox") {
		t.Error("a viewer is offered acts")
	}
	viewer.do(http.MethodGet, "/deliveries/resend?all=yes&target=ops", "").is(http.StatusForbidden)
	viewer.do(http.MethodPost, "/deliveries/resend", "all=yes&target=ops&reason=x").is(http.StatusForbidden)

	page := v.opens(list)
	sound(t, "the list", page.doc, false)
	if strings.Contains(textOf(page.doc), "All that match") {
		t.Error("everything that was ever sent can be sent again at once")
	}
	page.send("Send again…").is(200).says("Select deliveries first.", "that you want to send again")
	confirm := page.send("Send again…", "delivery", "ops/e0").is(200).says("Send 1 delivery again?", "a.example.com (1)", "ops@example.com (1)", "certpost deliveries resend --target=ops --event=e0 --reason=WHY")
	sound(t, "the confirmation", confirm.doc, false)
	confirm.send("Send 1 delivery again").is(http.StatusUnprocessableEntity).says("reason")
	ahead := confirm.send("Preflight").is(200).says("What a delivery would find now", "A replay would be delivered now")
	ahead.send("Send 1 delivery again", "reason", "asked for <b>").is(200).says("Published again.", "4 deliveries match")
	o.until("the second mail", func() bool { return len(o.relay.Mails()) == 5 })

	java := v.opens(list+"&target=java").says("2 deliveries match").follow("Send again…").is(200).says("Send 2 deliveries again?", "target java", "certpost deliveries resend --target=java --reason=WHY")
	publish("later", "f.example.com", "java") // was not shown
	sent(5)
	changed := java.send("Send 2 deliveries again", "reason", "the keystore was lost").is(http.StatusConflict).says("Nothing was sent.", "Send 3 deliveries again?")
	if n := len(o.relay.Mails()); n != 6 {
		t.Fatalf("%d mails after an order that was refused, want 6", n)
	}
	changed.send("Send 3 deliveries again", "reason", "the keystore was lost").is(200).says("Published again.")
	o.until("the mails for java", func() bool { return len(o.relay.Mails()) == 9 })

	v.opens("/deliveries/resend?delivery=ops%2Fe0&with_superseded=yes").says("Send 1 delivery again?", "are included.", "--with-superseded").
		send("Send 1 delivery again", "reason", "the old key").is(200)
	o.until("one more", func() bool { return len(o.relay.Mails()) == 10 })

	each := true
	o.desk.CatchUp(t.Context())
	h, _ := o.desk.History(desk.HistoryQuery{Action: broker.ActionResent, Each: &each}, 0, 50)
	for _, r := range h {
		if r.Name != "ann" || r.Via != broker.ViaPage || r.Reason == "" {
			t.Errorf("audit: %+v", r)
		}
	}
	if len(h) < 5 {
		t.Errorf("%d records in the audit", len(h))
	}
	for _, wrong := range []string{"all=yes", "all=yes&state=sent", "all=yes&delivery=ops/e0", "all=yes&tarjet=ops", "delivery=x", "delivery=..%2Fx", "all=yes&target=ops&state=waiting"} {
		v.do(http.MethodGet, "/deliveries/resend?"+wrong, "").is(http.StatusBadRequest)
	}
}
