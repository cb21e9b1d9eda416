package browser

import (
	"fmt"
	"testing"
)

// testJourneys goes from the first visit to the last replay, in each way of using the
// pages.
func testJourneys(t *testing.T, c *chromium) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, "")
			o.seed()
			w.journey(t, c, o)
		})
	}
}

// journey is what an operator does who only knows that certificates did not arrive: see
// what happened, run a preflight, have the relay fixed, replay one letter, then the
// others.
func (w way) journey(t *testing.T, c *chromium, o *office) {
	n := o.numbers()
	h := w.hands(t, c, o.http)

	// What happened, and was anything sent?
	h.until("all letters to be read", func() bool {
		h.open("/")
		return mustAsk[bool](h.tab, `squeeze(document.querySelector("#strip")?.innerText).startsWith("30 dead-lettered") && document.querySelectorAll("article.cause").length === 4`)
	})
	h.arrives("/")
	h.sees("it adds up")
	h.sees("1 may have been sent")
	h.use("article.cause", "The relay permanently refused a recipient")
	h.sees("16 letters")
	h.fits()
	h.use("table.letters", fmt.Sprint(n.refused[15]))
	h.arrives(fmt.Sprintf("/dead-letters/%d", n.refused[15]))
	h.sees("not sent")
	h.sees("550 5.1.1 no such user here")
	h.accessible(w.name)

	// What would a replay find? The preflight checks everything without sending.
	h.use("#preflight form", "Preflight")
	h.sees("What a replay would find now")
	h.sees("It is not known whether a replay would be delivered: recipients: not tried; last reply 550 5.1.1")
	h.fits()
	h.seesNot("fails")
	if got := len(o.relay.Mails()); got != 12 {
		t.Errorf("the preflight sent mails: the relay has %d, want the 12 that were delivered before", got)
	}

	// The postmaster fixes the relay. One letter is replayed first.
	o.fixRelay()
	h.open(fmt.Sprintf("/dead-letters/%d", n.refused[15]))
	h.enter("#replay form", "Reason", "The addresses are back")
	h.use("#replay form", "Replay")
	h.sees("Published again.")
	h.fits()
	o.settled(letters - 1)
	if got := len(o.relay.Mails()); got != 13 {
		t.Errorf("the relay has %d mails, want 13", got)
	}

	// Then all remaining letters of that cause, and those of the other cause at the same
	// relay.
	for _, cause := range []struct {
		title string
		count int
	}{{"The relay permanently refused a recipient", 15}, {"The relay refused the sender", 8}} {
		h.open("/")
		h.use("article.cause", cause.title)
		h.sees(fmt.Sprintf("%d letters", cause.count))
		h.use("article.cause", "Replay all…")
		h.arrives("/dead-letters/confirm")
		h.replayAll("The relay is fixed", cause.count)
		h.fits()
		if got := h.text("#progress"); !contains(got, fmt.Sprintf("Delivered %d", cause.count)) || !contains(got, "Dead again 0") {
			t.Errorf("the replay says: %s", got)
		}
	}
	o.settled(letters - 24)
	if got := len(o.relay.Mails()); got != 12+24 {
		t.Errorf("the relay has %d mails, want %d: each exactly once", got, 12+24)
	}

	// The letter that may have been sent needs a second confirmation.
	h.open(fmt.Sprintf("/dead-letters/%d", n.uncertain))
	h.sees("may have been sent")
	h.enter("#replay form", "Reason", "The branch says that nothing came")
	o.branch.fix()
	h.use("#replay form", "Replay…")
	h.sees("Has it been sent?")
	h.expect("status 409")
	h.fits()
	h.accessible(w.name)
	if got := o.branch.mails(); got != 1 {
		t.Errorf("the branch has %d mails before the second confirmation, want 1", got)
	}
	h.tick("I have looked for it")
	h.use("main form", "Replay anyway")
	h.sees("Published again.")
	o.settled(5)
	if got := o.branch.mails(); got != 2 {
		t.Errorf("the branch has %d mails, want 2", got)
	}

	// All letters are accounted for.
	h.open("/")
	h.holdsReloading("the account of all letters", `(text => text.includes("30 dead-lettered") && text.includes("5 open") && text.includes("25 replayed") && text.includes("it adds up"))(squeeze(document.querySelector("#strip").innerText))`)
	h.accessible(w.name)
}
