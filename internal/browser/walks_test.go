package browser

import (
	"testing"

	"github.com/chromedp/chromedp/kb"
)

// testWalks goes the ways of three people from the address of the dashboard to what they want
// to know or to have done, and counts their clicks. They see what the pages show, and know
// nothing else.
func testWalks(t *testing.T, c *chromium) {
	o := newOffice(t, "")
	o.seed()
	walk := func(who string, most int) *tab {
		tb := c.tab(t, o.http)
		tb.until("all letters to be read", func() bool {
			tb.open("/")
			return mustAsk[bool](tb, `!!document.querySelector("#strip") && squeeze(document.querySelector("#strip").innerText).startsWith("30 dead-lettered")`)
		})
		t.Cleanup(func() {
			t.Logf("%s: %d clicks", who, tb.clicks)
			if tb.clicks > most {
				t.Errorf("%s needed %d clicks, more than %d", who, tb.clicks, most)
			}
		})
		return tb
	}

	// A newcomer, whose relay's postmaster has mended it, wants to see one letter delivered.
	o.fixRelay()
	newcomer := walk("the newcomer to a replayed letter", 6)
	newcomer.clickIn("article.cause", "The relay permanently refused a recipient")
	newcomer.sees("Correct the address in the target, then replay.")
	newcomer.clickOn("the first letter", `document.querySelector("table.letters tbody th a")`)
	newcomer.sees("What happened")
	newcomer.sees("Correct the address in the target, then replay.")
	newcomer.clickIn("#replay form", "Replay")
	newcomer.sees("Published again.")
	o.settled(letters - 1)

	// An operator at night wants everything delivered that the mended relay had refused: 23
	// letters of two causes.
	night := walk("the operator at night to 20 delivered and more", 8)
	for _, cause := range []string{"The relay permanently refused a recipient", "The relay refused the sender"} {
		night.clickOn("all of "+cause, `(a => seen(a) && a)([...document.querySelectorAll("article.cause")].find(c => c.innerText.includes(`+quote(cause)+`)).querySelector("a[href*='action=replay']"))`)
		night.sees("Selection")
		night.clickIn("main form", "Reason")
		night.write("The relay is mended")
		night.clickIn("main form", "Replay ")
		night.sees("Progress")
		night.holds("the replay to be done", `document.querySelector("#progress").innerText.includes("done")`)
		night.clickIn("nav", "Overview")
	}
	night.holds("24 to be replayed", `squeeze(document.querySelector("#strip").innerText).includes("24 replayed")`)
	o.settled(letters - 24)
	if got := len(o.relay.Mails()); got != 12+24 {
		t.Errorf("the relay has %d mails, want %d: each exactly once", got, 12+24)
	}

	// An auditor asks who got the certificate of a name, and its key.
	auditor := walk("the auditor to who got the key", 2)
	auditor.clickIn("nav", "Deliveries")
	auditor.click("Who got which key")
	auditor.holds("the field to have the focus", `document.activeElement.name === "name"`)
	auditor.write("www.example.com")
	auditor.press(kb.Enter)
	auditor.sees("archive@example.com")
	auditor.sees("not sent") // the key
}
