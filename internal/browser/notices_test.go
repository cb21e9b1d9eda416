package browser

import (
	"testing"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/target"
)

// recordNotices keeps what was asked of the browser, and what it has shown: the event show comes from
// the browser itself, when it has taken the notification. The permission is set beforehand, because the
// dialog that asks for it cannot be used through the protocol.
const recordNotices = `
const kept = (key, value) => localStorage.setItem(key, (localStorage.getItem(key) || "") + value + "\n");
window.Notification = class extends Notification {
	constructor(title, options) {
		super(title, options);
		this.addEventListener("show", () => kept("shown", title + ": " + options.body));
		this.addEventListener("error", () => kept("failed", title));
	}
	static requestPermission() { kept("asked", "yes"); return super.requestPermission(); }
};
`

// testNotices asks for notifications by a click only, shows that a group grows, and keeps the icon's
// number; on a phone what to do comes right after what happened.
func testNotices(t *testing.T, c *chromium) {
	o := newOffice(t, "")
	o.publish("first", o.ca.issue(t, 30, "first.example.com"), "partner-portal")
	o.settled(1)
	tb := c.tab(t, o.http)
	call(tb, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: recordNotices})
	asked := func() string { return mustAsk[string](tb, `localStorage.getItem("asked") || ""`) }
	tb.open("/settings")
	tb.sees("Notifications are off in this browser.")
	tb.open("/dead-letters/1")
	if asked() != "" {
		t.Error("a page asks for notifications by itself")
	}
	for _, s := range []size{{360, 740}, desktop} {
		tb.viewport(s)
		order := mustAsk[string](tb, `(() => {
			const at = id => document.getElementById(id).closest("section").getBoundingClientRect();
			const what = at("what"), act = at("actions"), rest = at("certificate");
			return act.top >= what.bottom && act.bottom <= rest.top ? "below" : act.left >= what.right && rest.top >= what.bottom ? "beside" : "elsewhere";
		})()`)
		if want := map[bool]string{true: "below", false: "beside"}[s != desktop]; order != want {
			t.Errorf("at %v the actions are %s what happened, want %s", s, order, want)
		}
	}
	tb.open("/settings")
	tb.permit("notifications")
	tb.click("Notify me")
	tb.sees("Notifications are on in this browser.")
	if asked() != "yes\n" {
		t.Errorf("asked %q times", asked())
	}
	tb.accessible("the settings with notifications")

	tb.open("/dead-letters/1")
	tb.updates()
	icon := func() string {
		return mustAsk[string](tb, `new URL(document.querySelector("link[rel=icon]").href).pathname`)
	}
	if at := icon(); at != "/icon/1" {
		t.Errorf("the icon is %s", at)
	}
	tb.holds("the page to be the one that shows notifications", `(navigator.locks.query().then(all => { window.held = all.held.some(lock => lock.name === "certpost-notices"); }), window.held === true)`)
	tb.updates()
	o.publish("second", o.ca.issue(t, 30, "second.example.com"), "partner-portal")
	tb.until("the icon with two letters", func() bool { return icon() == "/icon/2" })
	tb.holds("the notification", `(localStorage.getItem("shown") || "").startsWith("1 new dead letter: ")`)
	tb.open("/settings")
	tb.click("Stop notifying me")
	tb.sees("Notifications are off in this browser.")
}

// permit gives the pages of the tab a permission, as their user would in the browser's dialog.
func (tb *tab) permit(name string) {
	tb.t.Helper()
	mine := call(tb, target.GetTargetInfo, target.GetTargetInfoParams{}).TargetInfo
	call(tb, browser.SetPermission, browser.SetPermissionParams{Permission: &browser.PermissionDescriptor{Name: name}, Setting: browser.PermissionSettingGranted,
		Origin: tb.base, BrowserContextID: mine.BrowserContextID})
}
