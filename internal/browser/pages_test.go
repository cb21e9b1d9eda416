package browser

import (
	"fmt"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/verdict"
)

// testPages visits every page with realistic data: in light and dark mode, at 320 px, as
// print, and with forced colours. It runs axe-core and takes pictures for
// docs/dashboard.md.
func testPages(t *testing.T, c *chromium) {
	o := newOffice(t, "")
	delivered := o.seed()
	n := o.numbers()
	run := dayOfWork(t, c, o, n)
	serial := fmt.Sprintf("%x", delivered.SerialNumber)
	for _, page := range []struct {
		name, path, heading string
		status              int
	}{
		{"overview", "/", "Overview", 200},
		{"causes", "/dead-letters?view=groups", " dead letters", 200},
		{"letters", "/dead-letters", " dead letters", 200},
		{"letters-discarded", "/dead-letters?state=discarded", "discarded", 200},
		{"confirm-restore", fmt.Sprintf("/dead-letters/confirm?action=restore&number=%d", n.refused[1]), "Restore", 200},
		{"letters-none", "/dead-letters?name=nobody.example.com", "0 dead letters", 200},
		{"cause", "", "", 200}, // the address is read from the overview
		{"letter", fmt.Sprintf("/dead-letters/%d", n.refused[2]), " to ", 200},
		{"letter-uncertain", fmt.Sprintf("/dead-letters/%d", n.uncertain), " to ", 200},
		{"letter-held", fmt.Sprintf("/dead-letters/%d", n.refused[0]), " to ", 200},
		{"letter-discarded", fmt.Sprintf("/dead-letters/%d", n.refused[1]), " to ", 200},
		{"confirm", "/dead-letters/confirm?action=replay&all=yes", "Replay", 200},
		{"confirm-discard", fmt.Sprintf("/dead-letters/confirm?action=discard&number=%d&number=%d", n.refused[3], n.refused[4]), "Discard", 200},
		{"replays", "/replays", "Replays", 200},
		{"replay", run, "Replay", 200},
		{"deliveries", "/deliveries", "Deliveries", 200},
		{"deliveries-waiting", "/deliveries?state=waiting", "Deliveries", 200},
		{"deliveries-serial", "/deliveries?state=sent&serial=" + serial, "Deliveries", 200},
		{"confirm-resend", "/deliveries/resend?all=yes&target=web-team", "again?", 200},
		{"delivery", "/deliveries/ops-archive/certbot-www-01", "www.example.com", 200},
		{"delivery-dead", "/deliveries/branch-office/branch-gateway", "gateway.branch.example.org", 200},
		{"targets", "/targets", "Targets", 200},
		{"target", "/targets/ops-archive", "ops-archive", 200},
		{"mail", "/targets/ops-archive/mail", "Mail preview", 200},
		{"relays", "/relays", "Relays", 200},
		{"audit", "/audit", "Audit", 200},
		{"alerts", "/alerts", "Alerts", 200},
		{"audit-filtered", "/audit?action=replayed&target=partner-portal", "Audit", 200},
		{"audit-none", "/audit?by=nobody", "Audit", 200},
		{"settings", "/settings", "Settings", 200},
		{"keys", "/keys", "Keys", 200},
		{"nowhere", "/nowhere", "Page not found", 404},
		{"missing", "/dead-letters/99999", "Not found", 404},
		{"misread", "/dead-letters/confirm?action=eat", "Invalid request", 400},
	} {
		t.Run(page.name, func(t *testing.T) {
			t.Parallel()
			tb := c.tab(t, o.http)
			path, heading := page.path, page.heading
			if page.name == "cause" {
				tb.open("/")
				path = mustAsk[string](tb, `[...document.querySelectorAll("article.cause h3 a")].map(a => a.getAttribute("href")).find(h => h.includes("/groups/"))`)
			}
			tb.open(path)
			if page.status != 200 {
				tb.expect(fmt.Sprintf("status %d", page.status))
			}
			if got := tb.text("h1"); !strings.Contains(got, heading) {
				t.Errorf("the heading is %q, without %q", got, heading)
			}
			tb.looks(page.name)
		})
	}
}

