package browser

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// tab is a browser tab. Its methods find elements by their visible texts, as a person
// does.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string // the address of the program, without a path

	clicks     int // with the mouse
	window     size
	scriptless bool
	failure    string   // the file for a picture of the page if the test fails
	allowed    []string // errors that are allowed on its pages; set before the first page is opened

	mu        sync.Mutex
	wrong     []string // errors of its pages
	addresses map[network.RequestID]string
	streaming bool // its page has an open event stream
}

// open opens a path of the program.
func (tb *tab) open(path string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(tb.base+path)); err != nil {
		tb.t.Fatalf("opening %s: %v", path, err)
	}
}

// words defines find, which finds elements by name: the text of a button, link or
// disclosure, or the label of a field. A prefix of the name is enough, so that
// "Replay 30" finds "Replay 30 letters"; an exact match is preferred.
const words = `
const seen = e => e.checkVisibility({visibilityProperty: true, opacityProperty: true}) && e.getClientRects().length > 0;
const squeeze = s => (s || "").replace(/\s+/g, " ").trim();
const name = e => squeeze(e.getAttribute("aria-label") || e.labels?.[0]?.innerText || e.innerText || e.value || e.title);
const find = (wanted, within) => {
	const all = [...document.querySelectorAll("a[href],button,summary,input:not([type=hidden]),select,textarea,[role=button],[tabindex='0']")]
		.filter(e => seen(e) && !e.disabled && (!within || e.closest(within)));
	return all.find(e => name(e) === wanted) || all.find(e => name(e).startsWith(wanted)) || null;
};
`

// evaluate returns the value of a JavaScript expression as JSON. It also works on pages
// where JavaScript is switched off.
func (tb *tab) evaluate(expression string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[[]byte](expression))
}

// ask decodes the value of an expression, which may use the functions of words.
func ask[T any](tb *tab, expression string) (T, error) {
	var answer T
	text, err := tb.evaluate("(() => {" + words + "return " + expression + "})()")
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(text, &answer)
}

// mustAsk is ask for pages that are not being loaded.
func mustAsk[T any](tb *tab, expression string) T {
	tb.t.Helper()
	answer, err := ask[T](tb, expression)
	if err != nil {
		tb.t.Fatalf("%s: %v", expression, err)
	}
	return answer
}

func quote(text string) string {
	quoted, _ := json.Marshal(text) // cannot fail for a string
	return string(quoted)
}

// until polls until a condition holds.
func (tb *tab) until(what string, holds func() bool) {
	tb.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(25 * time.Millisecond) {
		if holds() {
			return
		}
	}
	tb.t.Fatalf("waited %s for %s: timeout", patience, what)
}

// holds waits until an expression is true. Errors count as false, because between two
// pages nothing can be evaluated.
func (tb *tab) holds(what, expression string) {
	tb.t.Helper()
	tb.until(what, func() bool {
		yes, err := ask[bool](tb, expression)
		return err == nil && yes
	})
}

// at waits until the page of a path is loaded. The query is compared only if path has one.
func (tb *tab) at(path string) {
	tb.t.Helper()
	here := "location.pathname"
	if strings.Contains(path, "?") {
		here += " + location.search"
	}
	tb.holds("the page "+path, `document.readyState === "complete" && `+here+" === "+quote(path))
}

// sees waits until the page shows a text.
func (tb *tab) sees(text string) {
	tb.t.Helper()
	tb.holds("the text "+text, `squeeze(document.body?.innerText).includes(`+quote(text)+`)`)
}

// seesNot checks that a complete page does not show a text.
func (tb *tab) seesNot(text string) {
	tb.t.Helper()
	if mustAsk[bool](tb, `squeeze(document.body.innerText).includes(`+quote(text)+`)`) {
		tb.t.Errorf("the page shows %q", text)
	}
}

// text is the visible text of an element, "" if there is no such element.
func (tb *tab) text(selector string) string {
	tb.t.Helper()
	return mustAsk[string](tb, `squeeze(document.querySelector(`+quote(selector)+`)?.innerText)`)
}

func (tb *tab) path() string {
	tb.t.Helper()
	return mustAsk[string](tb, "location.pathname")
}

// click clicks the element with a name, once it is not covered by another element.
func (tb *tab) click(called string) {
	tb.t.Helper()
	tb.clickOn(called, "find("+quote(called)+")")
}

