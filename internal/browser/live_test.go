package browser

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp/kb"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
)

// testLive changes data while a page is open: live updates lose no click and no focus,
// and a page without live updates says so.
func testLive(t *testing.T, c *chromium) {
	t.Run("in use", func(t *testing.T) { testPartsInUse(t, c) })
	t.Run("none chosen", func(t *testing.T) { testNoneChosen(t, c) })
	t.Run("renewal", func(t *testing.T) { testRenewal(t, c) })
	t.Run("restart", func(t *testing.T) { testRestart(t, c) })
	t.Run("notices", func(t *testing.T) { testNotices(t, c) })
	t.Run("signed out", func(t *testing.T) { testSignedOut(t, c) })
}

// testNoneChosen presses an action button with no letter selected: a notice asks to select
// letters, and the next Tab key reaches the checkboxes.
func testNoneChosen(t *testing.T, c *chromium) {
	o := newOffice(t, "")
	o.seed()
	for _, w := range []way{ways[0], ways[4]} {
		t.Run(w.name, func(t *testing.T) {
			h := w.hands(t, c, o.http)
			h.open("/dead-letters?order=oldest")
			h.use("main", "Discard…")
			h.sees("Select letters first.")
			h.at("/dead-letters")
			if order := mustAsk[string](h.tab, `new URLSearchParams(location.search).get("order")`); order != "oldest" {
				t.Errorf("the list lost its order: %q", order)
			}
			h.press(kb.Tab)
			if next := mustAsk[string](h.tab, `document.activeElement.type`); next != "checkbox" {
				t.Errorf("the next Tab key leads to %q", next)
			}
			h.fits()
			h.accessible("with nothing selected")
		})
	}
}

// suspend suspends a lane, or resumes it if the reason is "", as the CLI does.
func (o *office) suspend(lane, reason string) {
	o.t.Helper()
	by := broker.Actor{Name: "bob", Via: broker.ViaShell}
	o.until("lane "+lane, func() bool { // it appears once the program is up
		if reason == "" {
			return o.broker.Resume(o.t.Context(), lane, by, "") == nil
		}
		return o.broker.Suspend(o.t.Context(), broker.Suspension{Lane: lane, Reason: reason}, by) == nil
	})
}

// mouse presses, moves or releases the left button at an element, or at the page's edge
// if expression is "".
func (tb *tab) mouse(what input.DispatchMouseEventType, expression string) {
	tb.t.Helper()
	at := struct{ X, Y float64 }{2, 2}
	if expression != "" {
		at = mustAsk[struct{ X, Y float64 }](tb, `(() => { const b = (`+expression+`).getClientRects()[0]; return {x: b.x + b.width / 2, y: b.y + b.height / 2}; })()`)
	}
	call(tb, input.DispatchMouseEvent, input.DispatchMouseEventParams{Type: what, X: at.X, Y: at.Y, Button: "left", ClickCount: 1})
}

const (
	pressed  = input.DispatchMouseEventTypeMousePressed
	released = input.DispatchMouseEventTypeMouseReleased
	moved    = input.DispatchMouseEventTypeMouseMoved
)

