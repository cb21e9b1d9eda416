package browser

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"
	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/lab"
)

func contains(text, part string) bool { return strings.Contains(text, part) }

// testActions tests the actions other than replaying.
func testActions(t *testing.T, c *chromium) {
	for _, part := range []struct {
		name string
		run  func(*testing.T, *chromium, *office, numbers)
	}{
		{"two operators", testTwoOperators},
		{"hold and release", testHold},
		{"discard and restore", testDiscard},
		{"deliveries", testDeliveries},
		{"suspend and resume", testSuspend},
		{"settings", testSettings},
		{"keys", testKeys},
		{"news", testNews},
		{"check a target", testCheck},
		{"accepted", testAccepted},
		{"canary without JavaScript", testCanary},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, "")
			o.seed()
			part.run(t, c, o, o.numbers())
		})
	}
}

// Two operators have the page of the same letter open. The second one to act is told
// about the first action, and nothing is done twice.
func testTwoOperators(t *testing.T, c *chromium, o *office, n numbers) {
	page := fmt.Sprintf("/dead-letters/%d", n.refused[0])
	first, second := ways[0].hands(t, c, o.http), ways[0].hands(t, c, o.http)
	o.fixRelay()
	first.open(page)
	second.open(page)
	first.enter("#replay form", "Reason", "I was here first")
	first.use("#replay form", "Replay")
	first.sees("Published again.")
	second.enter("#replay form", "Reason", "So was I")
	second.use("#replay form", "Replay")
	second.sees("Another action came first")
	second.expect("status 409")
	second.sees("replayed")
	second.sees("I was here first")
	second.looks("conflict")
	o.settled(letters - 1)
	if got := len(o.relay.Mails()); got != 13 {
		t.Errorf("the relay has %d mails, want 13: exactly one replay", got)
	}
}

func testHold(t *testing.T, c *chromium, o *office, n numbers) {
	h := ways[0].hands(t, c, o.http)
	page := fmt.Sprintf("/dead-letters/%d", n.refused[0])
	h.open(page)
	h.use("#hold", "Hold")
	h.use("#hold form", "Hold") // the browser does not submit the form without a reason
	h.at(page)
	h.enter("#hold form", "Reason", "Asked the web team")
	h.use("#hold form", "Hold")
	h.sees("Held. It is neither replayed nor discarded")
	h.sees("Asked the web team")
	if mustAsk[bool](h.tab, `!!document.querySelector("#replay, #discard")`) {
		t.Error("a held letter's page has a form for replay or discard")
	}
	h.open("/dead-letters/confirm?action=replay&all=yes")
	h.sees("Replay 29 dead letters?")
	h.onLetter(n.refused[0], "release", "Release", "")
	h.sees("Released.")
	h.seesNot("Held by")
}

func testDiscard(t *testing.T, c *chromium, o *office, n numbers) {
	h := ways[0].hands(t, c, o.http)
	h.onLetter(n.password[0], "discard", "Discard", "The keystore is gone")
	h.sees("Discarded.")
	h.sees("The keystore is gone")
	o.settled(letters - 1)
	h.open("/")
	h.holds("the account", `squeeze(document.querySelector("#strip").innerText).includes("1 discarded")`)
	h.onLetter(n.password[0], "restore", "Restore", "It is not")
	h.sees("Restored. It is on the list again")
	o.settled(letters)
	h.sees("It is not")
	h.open("/")
	h.holds("the account", `(text => text.includes("31 dead-lettered") && text.includes("30 open") && text.includes("1 discarded") && text.includes("it adds up"))(squeeze(document.querySelector("#strip").innerText))`)

	// Several letters at once, selected in the list.
	h.open("/dead-letters?code=SMTP_AUTH")
	h.tick("Select all on this page")
	h.use("form.stack", "Discard…")
	h.sees("Discard 5 dead letters?")
	h.enter("main form", "Reason", "All keystores are gone")
	h.use("main form", "Discard 5 letters")
	h.at("/dead-letters")
	h.sees("Discarded.")
	o.settled(letters - 5)
}

// A delivery is found by the serial number as a browser's certificate viewer shows it.
func testDeliveries(t *testing.T, c *chromium, o *office, _ numbers) {
	cert := o.ca.issue(t, 30, "wanted.example.com")
	o.publish("wanted-1", cert, "ops-archive")
	o.settled(letters)
	serial := fmt.Sprintf("%X", cert.SerialNumber.Bytes())
	var colons strings.Builder
	for i, r := range serial {
		if i > 0 && i%2 == 0 {
			colons.WriteByte(':')
		}
		colons.WriteRune(r)
	}
	h := ways[0].hands(t, c, o.http)
	h.open("/deliveries")
	h.until("the ledger to be read", func() bool { h.open("/deliveries"); return contains(h.text("h1 + p"), "43 deliveries") })
	h.click("More filters")
	h.fill("Serial", colons.String())
	h.click("Search")
	h.sees("1 delivery matches")
	h.click("wanted.example.com")
	h.at("/deliveries/ops-archive/wanted-1")
	h.sees("archive@example.com")
	h.sees("TLS 1.3")
	h.accessible("delivery")
	h.open("/deliveries?name=*.partner.example.net&state=dead")
	h.sees("8 deliveries match")
}