// clickOn is click for the element that an expression returns.
func (tb *tab) clickOn(what, expression string) {
	tb.t.Helper()
	type place struct {
		X, Y    float64
		Covered string
	}
	var at *place
	tb.until("a clickable element "+what, func() bool {
		var err error
		at, err = ask[*place](tb, `(() => {
			const e = `+expression+`;
			if (!e || document.readyState !== "complete") return null;
			e.scrollIntoView({block: "center", behavior: "instant"});
			const box = e.getClientRects()[0], x = box.x + box.width / 2, y = box.y + box.height / 2;
			const top = document.elementFromPoint(x, y);
			return {x, y, covered: top && (e.contains(top) || top.contains(e) || [...e.labels || []].some(l => l.contains(top))) ? "" : (top?.outerHTML.slice(0, 200) || "nothing")};
		})()`)
		return err == nil && at != nil && at.Covered == ""
	})
	tb.do("clicking "+what, chromedp.MouseClickXY(at.X, at.Y))
	tb.clicks++
}

// fill replaces the content of the field with a label.
func (tb *tab) fill(label, text string) {
	tb.t.Helper()
	tb.click(label)
	tb.do("selecting the content", chromedp.KeyEvent("a", chromedp.KeyModifiers(kb.ModifierCtrl)))
	tb.do("deleting", chromedp.KeyEvent(kb.Backspace))
	tb.write(text)
}

// write types into the focused element.
func (tb *tab) write(text string) {
	tb.t.Helper()
	call(tb, input.InsertText, input.InsertTextParams{Text: text})
}

// press presses keys, one after the other. A key and its character are one event, as with
// a keyboard, so that a page can prevent the character by preventing the key.
func (tb *tab) press(keys string) {
	tb.t.Helper()
	for _, key := range keys {
		var text string
		for _, event := range kb.Encode(key) {
			if event.Type == kb.KeyChar {
				text = event.Text
			}
		}
		for _, event := range kb.Encode(key) {
			switch event.Type {
			case kb.KeyChar:
				continue
			case kb.KeyDown:
				event.Text = text
			}
			call(tb, input.DispatchKeyEvent, *event)
		}
	}
}

// tabTo presses Tab until the element with a name has the focus, as people without a mouse
// do. Each element on the way must show its focus.
func (tb *tab) tabTo(called string) {
	tb.t.Helper()
	tb.reach("", called)
}

// reach is tabTo for an element within a part of the page.
func (tb *tab) reach(within, called string) {
	tb.t.Helper()
	const most = 250
	var passed []string
	tb.holds("the page", `document.readyState === "complete"`)
	for range most {
		tb.press(kb.Tab)
		type focus struct {
			Name   string
			Shown  bool
			Within bool
		}
		now := mustAsk[focus](tb, `(() => {
			const e = document.activeElement || document.body, s = getComputedStyle(e);
			return {name: e === document.body ? "" : name(e), within: `+quote(within)+` === "" || !!e.closest(`+quote(within)+` || "*"), shown: e === document.body || s.outlineStyle !== "none" && s.outlineWidth !== "0px" || s.boxShadow !== "none"};
		})()`)
		if !now.Shown {
			tb.t.Errorf("%s: %q has the focus but does not show it", tb.path(), now.Name)
		}
		if now.Within && strings.HasPrefix(now.Name, called) {
			return
		}
		passed = append(passed, now.Name)
	}
	tb.t.Fatalf("%s: %q cannot be reached with Tab; passed %q", tb.path(), called, passed)
}

func (tb *tab) do(what string, action chromedp.Action[chromedp.Void]) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, action); err != nil {
		tb.t.Fatalf("%s: %v", what, err)
	}
}

// showFailure logs the text of the page of a failed test and saves its picture;
// `go test -artifacts` keeps it.
func (tb *tab) showFailure() {
	text, err := tb.evaluate(`location.href + "\n" + document.body?.innerText`)
	var shown string
	if err == nil {
		err = json.Unmarshal(text, &shown)
	}
	tb.t.Logf("the page: %s (%v)", shown, err)
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		tb.t.Logf("no picture: %v", err)
		return
	}
	if err := os.WriteFile(tb.failure, picture, 0o644); err != nil {
		tb.t.Log(err)
		return
	}
	tb.t.Logf("picture: %s", tb.failure)
}
