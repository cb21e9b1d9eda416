package browser

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
)

const violationBinding = "reportPolicyViolation"

// reportViolations runs before all other scripts on each page. Chromium also reports
// violations through audits; both ways are used on purpose.
const reportViolations = `addEventListener("securitypolicyviolation", e =>
	reportPolicyViolation(e.effectiveDirective + " forbids " + (e.blockedURI || "?") + " at " + e.sourceFile + ":" + e.lineNumber + " " + e.sample), true)`

// hear records errors of pages. It runs on the goroutine that reads from the browser, so
// it must not block.
func (tb *tab) hear(event any) {
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		switch e.Type {
		case runtime.ConsoleAPICalledTypeError, runtime.ConsoleAPICalledTypeWarning, runtime.ConsoleAPICalledTypeAssert:
			var said []string
			for _, arg := range e.Args {
				said = append(said, string(arg.Value)+arg.Description)
			}
			tb.note("console.%s: %s", e.Type, strings.Join(said, " "))
		}
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
		tb.note("uncaught exception: %s at %s:%d", text, e.ExceptionDetails.URL, e.ExceptionDetails.LineNumber)
	case *runtime.EventBindingCalled:
		if e.Name == violationBinding {
			tb.note("content security policy: %s", e.Payload)
		}
	case *log.EventEntryAdded:
		// Network entries repeat the network events with less detail.
		if e.Entry.Source != log.EntrySourceNetwork && (e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning) {
			tb.note("%s of %s: %s %s", e.Entry.Level, e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *audits.EventIssueAdded:
		tb.note("issue: %s", issue(e.Issue))
	case *page.EventJavascriptDialogOpening:
		tb.note("a dialog opened: %s", e.Message)
	case *network.EventRequestWillBeSent:
		tb.requested(e)
	case *network.EventLoadingFailed:
		// Leaving a page cancels its event stream, which is not an error.
		if !e.Canceled {
			tb.note("request failed: %s: %s %s", tb.address(e.RequestID), e.ErrorText, e.BlockedReason)
		}
	case *network.EventResponseReceived:
		if e.Type == network.ResourceTypeEventSource && e.Response.Status == 200 {
			tb.mu.Lock()
			tb.streaming = true
			tb.mu.Unlock()
		}
		if e.Response.Status >= 400 {
			tb.note("status %d: %s", e.Response.Status, e.Response.URL)
		}
	}
}

// requested records requests to other machines as errors.
func (tb *tab) requested(e *network.EventRequestWillBeSent) {
	tb.mu.Lock()
	if tb.addresses == nil {
		tb.addresses = map[network.RequestID]string{}
	}
	tb.addresses[e.RequestID] = e.Request.URL
	if e.Type == network.ResourceTypeDocument {
		tb.streaming = false
	}
	tb.mu.Unlock()
	u, err := url.Parse(e.Request.URL)
	if err != nil {
		tb.note("request to %q: %v", e.Request.URL, err)
		return
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "data" { // used by the browser's own buttons; the policy forbids it to pages
		return
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		tb.note("request beyond this machine: %s", e.Request.URL)
	}
}

func (tb *tab) address(id network.RequestID) string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.addresses[id]
}

// issue describes an issue that the browser reports: its name and the useful details.
func issue(i *audits.InspectorIssue) string {
	text := string(i.Code)
	d := i.Details
	switch {
	case d == nil:
	case d.ContentSecurityPolicyIssueDetails != nil:
		c := d.ContentSecurityPolicyIssueDetails
		text += fmt.Sprintf(": %s %s %s", c.ViolatedDirective, c.ContentSecurityPolicyViolationType, c.BlockedURL)
	case d.GenericIssueDetails != nil:
		text += fmt.Sprintf(": %s %s", d.GenericIssueDetails.ErrorType, d.GenericIssueDetails.ViolatingNodeAttribute)
	case d.CookieIssueDetails != nil:
		c := d.CookieIssueDetails
		text += fmt.Sprintf(": %v %v", c.CookieExclusionReasons, c.CookieWarningReasons)
	case d.DeprecationIssueDetails != nil:
		text += ": " + d.DeprecationIssueDetails.Type
	}
	return text
}

func (tb *tab) note(format string, args ...any) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if what := fmt.Sprintf(format, args...); !slices.Contains(tb.allowed, what) {
		tb.wrong = append(tb.wrong, what)
	}
}

// take returns the errors since the last call and clears them.
func (tb *tab) take() []string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	wrong := tb.wrong
	tb.wrong = nil
	return wrong
}

// expect waits for an error that contains the text and removes it from the errors; for
// example, a test may expect a page with status 409.
func (tb *tab) expect(text string) {
	tb.t.Helper()
	tb.until("the browser to notice "+text, func() bool {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		before := len(tb.wrong)
		tb.wrong = slices.DeleteFunc(tb.wrong, func(wrong string) bool { return strings.Contains(wrong, text) })
		return len(tb.wrong) < before
	})
}
