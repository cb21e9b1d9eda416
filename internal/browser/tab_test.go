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

// tab is what a person does with a page and sees of it, by words that are on it.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string // the address of the program, without a path

	window     size
	scriptless bool
	failure    string   // the file for the picture of a page whose test failed
	allowed    []string // what its pages do that others may not; set before the first is opened

	mu        sync.Mutex
	wrong     []string // what its pages did that none may
	addresses map[network.RequestID]string
	streaming bool // its page has an event stream open
}

// open goes to an address below the program's.
func (tb *tab) open(path string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(tb.base+path)); err != nil {
		tb.t.Fatalf("opening %s: %v", path, err)
	}
}

// words finds things by what a person calls them: the text on a button, a link or
// a disclosure, the label of a field. The text may be followed by more, so that
// "Replay 30" finds "Replay 30 letters"; the whole text is preferred.
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

// evaluate returns what a JavaScript expression comes to, as JSON. It works on pages
// where JavaScript is switched off, too.
func (tb *tab) evaluate(expression string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[[]byte](expression))
}

// ask decodes what an expression in terms of words comes to.
func ask[T any](tb *tab, expression string) (T, error) {
	var answer T
	text, err := tb.evaluate("(() => {" + words + "return " + expression + "})()")
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(text, &answer)
}

// mustAsk is for pages that nothing is happening to.
func mustAsk[T any](tb *tab, expression string) T {
	tb.t.Helper()
	answer, err := ask[T](tb, expression)
	if err != nil {
		tb.t.Fatalf("%s: %v", expression, err)
	}
	return answer
}

func quote(text string) string {
	quoted, _ := json.Marshal(text) // of a string cannot fail
	return string(quoted)
}

// until polls until a thing holds.
func (tb *tab) until(what string, holds func() bool) {
	tb.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(25 * time.Millisecond) {
		if holds() {
			return
		}
	}
	tb.t.Fatalf("waited %s in vain for %s", patience, what)
}

// holds waits until an expression is true. Between two pages there is none to ask.
func (tb *tab) holds(what, expression string) {
	tb.t.Helper()
	tb.until(what, func() bool {
		yes, err := ask[bool](tb, expression)
		return err == nil && yes
	})
}

// at waits until the page of an address is there; without a query any will do.
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

// seesNot is for a page that is complete.
func (tb *tab) seesNot(text string) {
	tb.t.Helper()
	if mustAsk[bool](tb, `squeeze(document.body.innerText).includes(`+quote(text)+`)`) {
		tb.t.Errorf("the page shows %q", text)
	}
}

// text is what an element shows, "" where there is none.
func (tb *tab) text(selector string) string {
	tb.t.Helper()
	return mustAsk[string](tb, `squeeze(document.querySelector(`+quote(selector)+`)?.innerText)`)
}

func (tb *tab) path() string {
	tb.t.Helper()
	return mustAsk[string](tb, "location.pathname")
}

// click presses the mouse on what is called so, where it can be pressed: a thing
// that another one covers is not clicked.
func (tb *tab) click(called string) {
	tb.t.Helper()
	tb.clickOn(called, "find("+quote(called)+")")
}

// clickOn is click for what has no name of its own.
func (tb *tab) clickOn(what, expression string) {
	tb.t.Helper()
	type place struct {
		X, Y    float64
		Covered string
	}
	var at *place
	tb.until("something to click that is called "+what, func() bool {
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
}

// fill types into the field with a label, after what is in it is gone.
func (tb *tab) fill(label, text string) {
	tb.t.Helper()
	tb.click(label)
	tb.do("selecting what is there", chromedp.KeyEvent("a", chromedp.KeyModifiers(kb.ModifierCtrl)))
	tb.do("deleting", chromedp.KeyEvent(kb.Backspace))
	tb.write(text)
}

// write types into what has the focus.
func (tb *tab) write(text string) {
	tb.t.Helper()
	call(tb, input.InsertText, input.InsertTextParams{Text: text})
}

// press presses keys, one after the other. A key and the character that it stands for
// are one event, as with a keyboard: what a page does not let happen does not.
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

// tabTo presses the tabulator until what is called so has the focus, as people do
// who have no mouse. On the way each thing must show that it has the focus.
func (tb *tab) tabTo(called string) {
	tb.t.Helper()
	tb.reach("", called)
}

// reach is tabTo for what is within a part of the page.
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
			tb.t.Errorf("%s: nothing shows that %q has the focus", tb.path(), now.Name)
		}
		if now.Within && strings.HasPrefix(now.Name, called) {
			return
		}
		passed = append(passed, now.Name)
	}
	tb.t.Fatalf("%s: %q cannot be reached with the tabulator; passed %q", tb.path(), called, passed)
}

func (tb *tab) do(what string, action chromedp.Action[chromedp.Void]) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, action); err != nil {
		tb.t.Fatalf("%s: %v", what, err)
	}
}

// showFailure says what the page of a failed test shows, and keeps its picture,
// which `go test -artifacts` does not remove.
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
	tb.t.Logf("its picture: %s", tb.failure)
}