func testSuspend(t *testing.T, c *chromium, o *office, _ numbers) {
	h := ways[0].hands(t, c, o.http)
	h.toLane(o.lanes[0])
	h.enter("main form", "Reason", "The relay is being moved")
	h.use("main form", "Suspend")
	h.sees("Suspended. Nothing more is fetched")
	h.looks("relay-suspended")
	o.publish("while-suspended", o.ca.issue(t, 30, "waiting.example.com"), "ops-archive")
	h.until("the delivery to wait", func() bool {
		h.open("/relays")
		return mustAsk[bool](h.tab, `[...document.querySelectorAll("td[data-label=Waiting]")].some(e => e.innerText.trim() === "1")`)
	})
	if got := len(o.relay.Mails()); got != 12 {
		t.Errorf("the relay has %d mails, want 12: its lane is suspended", got)
	}
	o.publish("not-wanted", o.ca.issue(t, 30, "unwanted.example.com"), "ops-archive")
	h.until("two to wait", func() bool {
		h.open("/deliveries?state=waiting")
		return mustAsk[int](h.tab, `document.querySelectorAll("main tbody tr").length`) == 2
	})
	h.looks("waiting")
	h.use("main form", "Cancel…")
	h.sees("Select deliveries first.")
	h.tick("Select not-wanted to ops-archive")
	h.use("main form", "Cancel…")
	h.sees("Cancel 1 waiting delivery?")
	h.looks("confirm-waiting")
	h.enter("main form", "Reason", "Issued by mistake")
	h.use("main form", "Cancel 1 delivery")
	h.sees("Cancelled. They are dead letters now")
	h.toLane(o.lanes[0])
	h.use("main form", "Resume")
	h.sees("Resumed.")
	o.until("the delivery to go out", func() bool { return len(o.relay.Mails()) == 13 })
}

// toLane follows the list's link to a lane. It does not click, because the list is
// replaced when a lane changes, and a click is lost if its element is replaced meanwhile.
func (h *hands) toLane(lane string) {
	h.t.Helper()
	h.open("/relays")
	h.open(mustAsk[string](h.tab, `find(`+quote(lane)+`).getAttribute("href")`))
	h.at("/relays/" + lane)
}

func testSettings(t *testing.T, c *chromium, o *office, _ numbers) {
	h := ways[0].hands(t, c, o.http)
	h.open("/dead-letters?code=SMTP_AUTH")
	background := func() string { return mustAsk[string](h.tab, `getComputedStyle(document.body).backgroundColor`) }
	light := background()
	h.click("dark")
	h.holds("the dark", `document.readyState === "complete" && getComputedStyle(document.body).backgroundColor !== `+quote(light))
	h.at("/dead-letters?code=SMTP_AUTH") // the same page as before
	h.accessible("dark by choice")
	h.media("prefers-color-scheme: dark")
	h.click("light")
	h.holds("the light, against the system's setting", `getComputedStyle(document.body).backgroundColor === `+quote(light))
	h.click("system")
	h.holds("the dark of the system", `getComputedStyle(document.body).backgroundColor !== `+quote(light))

	h.open("/settings")
	h.clickOn("keys off", `document.querySelector("input[name=keys][value=off]")`)
	h.click("Save")
	h.sees("Saved.")
	h.holds("the whole page", `document.readyState === "complete" && document.querySelector("dialog") !== null`)
	h.press("?")
	if mustAsk[bool](h.tab, `document.querySelector("dialog").open`) {
		t.Error("a key still works after keys were switched off")
	}
}

// testKeys uses the keyboard shortcuts.
func testKeys(t *testing.T, c *chromium, o *office, n numbers) {
	h := ways[0].hands(t, c, o.http)
	h.until("all letters to be read", func() bool { h.open("/dead-letters?code=SMTP_AUTH"); return contains(h.text("h1 + p"), "5 open") })
	h.updates() // the scripts have run
	h.press("?")
	h.holds("the list of keys", `document.querySelector("dialog").open`)
	h.accessible("with the list of keys")
	h.press(kb.Escape)
	h.holds("the list of keys to be gone", `!document.querySelector("dialog").open`)
	h.press("/")
	h.holds("the search to have the focus", `document.activeElement.type === "search"`)
	h.write("intranet")
	h.press(kb.Enter)
	h.sees("text intranet")
	h.sees("1 open letter matches")
	h.open("/dead-letters?code=SMTP_AUTH")
	h.updates()
	h.press("jjx") // selects the second row
	h.press("k")
	h.press("jx") // deselects it
	h.press("jx") // selects the third row
	h.press("r")
	h.at("/dead-letters/confirm")
	h.sees("Replay 1 dead letter?")
	h.open("/dead-letters?code=SMTP_AUTH")
	h.updates()
	h.press("j" + kb.Enter)
	h.at(fmt.Sprintf("/dead-letters/%d", n.password[len(n.password)-1])) // complete: its scripts have run
	h.press("e")
	h.holds("the reason to discard to have the focus", `!!document.activeElement.closest("#discard")`)
}

