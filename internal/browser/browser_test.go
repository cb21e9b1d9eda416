// Package browser is a test: it uses the dashboard of the real program with a real
// browser, as people do: with a mouse, with the keyboard alone, without JavaScript,
// on a small screen, in the dark. Any page that is seen on the way may write no
// error on the console, break no rule of its own Content-Security-Policy, and have
// no request fail.
package browser

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/remote"

	"github.com/certpost/certpost/internal/lab"
)

// patience is how long a page may take to show what a test waits for, on a machine
// that does much else.
const patience = 60 * time.Second

// TestBrowser has one Chromium for all of its parts: to start one takes longer than
// most of them do. Each part has browser contexts of its own, which share neither
// cookies nor caches.
func TestBrowser(t *testing.T) {
	t.Parallel()
	c := start(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *chromium)
	}{
		{"harness", testHarness},
		{"pages", testPages},
		{"journeys", testJourneys},
		{"actions", testActions},
		{"steering", testSteering},
		{"sign-in", testSignIn},
		{"roles", testRoles},
		{"provider", testProvider},
		{"flood", testFlood},
		{"live", testLive},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.run(t, c)
		})
	}
}

// chromium is the browser that the tests share.
type chromium struct{ ctx context.Context }

func start(t *testing.T) *chromium {
	t.Helper()
	address := lab.Chromium(t)
	allocator, close := remote.NewAllocator(context.Background(), address, remote.NoModifyURL, remote.WithDialTimeout(patience))
	t.Cleanup(close)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("connecting with Chromium: %v", err)
	}
	return &chromium{ctx}
}

// tab opens a tab as another person would have it on another computer. What its
// pages do wrong fails the test.
func (c *chromium) tab(t *testing.T, base string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext())
	tb := &tab{t: t, ctx: ctx, base: base}
	picture, err := os.CreateTemp(t.ArtifactDir(), "page*.png")
	if err != nil {
		t.Fatal(err)
	}
	picture.Close()
	tb.failure = picture.Name()
	if err := chromedp.Listen(ctx, tb.hear); err != nil {
		cancel()
		t.Fatalf("opening a tab: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			tb.showFailure()
		}
		tb.evaluate("0") // what was said until now has been heard then
		cancel()
		for _, wrong := range tb.take() {
			t.Error(wrong)
		}
	})
	call(tb, audits.Enable, cdp.Empty{})
	call(tb, runtime.AddBinding, runtime.AddBindingParams{Name: violationBinding})
	call(tb, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: reportViolations})
	// Without it a tab that is not in front has no focus, and none to show.
	call(tb, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	tb.viewport(desktop)
	return tb
}

// call runs a command of the DevTools protocol in a tab.
func call[P, R any](tb *tab, command cdp.Command[P, R], params P) R {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	result, err := chromedp.Call(ctx, command, params)
	if err != nil {
		tb.t.Fatalf("%s: %v", command.Method, err)
	}
	return result
}
