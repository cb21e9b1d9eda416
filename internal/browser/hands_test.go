package browser

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"
)

// way is one way to use the dashboard. Journeys take the same steps in each way.
type way struct {
	name     string
	prepare  func(*tab) // sets up the window, before the first page
	keyboard bool       // only the keyboard is used
	scripts  bool       // JavaScript is on
}

var ways = []way{
	{"mouse", func(*tab) {}, false, true},
	{"keyboard", func(*tab) {}, true, true},
	{"without JavaScript", (*tab).withoutScripts, false, false},
	{"small", func(tb *tab) { tb.viewport(small) }, false, true},
	{"dark and small without JavaScript by keyboard", func(tb *tab) {
		tb.viewport(small)
		tb.media("prefers-color-scheme: dark")
		tb.withoutScripts()
	}, true, false},
}

// hands is a tab that is used in one of the ways.
type hands struct {
	*tab
	way way
}

func (w way) hands(t *testing.T, c *chromium, base string) *hands {
	t.Helper()
	h := &hands{c.tab(t, base), w}
	w.prepare(h.tab)
	return h
}

// use presses the link, button or disclosure with a name. Within is a selector of the
// part to search, "" for the whole page.
func (h *hands) use(within, called string) {
	h.t.Helper()
	if !h.way.keyboard {
		h.clickIn(within, called)
		return
	}
	h.reach(within, called)
	h.press(kb.Enter)
}

// tick toggles a checkbox.
func (h *hands) tick(called string) {
	h.t.Helper()
	if !h.way.keyboard {
		h.click(called)
		return
	}
	h.reach("", called)
	h.press(" ")
}

// enter puts a text into a field.
func (h *hands) enter(within, label, text string) {
	h.t.Helper()
	if !h.way.keyboard {
		h.clickIn(within, label)
	} else {
		h.reach(within, label)
	}
	h.write(text)
}

// arrives waits for the page of an address and checks that it fits the window.
func (h *hands) arrives(path string) {
	h.t.Helper()
	h.at(path)
	h.fits()
}

// clickIn is click within a part of the page.
func (tb *tab) clickIn(within, called string) {
	tb.t.Helper()
	tb.clickOn(strings.TrimSpace(within+" "+called), "find("+quote(called)+", "+quote(within)+")")
}
