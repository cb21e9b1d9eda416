// Package browser contains only tests. They use the dashboard of the real program in a
// real browser: with a mouse, with only the keyboard, without JavaScript, on a small
// screen and in dark mode. No visited page may log an error to the console, violate its
// Content-Security-Policy, or have a failed request.
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

// patience is how long a page may take to show what a test waits for, on a busy machine.
const patience = 60 * time.Second

// TestBrowser uses one Chromium for all of its parts, because starting one takes longer
// than most parts. Each part has its own browser contexts, which do not share cookies or
// caches.
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
		{"times", testTimes},
		{"walks", testWalks},
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
		t.Fatalf("connecting to Chromium: %v", err)
	}
	return &chromium{ctx}
}

// tab opens a tab in its own browser context, like another person on another computer.
// Errors of its pages fail the test.
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
		tb.evaluate("0") // all earlier events have been handled after this
		cancel()
		for _, wrong := range tb.take() {
			t.Error(wrong)
		}
	})
	call(tb, audits.Enable, cdp.Empty{})
	call(tb, runtime.AddBinding, runtime.AddBindingParams{Name: violationBinding})
	call(tb, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: reportViolations})
	// Without this, a tab in the background has no focus and shows none.
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
