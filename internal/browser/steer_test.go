package browser

import (
	"context"
	"fmt"
	"testing"

	"github.com/certpost/certpost/internal/broker"
)

// testSteering pauses, resumes and cancels a running replay, by mouse and with only the
// keyboard, while a second tab follows it without ever reloading the page.
func testSteering(t *testing.T, c *chromium) {
	for _, w := range ways[:2] {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, "")
			o.seed()
			w.steer(t, c, o)
		})
	}
}

func (w way) steer(t *testing.T, c *chromium, o *office) {
	o.fixRelay()
	h := w.hands(t, c, o.http)
	h.open("/dead-letters/confirm?action=replay&all=yes&target=pki-mailbox")
	h.sees("Replay 8 dead letters?")
	h.enter("main form", "Reason", "The addresses are back")
	h.tick("Canary: send 1, then 10")
	h.enter("main form", "Rate limit", "1/h")
	h.use("main form", "Replay 8 letters")
	h.sees("The replay has started")
	run := h.path()

	// One letter is sent, and the others wait for an hour. The second tab shows the delivery.
	onlooker := c.tab(t, o.http)
	onlooker.open(run)
	onlooker.updates()
	mustAsk[bool](onlooker, "window.neverLoadedAgain = true")
	onlooker.shows("Published 1", "Delivered 1", "Not yet published 7")

	// Typed text stays in its field while the page is updated, here because a letter was
	// discarded through NATS.
	onlooker.clickIn("#steering summary", "Pause")
	onlooker.clickIn("#steering form", "Reason")
	onlooker.write("Before it ")
	taken := o.lettersTo("pki-mailbox")[6]
	o.takeOff(taken)
	onlooker.shows("Published 1", "Handled by another action 1", "Not yet published 6")
	onlooker.holds("the letter's result", fmt.Sprintf(`[...document.querySelectorAll("#letter-by-letter tr")].some(e => squeeze(e.innerText).startsWith("%d gone"))`, taken))
	onlooker.write("is too late")
	if got := mustAsk[string](onlooker, `document.querySelector("#steering details[open] input[name=reason]")?.value || ""`); got != "Before it is too late" {
		t.Errorf("the page kept %q of what was typed while it was updated", got)
	}

	h.use("#steering summary", "Pause")
	h.enter("#steering form", "Reason", "Let me look first")
	h.use("#steering form", "Pause")
	h.sees("Paused.")
	h.sees("paused by")
	onlooker.shows("paused", "Let me look first", "Published 1")
	onlooker.holds("the buttons of a paused replay", `!!find("Resume", "#steering form") && !find("Pause", "#steering")`)
	if w.keyboard {
		h.accessible("paused")
	} else {
		h.looks("replay-paused")
	}

	h.enter("#steering form", "Reason", "It looks good")
	h.use("#steering form", "Resume")
	h.sees("Resumed.")
	onlooker.holds("the buttons of a running replay", `!!find("Pause", "#steering summary") && !find("Resume", "#steering")`)

	h.use("#steering summary", "Cancel")
	h.sees("Nothing is lost")
	h.enter("#steering form", "Reason", "Not today")
	h.use("#steering form", "Cancel the replay")
	h.sees("Cancelled.")
	h.sees("Not today")
	onlooker.shows("cancelled", "Not today")
	onlooker.holds("the buttons to be gone", `!document.querySelector("#steering button")`)
	onlooker.accessible("after its end")
	if !mustAsk[bool](onlooker, "window.neverLoadedAgain === true") {
		t.Error("the page of the second tab was reloaded")
	}

	// Each letter except the discarded one was delivered or is on the list.
	var arrived uint64
	o.until("what was not published to be on the list", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		b, err := o.broker.Backlog(ctx)
		arrived = uint64(len(o.relay.Mails()) - 12)
		return err == nil && b.Events == 0 && b.Deliveries == 0 && b.Dead+arrived == letters-1
	})
	if arrived != 1 {
		t.Errorf("%d letters were replayed, want 1 at a rate of 1/h", arrived)
	}
	h.open(run)
	h.use("main", "Replay the remaining 6 letters…")
	h.sees("Replay 6 dead letters?")
}