func testPartsInUse(t *testing.T, c *chromium) {
	o := newOffice(t, "")
	lane := o.lanes[0]
	link := "find(" + quote(lane) + ")"
	tb := c.tab(t, o.http)
	tb.open("/relays")
	tb.updates()
	tb.sees("ready")
	count := "window.asked = 0, document.addEventListener('htmx:beforeOnLoad', () => { window.asked++ }), 1"
	mustAsk[int](tb, count)
	asked := func() int { return mustAsk[int](tb, "window.asked") }

	// The table is not replaced between press and release, so the click reaches its link.
	tb.mouse(pressed, link)
	mustAsk[bool](tb, "("+link+".dataset.mine = 'yes') === 'yes'") // not before: the table may be replaced until then
	before := asked()
	o.suspend(lane, "maintenance one")
	tb.until("the page to have asked for the table", func() bool { return asked() > before })
	if !mustAsk[bool](tb, link+".dataset.mine === 'yes'") {
		t.Error("the table was replaced under the pointer")
	}
	tb.mouse(released, link)
	tb.at("/relays/" + lane)
	tb.sees("maintenance one")

	// Released elsewhere, nothing is clicked, and the change is shown.
	tb.open("/relays")
	tb.updates()
	tb.sees("maintenance one")
	mustAsk[int](tb, count)
	tb.mouse(pressed, link)
	o.suspend(lane, "maintenance two")
	tb.until("the page to have asked for the table", func() bool { return asked() > 0 })
	tb.seesNot("maintenance two")
	tb.mouse(moved, "")
	tb.mouse(released, "")
	tb.sees("maintenance two")
	if path := tb.path(); path != "/relays" {
		t.Errorf("the page is %s", path)
	}

	// The focus stays on the same link in the new table, and selected text stays selected.
	tb.tabTo(lane)
	o.suspend(lane, "maintenance three")
	tb.sees("maintenance three")
	if !mustAsk[bool](tb, "document.activeElement === "+link) {
		t.Error("the focus was lost")
	}
	tb.press(kb.Tab)
	if !mustAsk[bool](tb, link+".compareDocumentPosition(document.activeElement) === Node.DOCUMENT_POSITION_FOLLOWING") {
		t.Error("the next Tab key continues from another place")
	}
	mustAsk[int](tb, "getSelection().selectAllChildren(document.querySelector('#lanes tbody td')), window.asked = 0, 1")
	o.suspend(lane, "")
	tb.until("the page to have asked for the table", func() bool { return asked() > 0 })
	tb.sees("maintenance three")
	mustAsk[int](tb, "getSelection().removeAllRanges(), 1")
	tb.holds("the end of the suspension", `!squeeze(document.body.innerText).includes("maintenance three")`)
}

// testRenewal opens a page while the bucket that it reads is gone. The page shows what it
// should as soon as Certpost has made the bucket again.
func testRenewal(t *testing.T, c *chromium) {
	o := newOffice(t, "")
	for _, w := range []way{ways[0], ways[2]} {
		t.Run(w.name, func(t *testing.T) {
			h := w.hands(t, c, o.http)
			h.until("the page without its bucket", func() bool {
				err := o.broker.JetStream().DeleteStream(t.Context(), "KV_"+broker.RelaysBucket)
				if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
					t.Fatal(err)
				}
				h.open("/relays")
				return strings.Contains(h.text("h1"), "Temporarily unavailable")
			})
			h.sees(o.lanes[0])
			h.at("/relays")
			if w.scripts {
				h.sees("ready") // with the first heartbeat in the new bucket
			}
			h.take() // the answers with status 503
		})
	}
}

// testRestart stops the program while a page is open, and starts it again.
func testRestart(t *testing.T, c *chromium) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	o := newOffice(t, "http: {listen: \""+address+"\"}\n")
	lane := o.lanes[0]
	o.suspend(lane, "before the stop")
	tb := c.tab(t, o.http)
	tb.open("/relays/" + lane)
	tb.updates()
	o.stop()
	tb.sees("Certpost does not respond.")
	tb.accessible("without the program")
	tb.expect("request failed: " + o.http + "/events")
	o.stopped = false
	o.start()
	tb.holds("a page that is up to date again", `document.querySelector("#state").textContent === ""`)
	tb.updates()
	o.suspend(lane, "after the start")
	tb.sees("after the start")
	// The form was rendered before the restart, so it needs a new token.
	tb.until("a valid token", func() bool {
		return mustAsk[bool](tb, "performance.getEntriesByType('resource').some(e => e.name.endsWith('/keys') && e.responseEnd > 0)")
	})
	tb.fill("Reason (optional)", "fixed")
	tb.click("Resume")
	tb.sees("Resumed.")
	tb.take() // requests failed while the program was down
}

// testSignedOut ends the session while a page is open.
func testSignedOut(t *testing.T, c *chromium) {
	o := newOffice(t, accounts())
	h := ways[0].hands(t, c, o.http)
	h.signIn("operator")
	h.open("/relays?from=here")
	h.updates()
	mustAsk[bool](h.tab, `!!fetch("/sign-out", {method: "POST", body: new URLSearchParams({token: document.querySelector("input[name=token]").value})})`)
	h.sees("You are signed out, and this page has no live updates any more. Sign in")
	h.expect("status 401")
	if role := mustAsk[string](h.tab, `document.querySelector("#state").getAttribute("role")`); role != "status" {
		t.Errorf("the message is in an element with the role %q, want status", role)
	}
	h.accessible("signed out")
	h.take() // the stream was requested twice
	h.clickIn("#state", "Sign in")
	h.at("/sign-in")
	h.enter("form", "Name", "operator")
	h.enter("form", "Password", "operator-password")
	h.use("form", "Sign in")
	h.at("/relays?from=here")
}
