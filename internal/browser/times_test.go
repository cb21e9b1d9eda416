package browser

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
)

// testTimes: times are shown in the time zone of the browser, with UTC in their titles and on
// paper; the settings can keep UTC.
func testTimes(t *testing.T, c *chromium) {
	o := newOffice(t, "")
	o.seed()
	tb := c.tab(t, o.http)
	call(tb, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: "Australia/Darwin"})
	zone := time.FixedZone("Australia/Darwin", 9*3600+1800)

	type moment struct{ At, Form, Text, Title string }
	moments := func(state string) []moment {
		t.Helper()
		all := mustAsk[[]moment](tb, `[...document.querySelectorAll("main time[datetime]")].map(t => ({at: t.dateTime, form: t.dataset.form, text: t.textContent, title: t.title}))`)
		if len(all) < 3 {
			t.Fatalf("%s: the page has %d times", state, len(all))
		}
		return all
	}
	check := func(state string, zone *time.Location) {
		t.Helper()
		now := time.Now().In(zone)
		for _, m := range moments(state) {
			at, err := time.Parse(time.RFC3339, m.At)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"day": "2 Jan 2006", "exact": "2 Jan 2006 15:04:05", "clock": "2 Jan 15:04"}[m.Form]
			at = at.In(zone)
			switch {
			case m.Form == "clock" && at.Format(time.DateOnly) == now.Format(time.DateOnly):
				want = "15:04:05"
			case m.Form == "clock" && at.Year() != now.Year():
				want = "2 Jan 2006 15:04"
			}
			if m.Text != at.Format(want) || !strings.HasPrefix(m.Title, at.UTC().Format("2006-01-02 15:04:05 UTC")) {
				t.Errorf("%s: %+v is not shown as %s", state, m, at.Format(want))
			}
		}
	}
	for _, path := range []string{"/dead-letters", "/deliveries", "/audit", "/"} {
		tb.open(path)
		if path == "/audit" {
			tb.open("/deliveries/ops-archive/certbot-www-01")
		}
		tb.sees("All times are Australia/Darwin, UTC in their titles.")
		check(path, zone)
		mustAsk[bool](tb, `dispatchEvent(new Event("beforeprint"))`)
		tb.sees("All times are UTC.")
		check(path+" on paper", time.UTC)
		mustAsk[bool](tb, `dispatchEvent(new Event("afterprint"))`)
		check(path+" after printing", zone)
	}
	// A part that is fetched again shows local times too.
	mustAsk[bool](tb, `htmx.ajax("GET", "/", {target: "#lanes", select: "#lanes", swap: "outerHTML"}) && true`)
	tb.holds("the new part to be local", `[...document.querySelectorAll("main time[datetime]")].every(t => t.dataset.local)`)
	check("after an update", zone)

	tb.open("/settings")
	tb.click("UTC")
	tb.click("Save")
	tb.sees("Saved.")
	tb.open("/deliveries")
	tb.sees("All times are UTC.")
	check("in UTC", time.UTC)
}
