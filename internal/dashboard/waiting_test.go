package dashboard

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

// What waits is cancelled or tried now from its list: what is selected, what matches a filter,
// and a lane.
func TestWaitingList(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{access: operatorAndViewer()})
	v, viewer := o.signIn("ann"), o.signIn("vic")
	lane := o.lane()
	must(t, o.desk.Suspend(t.Context(), broker.Actor{Name: "ann"}, lane, "maintenance", time.Time{}))
	for i, name := range []string{"a", "b", "c", "d", "e"} {
		o.publish(fmt.Sprintf("e/%d & more", i), name+".example.com", []string{"ops", "java"}[i%2])
	}
	const list = "/deliveries?state=waiting"
	waits := func(n int) {
		t.Helper()
		o.until(fmt.Sprint(n, " wait"), func() bool {
			c, err := o.desk.WaitContents(t.Context(), desk.WaitSelection{})
			return err == nil && c.Count == n
		})
	}
	waits(5)

	if text := viewer.opens(list).body; strings.Contains(text, "Cancel…") || strings.Contains(text, "checkbox") {
		t.Error("a viewer is offered acts")
	}
	viewer.do(http.MethodGet, "/deliveries/confirm?action=cancel&all=yes", "").is(http.StatusForbidden)
	viewer.do(http.MethodPost, "/deliveries/bulk", "action=cancel&all=yes&reason=x").is(http.StatusForbidden)
	waits(5)

	page := v.opens(list)
	sound(t, "the list", page.doc, false)
	page.send("Cancel…").is(200).says("Select deliveries first.", "that you want to cancel")
	confirm := page.send("Cancel…", "delivery", "ops/e/0 & more").is(200).says("Cancel 1 waiting delivery?", "a.example.com (1)", lane+" (1)", "ops@example.com (1)", "certpost deliveries cancel --target=ops '--event=e/0 & more' --reason=WHY")
	sound(t, "the confirmation", confirm.doc, false)
	confirm.send("Cancel 1 delivery").is(http.StatusUnprocessableEntity).says("reason")
	confirm.send("Cancel 1 delivery", "reason", "sent by hand <b>").is(200).says("Cancelled. They are dead letters now", "4 deliveries match")
	waits(4)
	v.opens("/dead-letters").says("1 open letter", "DELIVERY_CANCELLED", "sent by hand <b>")
	confirm.send("Cancel 1 delivery", "reason", "once more").is(http.StatusConflict) // nothing of it waits any more

	all := v.opens(list+"&target=java").says("2 deliveries match").follow("Cancel…").is(200).says("Cancel 2 waiting deliveries?", "target java", "certpost deliveries cancel --target=java --reason=WHY")
	o.publish("later", "f.example.com", "java") // was not shown
	waits(5)
	all.send("Cancel 2 deliveries", "reason", "the recipient has moved").is(200)
	waits(3)

	v.opens(list).follow("Retry now…").is(200).says("Retry 3 waiting deliveries?").send("Retry now 3 deliveries").is(http.StatusConflict).says("maintenance")
	must(t, o.desk.Resume(t.Context(), broker.Actor{Name: "ann"}, lane, ""))
	waits(0)
	if letters := o.desk.Balance().Open; letters != 3 {
		t.Errorf("%d letters, want the 3 that were cancelled", letters)
	}
	o.until("what was being sent has arrived", func() bool { return len(o.relay.Mails()) >= 3 })
	if mails := len(o.relay.Mails()); mails != 3 {
		t.Errorf("%d mails, want 3", mails)
	}

	must(t, o.desk.Suspend(t.Context(), broker.Actor{Name: "ann"}, lane, "maintenance", time.Time{}))
	o.publish("last", "g.example.com", "ops")
	waits(1)
	v.opens("/relays/"+lane).says("1 delivery").follow("cancel").is(200).says("Cancel 1 waiting delivery?", "lane "+lane, "--lane="+lane)
	for _, wrong := range []string{"action=eat&all=yes", "action=cancel&all=yes&delivery=ops/x", "action=cancel&all=yes&tarjet=ops", "action=cancel&delivery=x", "action=cancel&delivery=..%2Fx", "action=cancel&all=yes&up_to=-1"} {
		v.do(http.MethodGet, "/deliveries/confirm?"+wrong, "").is(http.StatusBadRequest)
	}
	waits(1)
}