// looks checks a page in each display mode.
func (tb *tab) looks(name string) {
	tb.t.Helper()
	tb.media("prefers-color-scheme: dark")
	tb.accessible("in the dark")
	tb.screenshot(name + "-dark")
	tb.media("prefers-color-scheme: light")
	tb.accessible("in the light")
	tb.fits()
	tb.screenshot(name)
	tb.viewport(small)
	tb.accessible("on 320 px")
	tb.fits()
	tb.screenshot(name + "-small")
	tb.atEveryWidth(name)
	tb.media("print")
	tb.printable()
	tb.media("forced-colors: active")
	tb.picture()
}

// printable checks that elements that only work on a screen are not printed.
func (tb *tab) printable() {
	tb.t.Helper()
	tb.picture()
	for _, selector := range []string{"nav[aria-label=Pages]", "button", ".skip"} {
		if mustAsk[bool](tb, `[...document.querySelectorAll(`+quote(selector)+`)].some(seen)`) {
			tb.t.Errorf("%s: %s is printed", tb.path(), selector)
		}
	}
	if !mustAsk[bool](tb, `seen(document.querySelector("h1"))`) {
		tb.t.Errorf("%s: the heading is not printed", tb.path())
	}
}

// numbers are the letters of seed, by cause.
type numbers struct {
	refused, sender, password []uint64
	uncertain                 uint64
}

func (o *office) numbers() numbers {
	o.t.Helper()
	var n numbers
	for d, err := range o.broker.DeadLetters(o.t.Context(), "") {
		if err != nil {
			o.t.Fatal(err)
		}
		switch {
		case d.Code == verdict.SMTPAuth:
			n.password = append(n.password, d.Sequence)
		case d.Code == verdict.DeliveryUncertain:
			n.uncertain = d.Sequence
		case d.Target == "partner-portal":
			n.sender = append(n.sender, d.Sequence)
		default:
			n.refused = append(n.refused, d.Sequence)
		}
	}
	if len(n.refused) != 16 || len(n.sender) != 8 || len(n.password) != 5 || n.uncertain == 0 {
		o.t.Fatalf("the letters are %+v", n)
	}
	return n
}

// dayOfWork creates data for the pages: it holds one letter, discards one, and replays
// several. It returns the address of the replay.
func dayOfWork(t *testing.T, c *chromium, o *office, n numbers) string {
	t.Helper()
	h := ways[0].hands(t, c, o.http)
	h.until("the lanes to be served", func() bool {
		h.open("/")
		text := h.text("#lanes")
		return strings.Contains(text, o.lanes[0]) && !strings.Contains(text, "starting") && !strings.Contains(text, "not served")
	})
	h.onLetter(n.refused[0], "hold", "Hold", "Asked the web team for their new address")
	h.sees("Held. It is neither")
	h.onLetter(n.refused[1], "discard", "Discard", "The service is gone since Monday")
	h.sees("Discarded. It can be restored")
	if err := o.relay.SetRules(refusals[:1]); err != nil { // the sender is allowed now
		t.Fatal(err)
	}
	h.open("/dead-letters?target=partner-portal")
	h.clickIn("a", "Replay…")
	h.replayAll("The relay's postmaster has allowed our sender", len(n.sender))
	return h.path()
}

// onLetter submits one of the forms on a letter's page.
func (h *hands) onLetter(number uint64, action, label, reason string) {
	h.t.Helper()
	address := fmt.Sprintf("/dead-letters/%d", number)
	h.open(address)
	form := "#" + action
	if !mustAsk[bool](h.tab, `document.querySelector(`+quote(form)+`).open`) {
		h.use(form, label)
	}
	if reason != "" {
		h.enter(form, "Reason", reason)
	}
	h.use(form+" form", label)
}

// replayAll confirms a replay and waits until it is done.
func (h *hands) replayAll(reason string, count int) {
	h.t.Helper()
	h.sees("Selection")
	h.enter("form", "Reason", reason)
	h.use("main form", fmt.Sprintf("Replay %d letters", count))
	h.sees("Progress")
	h.holdsReloading("the replay to be done", `document.querySelector("#progress").innerText.includes("done")`)
}

// holdsReloading waits like holds; without JavaScript it reloads the page, because the
// page does not update itself.
func (h *hands) holdsReloading(what, expression string) {
	h.t.Helper()
	if h.way.scripts {
		h.holds(what, expression)
		return
	}
	h.until(what, func() bool {
		if yes, err := ask[bool](h.tab, expression); err == nil && yes {
			return true
		}
		h.open(mustAsk[string](h.tab, "location.pathname"))
		return false
	})
}
