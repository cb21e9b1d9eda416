package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/certpost/certpost/internal/lab"
)

// goodPage has no faults. Each test of the harness adds one fault to it.
const goodPage = `<!doctype html><html lang="en"><head><title>A page</title><meta name="viewport" content="width=device-width">
<link rel="icon" href="/icon.svg"><link rel="stylesheet" href="/style.css"></head>
<body><main><h1>A page</h1><p>It says something.</p><a href="/next">Go on</a> %s</main></body></html>`

const (
	goodStyle = `:root { color-scheme: light dark; color: CanvasText; background: linear-gradient(#eef, #fee) Canvas } a:focus-visible { outline: 2px solid }
@media (prefers-color-scheme: dark) { :root { background: #222; color: #eee } a { color: #9cf } }`
	goodScript = `document.querySelector("p").textContent += " By script."`
	icon       = `<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>`
)

// pages serves goodPage with more in its body, under a policy as strict as the
// dashboard's.
func pages(t *testing.T, more string) string {
	t.Helper()
	serve := func(kind, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'")
			fmt.Fprint(w, text)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", serve("text/html", fmt.Sprintf(goodPage, more)))
	mux.HandleFunc("/next", serve("text/html", fmt.Sprintf(goodPage, `<p>The next one.</p><label>Word <input name="word"></label> <button>Send</button>`)))
	mux.HandleFunc("/style.css", serve("text/css", goodStyle))
	mux.HandleFunc("/script.js", serve("text/javascript", goodScript))
	mux.HandleFunc("/error.js", serve("text/javascript", `console.error("it hurts", 7)`))
	mux.HandleFunc("/warning.js", serve("text/javascript", `console.warn("it itches")`))
	mux.HandleFunc("/exception.js", serve("text/javascript", `null.nothing`))
	mux.HandleFunc("/rejection.js", serve("text/javascript", `Promise.reject(new Error("refused"))`))
	mux.HandleFunc("/style.js", serve("text/javascript", `document.querySelector("p").setAttribute("style", "color: red")`))
	mux.HandleFunc("/icon.svg", serve("image/svg+xml", icon))
	mux.HandleFunc("/dropped.svg", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// testHarness tests the checks themselves: each kind of fault must be found, and no
// fault may be found where there is none.
func testHarness(t *testing.T, c *chromium) {
	t.Run("good", func(t *testing.T) { testGoodPage(t, c) })
	t.Run("faults", func(t *testing.T) { testFaultsAreFound(t, c) })
	t.Run("accessibility", func(t *testing.T) { testViolationsAreFound(t, c) })
	t.Run("looks", func(t *testing.T) { testLooks(t, c) })
	t.Run("cramped", func(t *testing.T) { testCrampedTablesAreFound(t, c) })
	t.Run("typeface", func(t *testing.T) { testTypeface(t, c) })
	t.Run("scripts", func(t *testing.T) { testWithoutScripts(t, c) })
	t.Run("keyboard", func(t *testing.T) { testKeyboard(t, c) })
}

func testGoodPage(t *testing.T, c *chromium) {
	tb := c.tab(t, pages(t, `<script src="/script.js"></script>`))
	tb.open("/")
	tb.sees("It says something. By script.")
	tb.seesNot("The next one")
	tb.accessible("as it is")
	tb.fits()
	tb.picture()
	tb.click("Go on")
	tb.at("/next")
	tb.sees("The next one")
	tb.fill("Word", "first")
	tb.fill("Word", "second")
	if got := mustAsk[string](tb, `document.querySelector("input").value`); got != "second" {
		t.Errorf("the field has %q", got)
	}
}

func testFaultsAreFound(t *testing.T, c *chromium) {
	tb := c.tab(t, "")
	for _, fault := range []struct{ more, found string }{
		{`<script src="/error.js"></script>`, `console.error: "it hurts" 7`},
		{`<script src="/warning.js"></script>`, "it itches"},
		{`<script src="/exception.js"></script>`, "TypeError"},
		{`<script src="/rejection.js"></script>`, "refused"},
		{`<script>document.title = "x"</script>`, "content security policy: script-src-elem forbids inline"},
		{`<script>document.title = "x"</script>`, "issue: ContentSecurityPolicyIssue: script-src-elem"},
		{`<p style="color: red">Red.</p>`, "content security policy: style-src-attr forbids inline"},
		{`<script src="/style.js"></script>`, "content security policy: style-src-attr forbids inline"},
		{`<img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">`, "content security policy: img-src forbids data"},
		{`<img alt="" src="/dropped.svg">`, "request failed: "},
		{`<img alt="" src="/missing.svg">`, "status 404: "},
		{`<a href="http://certpost.invalid/">Elsewhere</a>`, "request beyond this machine: http://certpost.invalid/"},
		{`<input>`, "issue: GenericIssue"},
	} {
		tb.base = pages(t, fault.more)
		tb.open("/")
		if strings.Contains(fault.more, "Elsewhere") {
			tb.click("Elsewhere")
		}
		var found []string
		for end := time.Now().Add(patience); time.Now().Before(end) && !strings.Contains(strings.Join(found, "\n"), fault.found); time.Sleep(20 * time.Millisecond) {
			found = append(found, tb.take()...)
		}
		if !strings.Contains(strings.Join(found, "\n"), fault.found) {
			t.Errorf("%s: found %q, want %q", fault.more, found, fault.found)
		}
		tb.open("/next")
		tb.sees("The next one") // all events of the previous page have arrived
		tb.take()
	}
	tb.do("leaving pages whose server ends first", chromedp.Navigate("about:blank"))
	tb.take()
}

func testViolationsAreFound(t *testing.T, c *chromium) {
	tb := c.tab(t, "")
	for more, rule := range map[string]string{
		`<img src="/icon.svg" width="40" height="40">`:    "image-alt",
		`<a href="/next"></a>`:                            "link-name",
		`<h4>Out of order</h4>`:                           "heading-order",
		`<button aria-expanded="perhaps">Open</button>`:   "aria-valid-attr-value",
		`<table><tr><th>a</th></tr></table><main></main>`: "landmark-no-duplicate-main",
	} {
		tb.base = pages(t, more)
		tb.open("/")
		var rules []string
		for _, v := range tb.violations() {
			rules = append(rules, v.ID)
			if v.ID == rule && !strings.Contains(v.String(), v.Nodes[0].HTML) {
				t.Errorf("the report does not show the element: %s", v)
			}
		}
		if !strings.Contains(strings.Join(rules, " "), rule) {
			t.Errorf("%s: axe-core found %q, want %s", more, rules, rule)
		}
	}
}

func testLooks(t *testing.T, c *chromium) {
	tb := c.tab(t, pages(t, ""))
	tb.open("/")
	background := func() string {
		return mustAsk[string](tb, `getComputedStyle(document.documentElement).backgroundColor`)
	}
	light := background()
	tb.media("prefers-color-scheme: dark")
	if dark := background(); dark != "rgb(34, 34, 34)" || dark == light {
		t.Errorf("the background is %s in dark mode, %s in light mode", dark, light)
	}
	tb.accessible("in the dark")
	for setting, query := range map[string]string{"forced-colors: active": "(forced-colors: active)", "print": "print"} {
		tb.media(setting)
		if !mustAsk[bool](tb, `matchMedia(`+quote(query)+`).matches`) {
			t.Errorf("%s is not emulated", setting)
		}
	}
	tb.media()
	tb.viewport(small)
	if got := mustAsk[[]int](tb, `[innerWidth, innerHeight]`); got[0] != 320 || got[1] != 640 {
		t.Errorf("the small window is %v", got)
	}
	blank := call(tb, page.CaptureScreenshot, page.CaptureScreenshotParams{Clip: &page.Viewport{X: 10, Y: 500, Width: 4, Height: 1, Scale: 1}})
	if n := colours(tb, blank.Data); n > 4 {
		t.Errorf("%d colours in an empty area", n)
	}
	tb.picture()

	wide := c.tab(t, pages(t, `<pre>`+strings.Repeat("wide", 200)+`</pre>`))
	wide.open("/")
	if got := mustAsk[int](wide, "document.scrollingElement.scrollWidth"); got <= 1280 {
		t.Errorf("a wide page is %d px wide: fits would not detect it", got)
	}
}

// testTypeface checks that pictures use a typeface as on a desktop, not a server's
// fallback.
func testTypeface(t *testing.T, c *chromium) {
	if _, err := os.Stat("/usr/share/fonts/opentype/inter"); err != nil {
		lab.Skip(t, "Debian's fonts-inter is not installed")
	}
	tb := c.tab(t, pages(t, ""))
	tb.open("/")
	for generic, face := range map[string]string{"system-ui": "Inter", "sans-serif": "Inter", "ui-monospace": "DejaVu Sans Mono"} {
		if !mustAsk[bool](tb, `(() => {
			const pen = document.createElement("canvas").getContext("2d");
			const width = face => { pen.font = "40px " + face; return pen.measureText("Certificates 0123").width };
			return width(`+quote(generic)+`) === width(`+quote("'"+face+"'")+`) && width(`+quote("'"+face+"'")+`) !== width("'DejaVu Sans'");
		})()`) {
			t.Errorf("%s is not %s", generic, face)
		}
	}
}

func testWithoutScripts(t *testing.T, c *chromium) {
	tb := c.tab(t, pages(t, `<script src="/script.js"></script>`))
	tb.withoutScripts()
	tb.open("/")
	tb.sees("It says something.")
	tb.seesNot("By script.")
	tb.click("Go on")
	tb.sees("The next one")
}

func testKeyboard(t *testing.T, c *chromium) {
	tb := c.tab(t, pages(t, ""))
	tb.open("/")
	tb.tabTo("Go on")
	tb.press(kb.Enter)
	tb.at("/next")
	tb.tabTo("Word")
	tb.write("typed")
	tb.press("!")
	tb.tabTo("Send")
	if got := mustAsk[string](tb, `document.querySelector("input").value`); got != "typed!" {
		t.Errorf("the field has %q", got)
	}
}