// testNews checks that new letters are announced by a line, and shown only on request.
func testNews(t *testing.T, c *chromium, o *office, _ numbers) {
	h := ways[0].hands(t, c, o.http)
	rows := func() int { return mustAsk[int](h.tab, `document.querySelectorAll("table.letters tbody tr").length`) }
	h.until("all letters to be read", func() bool { h.open("/dead-letters"); return rows() == letters })
	h.updates()
	for i := range 2 {
		o.publish(fmt.Sprintf("late-%d", i), o.ca.issue(t, 5, fmt.Sprintf("late-%d.example.com", i)), "web-team")
	}
	h.sees("2 new, show")
	if rows() != letters {
		t.Errorf("%d rows, want %d: new rows were inserted without a request", rows(), letters)
	}
	h.accessible("with news")
	h.click("2 new, show")
	h.holds("the new rows", fmt.Sprintf(`document.querySelectorAll("table.letters tbody tr").length === %d`, letters+2))
}

func testCheck(t *testing.T, c *chromium, o *office, _ numbers) {
	h := ways[0].hands(t, c, o.http)
	h.open("/targets")
	h.click("java-keystores")
	h.click("Check now")
	h.sees("a delivery would fail")
	h.seesNot("not the one that the relay has") // its password
	h.looks("target-checked")
	h.open("/targets/ops-archive")
	h.click("Check now")
	h.sees("Checked just now")
	h.seesNot("a delivery would fail")
}

// testAccepted shows a letter whose headers say that a relay accepted the mail.
func testAccepted(t *testing.T, c *chromium, o *office, _ numbers) {
	nc := lab.Admin(t, o.nats, filepath.Join(o.dir, "data"))
	m := nats.NewMsg("certpost.dead.SMTP_PERMANENT." + o.lanes[0] + ".ops-archive.accepted-1")
	m.Data = []byte(`{"id": "accepted-1", "targets": ["ops-archive"]}`)
	for _, header := range [][2]string{
		{"Event-Id", "accepted-1"}, {"Target", "ops-archive"}, {"Lane", o.lanes[0]}, {"Generation", "1"}, {"Code", "SMTP_PERMANENT"}, {"Phase", "rcpt"},
		{"Reason", "one of two recipients was refused"}, {"Certainty", "accepted"}, {"Recipients", "second@example.com"},
	} {
		m.Header.Set("Certpost-"+header[0], header[1])
	}
	if _, err := nc.RequestMsg(m, patience); err != nil {
		t.Fatal(err)
	}
	h := ways[0].hands(t, c, o.http)
	h.until("the letter to be read", func() bool {
		h.open("/dead-letters?certainty=accepted")
		return contains(h.text("h1 + p"), "1 open letter matches")
	})
	h.use("table.letters tbody", fmt.Sprint(letters+1))
	h.sees("The mail was sent to some of the recipients.")
	h.sees("second@example.com")
	h.looks("letter-accepted")
}

// testSignIn signs in with a wrong password, as a viewer and as an operator.
func testSignIn(t *testing.T, c *chromium) {
	o := newOffice(t, accounts())
	o.seed()
	n := o.numbers()
	page := fmt.Sprintf("/dead-letters/%d", n.refused[0])

	h := ways[1].hands(t, c, o.http) // by keyboard
	h.open(page)
	h.at("/sign-in")
	h.looks("sign-in")
	h.enter("form", "Name", "viewer")
	h.enter("form", "Password", "guessed")
	h.use("form", "Sign in")
	h.holds("an error message", `!!document.querySelector("[role=alert]")`)
	h.expect("status 4")
	h.looks("sign-in-wrong")
	h.enter("form", "Password", "viewer-password")
	h.use("form", "Sign in")
	h.at(page) // the page requested before sign-in
	h.sees("viewer, viewer")
	if mustAsk[bool](h.tab, `!!document.querySelector("#replay, #discard, #hold")`) {
		t.Error("a viewer's page has forms to act with")
	}
	h.use("header", "Sign out")
	h.holds("a page without navigation", `!document.querySelector("nav[aria-label=Pages]")`)
	h.open(page)
	h.at("/sign-in")

	h = ways[0].hands(t, c, o.http)
	h.signIn("operator")
	h.onLetter(n.refused[0], "hold", "Hold", "Looking into it")
	h.sees("Held.")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var held bool
	for r, err := range o.broker.ReadAudit(ctx, 1) {
		if err != nil {
			t.Fatal(err)
		}
		held = held || r.Name == "operator" && r.Reason == "Looking into it"
	}
	if !held {
		t.Error("the audit does not show who held the letter")
	}
}