// shows waits until a replay's page shows all texts, without reloading it.
func (tb *tab) shows(texts ...string) {
	tb.t.Helper()
	for _, text := range texts {
		tb.holds(text, `squeeze(document.querySelector("#progress")?.innerText).includes(`+quote(text)+`)`)
	}
}

// lettersTo are the numbers of the open letters of a target.
func (o *office) lettersTo(target string) (list []uint64) {
	o.t.Helper()
	for d, err := range o.broker.DeadLetters(o.t.Context(), "") {
		if err != nil {
			o.t.Fatal(err)
		}
		if d.Target == target {
			list = append(list, d.Sequence)
		}
	}
	return list
}

// takeOff discards a letter without the pages, as another program would.
func (o *office) takeOff(number uint64) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), patience)
	defer cancel()
	letter, err := o.broker.DeadLetter(ctx, number)
	if err != nil {
		o.t.Fatal(err)
	}
	if err := o.broker.Discard(ctx, letter, broker.Actor{Name: "a colleague", Via: broker.ViaNATS}, "The mailbox is gone"); err != nil {
		o.t.Fatal(err)
	}
}

// testCanary replays many letters without JavaScript: the canary prevents that all of them
// are sent to a relay that still refuses them.
func testCanary(t *testing.T, c *chromium, o *office, _ numbers) {
	h := ways[2].hands(t, c, o.http)
	h.open("/dead-letters?target=partner-portal")
	h.sees("8 open letters match")
	h.clickIn("a", "Replay…")
	h.sees("Replay 8 dead letters?")
	if !mustAsk[bool](h.tab, `document.querySelector("input[name=canary]").checked`) {
		t.Error("the canary is not selected by default")
	}
	h.enter("main form", "Reason", "The postmaster should have fixed it")
	h.use("main form", "Replay 8 letters")
	h.arrivesAtRun("stopped")
	h.sees("came back")
	h.sees("7 letters…")
	h.accessible("stopped")
	o.settled(letters)
	if got := len(o.relay.Mails()); got != 12 {
		t.Errorf("the relay has %d mails, want the 12 from before", got)
	}

	o.fixRelay()
	h.use("main", "Replay the remaining 7 letters…")
	h.sees("Replay 7 dead letters?")
	h.enter("main form", "Reason", "Now they have")
	h.use("main form", "Replay 7 letters")
	h.arrivesAtRun("done")
	h.seesOf("#progress", "Delivered 7", "Dead again 0")

	// The letter that came back is selected in the list.
	h.open("/dead-letters?target=partner-portal")
	h.sees("1 open letter matches")
	h.tick("Select letter")
	h.use("form.stack", "Replay…")
	h.sees("Replay 1 dead letter?")
	h.enter("main form", "Reason", "The canary, too")
	h.use("main form", "Replay 1 letter")
	h.arrivesAtRun("done")
	h.seesOf("#progress", "Delivered 1")
	o.settled(letters - 8)
	if got := len(o.relay.Mails()); got != 12+8 {
		t.Errorf("the relay has %d mails, want %d: each exactly once", got, 12+8)
	}
}

// arrivesAtRun waits until a replay has a state, and reloads its page without JavaScript.
func (h *hands) arrivesAtRun(state string) {
	h.t.Helper()
	h.sees("Progress")
	h.holdsReloading("the replay to be "+state, `squeeze(document.querySelector("#progress .mark").innerText) === `+quote(state))
	h.fits()
}

// seesOf checks that a part of a complete page shows all texts.
func (h *hands) seesOf(selector string, texts ...string) {
	h.t.Helper()
	shown := h.text(selector)
	for _, text := range texts {
		if !contains(shown, text) {
			h.t.Errorf("%s does not say %q: %s", selector, text, shown)
		}
	}
}
