package dashboard

import (
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

// Deliveries are found by name, by serial as a browser shows it and by fingerprint, shown
// on their own pages, and exported as CSV and JSON.
func TestWhatWentToWhom(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	v := o.visitor()
	v.opens("/deliveries").says("No deliveries yet", "certpost publish")
	o.publish("first", "a.example.com", "ops")
	o.refuses("java@example.com")
	o.publish("second/of two", "b.example.org", "java")
	o.until("the ledger has both", func() bool { return strings.Contains(v.do("GET", "/deliveries", "").body, "2 deliveries") })
	o.until("both are settled", func() bool { return o.relay.Count() == 1 && o.desk.Balance().Total == 1 })
	o.until("the index knows it", func() bool {
		return strings.Contains(v.do("GET", "/deliveries?state=sent", "").body, "1 delivery matches") && strings.Contains(v.do("GET", "/deliveries?state=dead", "").body, "1 delivery matches")
	})

	var entries []broker.Entry
	must(t, json.Unmarshal([]byte(v.do("GET", "/deliveries.json?event=first", "").is(200).body), &entries))
	if len(entries) != 1 || entries[0].Certificate == nil {
		t.Fatalf("%+v", entries)
	}
	leaf := entries[0].Certificate
	for query, want := range map[string]string{
		"name=a.example.com": "1 delivery matches", "name=*.example.org": "1 delivery matches", "name=*.example.com": "2 deliveries match", // both have web1.example.com
		"serial=" + url.QueryEscape(strings.ToUpper(leaf.Serial)): "1 delivery matches", "fingerprint=" + leaf.Fingerprint: "1 delivery matches", "target=java&state=sent": "No matching deliveries",
		"to=2020-01-01": "0 deliveries match", "from=2020-01-01T00:00": "2 deliveries match",
	} {
		v.opens("/deliveries?" + query).says(want)
	}
	v.opens("/deliveries?target=ops").follow("a.example.com").is(200).says("ops@example.com accepted 250", "Message-ID", "certpost deliveries show first ops", "nats kv get CERTPOST_LEDGER ops.first --raw")
	dead := v.opens("/deliveries?target=java").follow("b.example.org").is(200).says("The delivery failed", "Dead letter 1 says what to fix", "second/of two")
	if strings.Count(textOf(all(dead.doc, "table")[0]), "java@example.com") != 1 {
		t.Errorf("a recipient is listed more than once: %s", textOf(dead.doc))
	}
	dead.follow("Dead letter 1").is(200)

	rows, err := csv.NewReader(strings.NewReader(v.do("GET", "/deliveries.csv", "").is(200).body)).ReadAll()
	if err != nil || len(rows) != 3 || rows[0][0] != "event" || rows[1][0] != "first" && rows[2][0] != "first" || len(rows[2]) != len(rows[0]) {
		t.Errorf("%v: %v", rows, err)
	}
	for path, status := range map[string]int{"/deliveries/*/first": 404, "/deliveries/%3E/first": 404, "/deliveries/ops/second": 404, "/deliveries?serial=xyz": 400, "/deliveries?state=lost": 400} {
		v.do("GET", path, "").is(status)
	}
}

// Suspending a lane, with a reason and an end, and resuming it are both recorded.
func TestSuspendAndResume(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	v := o.visitor()
	lane := o.lane()
	page := v.opens("/relays").follow(lane).is(200).says("Suspend the lane", "certpost relays suspend "+lane)
	page.send("Suspend").is(http.StatusUnprocessableEntity).says("A reason is required")
	again := page.send("Suspend", "reason", "the relay moves", "until", "2020-01-01T00:00").is(http.StatusUnprocessableEntity).says("The end is in the past")
	again.send("Suspend", "until", time.Now().UTC().Add(time.Hour).Format("2006-01-02T15:04")).is(200).says("Suspended. Nothing more is fetched", "the relay moves")
	o.publish("waits", "a.example.com", "ops")
	o.until("the delivery waits", func() bool { return strings.Contains(textOf(v.opens("/relays/"+lane).doc), "Waiting 1 delivery") })
	held := v.opens("/relays/"+lane).says("Suspended by", "Resume the lane", "1 delivery wait")
	if o.relay.Count() != 0 {
		t.Error("a suspended lane delivers")
	}
	held.send("Resume", "reason", "it has moved").is(200).says("Resumed.")
	o.until("the delivery arrives", func() bool { return o.relay.Count() == 1 })
	held.send("Resume").is(http.StatusConflict).says("The lane is not suspended")
	o.until("both are recorded", func() bool {
		text := textOf(v.opens("/audit").doc)
		return strings.Contains(text, "suspended lane "+lane) && strings.Contains(text, "resumed lane "+lane) && strings.Contains(text, "it has moved")
	})
	if v.do("GET", "/relays/nowhere", "").status != http.StatusNotFound || !strings.Contains(v.do("GET", "/relays.csv", "").body, lane) {
		t.Error("an unknown lane has a page, or the CSV does not contain the lane")
	}
}

// A target's page shows its definition, and whether it works now.
func TestCheckTarget(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	v := o.visitor()
	v.opens("/targets").says("2 targets", "java@example.com")
	v.opens("/targets?q=nobody").says("No matching targets")
	page := v.opens("/targets?q=ops@").follow("ops").is(200).says("from_address", "certs@example.com", "Sent in total 0 deliveries")
	page.send("Check now").is(200).says("Checked just now", "Nothing was sent.")
	must(t, o.relay.Close())
	page.send("Check now").is(200).says("a delivery would fail")
	v.do("GET", "/targets/nobody", "").is(http.StatusNotFound)
}

// The audit can be filtered, counts new records, and is exported with its chain.
func TestAuditPage(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com", "b.example.com")
	v := o.visitor()
	v.opens("/dead-letters/1").send("Discard", "reason", "nobody wants it").is(200)
	v.opens("/dead-letters/2").send("Hold", "reason", "asking").is(200)
	o.until("both are recorded", func() bool {
		text := textOf(v.opens("/audit").doc)
		return strings.Contains(text, "nobody wants it") && strings.Contains(text, "asking")
	})
	one := v.opens("/audit?action=discarded&letter=1").says("nobody wants it", "certpost audit list --action=discarded --letter=1", "certpost audit verify")
	if strings.Contains(textOf(one.doc), "asking") {
		t.Error("the filter shows other records")
	}
	var records []desk.Record
	must(t, json.Unmarshal([]byte(v.do("GET", "/audit.json", "").is(200).body), &records))
	if len(records) < 2 || records[0].Sequence <= records[1].Sequence || len(records[0].Hash) != 64 {
		t.Fatalf("%+v", records)
	}
	v.opens("/audit").says(records[0].Hash)
	var news map[string]int
	must(t, json.Unmarshal([]byte(v.do("GET", "/audit/news?newer_than=0", "", "Accept", "application/json").is(200).body), &news))
	if news["new"] != len(records) {
		t.Errorf("%d of %d records are new, want all", news["new"], len(records))
	}
	v.do("GET", "/audit?action=drop", "").is(http.StatusBadRequest)
	v.do("GET", "/audit?from=yesterday", "").is(http.StatusBadRequest).says("want a date")
}

// Records are found by lane and by time; the filters appear in the form, in chips and in
// the command.
func TestAuditByLaneAndTime(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com")
	v := o.visitor()
	lane := o.lane()
	v.opens("/relays/"+lane).send("Suspend", "reason", "maintenance", "for", "1h").is(200)
	v.opens("/dead-letters/1").send("Hold", "reason", "asking").is(200)
	o.until("it is recorded", func() bool { return strings.Contains(textOf(v.opens("/audit").doc), "asking") })
	found := v.opens("/relays/" + lane).follow("Audit of this lane").is(200)
	found.says("maintenance", "lane "+lane, "certpost audit list --lane="+lane, "certpost audit export --lane="+lane)
	if strings.Contains(textOf(found.doc), "asking") {
		t.Error("the filter by lane shows other records")
	}
	early := found.send("Search", "from", "2026-01-31T10:00", "to", "2026-02-01T00:00").is(200)
	early.says("No matching records", "from 2026-01-31T10:00", "before 2026-02-01T00:00", "--from=2026-01-31T10:00:00Z", "--to=2026-02-01T00:00:00Z")
	early.follow("before 2026-02-01T00:00:00Z").is(200).says("maintenance")
	if rows := strings.Count(v.do("GET", "/audit.csv?lane="+lane, "").is(200).body, "\n"); rows != 2 {
		t.Errorf("the CSV has %d lines about the lane, want 2", rows)
	}
}

// The records of a replay stand between others; the filter by run finds all of them and
// nothing else.
func TestAuditOfAReplay(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	o.dies("a.example.com", "b.example.com", "c.example.com")
	o.refuses("")
	v := o.visitor()
	v.opens("/dead-letters/confirm?all=yes&action=replay").send("Replay 3 letters", "reason", "fixed").is(200)
	o.until("it is done", func() bool { return strings.Count(v.do("GET", "/audit.csv?action=done", "").body, "\n") == 2 })
	o.until("all mails are recorded", func() bool { return strings.Count(v.do("GET", "/audit.csv?action=sent", "").body, "\n") == 4 })
	run := o.desk.Runs(desk.RunQuery{})[0].ID
	v.opens("/audit?run="+run).is(200).says("replay run "+run, "letter 1", "letter 2", "letter 3", "announced", "started", "done", "the replay of letter 2, ordered by")
	v.opens("/audit?letter=2").says("published again", "letter 2")
	var records []desk.Record
	must(t, json.Unmarshal([]byte(v.do("GET", "/audit.json?action=replayed", "").is(200).body), &records))
	if len(records) != 6 {
		t.Errorf("%d records for the replay of three letters, want 6", len(records))
	}
	var walked []string
	for at := v.opens("/audit?size=1&run=" + run); ; at = at.follow("Older").is(200) {
		for _, row := range all(at.doc, "th") {
			if strings.HasPrefix(attr(row, "data-label"), "Record") {
				walked = append(walked, textOf(row))
			}
		}
		if !strings.Contains(at.body, ">Older</a>") {
			break
		}
	}
	if len(walked) != 11 { // the intents, outcomes and mails of three letters, and the start and end of the run
		t.Errorf("walking page by page found the records %v, want 11", walked)
	}
}

// A search says that older records were not searched, with or without hits.
func TestAuditSaysWhatIsNotSearched(t *testing.T) {
	t.Parallel()
	look := newTestLook(t)
	for name, v := range map[string]historyView{"hits": {List: historyRows(sampleRecords())}, "no hits": {}} {
		v.Chips, v.Older = []desk.Chip{{Label: "by ann"}}, older{5, "certpost audit export --by=ann"}
		doc, _ := show(t, look, view{template: "audit", title: "Audit", data: v}, access.Viewer)
		if text := textOf(doc); !strings.Contains(text, "Records before 5 are too old to be searched here. This command searches all records: certpost audit export --by=ann") {
			t.Errorf("%s: %s", name, text)
		}
	}
}

// Settings are kept in cookies, and saving them redirects only within the dashboard.
func TestSettings(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	v := o.visitor()
	page := v.opens("/settings")
	page.send("Save", "scheme", "dark", "keys", "off").is(200).says("Saved.")
	kept := map[string]string{}
	home, err := url.Parse(o.url)
	must(t, err)
	for _, c := range v.client.Jar.Cookies(home) {
		kept[c.Name] = c.Value
	}
	if kept[scheme.Cookie] != "dark" || kept[keys.Cookie] != "off" {
		t.Errorf("%v", kept)
	}
	if body := v.opens("/keys").body; !strings.Contains(body, `data-scheme="dark"`) || !strings.Contains(body, `data-keys="off"`) {
		t.Error("another page does not use the settings")
	}
	if at := page.send("light", "return", "/targets?q=x").is(200).url.RequestURI(); at != "/targets?q=x" {
		t.Errorf("the footer leads to %s", at)
	}
	if at := page.send("light", "return", "//certpost.invalid/").is(200).url; at.RequestURI() != "/" || at.Host != home.Host {
		t.Errorf("the footer leads to %s", at)
	}
	page.send("Save", "scheme", "purple", "keys", "on").is(http.StatusBadRequest)
}

// A filtered list can be saved under a name, opened, renamed by saving it again, and removed;
// a cookie with anything else is not believed.
func TestSavedViews(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	v := o.visitor()
	if body := v.opens("/dead-letters").body; strings.Contains(body, "Save this view") {
		t.Error("a list without a filter can be saved")
	}
	list := v.opens("/dead-letters?code=SMTP_AUTH&phase=&after=9").is(200)
	saved := list.send("Save", "view", "Passwords <b>").is(200).says("Saved.", "Passwords <b>")
	if at := saved.url.RequestURI(); at != "/dead-letters?code=SMTP_AUTH&done=saved" {
		t.Errorf("it leads to %s", at)
	}
	v.opens("/dead-letters").follow("Passwords <b>").is(200).says("code SMTP_AUTH")
	if body := v.opens("/deliveries").body; strings.Contains(body, "Passwords") {
		t.Error("another list has the view")
	}
	v.opens("/dead-letters?target=ops").send("Save", "view", strings.Repeat("x", maxViewName+1)).is(http.StatusBadRequest)
	v.opens("/dead-letters?target=ops").send("Save", "view", "x", "return", "https://certpost.invalid/dead-letters?target=ops").is(http.StatusBadRequest)
	v.opens("/dead-letters?target=ops").send("Save", "view", "x", "return", "/settings?target=ops").is(http.StatusBadRequest)
	v.opens("/dead-letters?target=ops").send("Save", "view", "Passwords <b>").is(200) // replaces it
	v.opens("/deliveries?target=ops").send("Save", "view", "Passwords <b>").is(200)   // of another list
	v.opens("/dead-letters").says("Passwords <b>")
	v.opens("/settings").send("Remove Passwords <b> of /deliveries?target=ops").is(200)
	v.opens("/dead-letters?target=java").send("Save", "view", strings.Repeat("ж", maxViewName)).is(200)
	v.opens("/settings").send("Remove " + strings.Repeat("ж", maxViewName) + " of /dead-letters?target=java").is(200)
	settings := v.opens("/settings").is(200).says("Passwords <b>", "/dead-letters?target=ops")
	settings.send("Remove Passwords <b> of /dead-letters?target=ops").is(200)
	if body := v.opens("/settings").body; strings.Contains(body, "Saved views") {
		t.Error("the removed view is still there")
	}

	home, err := url.Parse(o.url)
	must(t, err)
	for _, planted := range []string{
		`[{"n":"x","a":"https://certpost.invalid/dead-letters?a=b"}]`, `[{"n":"x","a":"//certpost.invalid/?a=b"}]`,
		`[{"n":"x","a":"javascript:alert(1)"}]`, `[{"n":"","a":"/targets?q=x"}]`, `[{"n":"\u202e","a":"/targets?q=x"}]`, `{"n":1}`, `no`,
	} {
		v.client.Jar.SetCookies(home, []*http.Cookie{{Name: viewsCookie, Value: base64.RawURLEncoding.EncodeToString([]byte(planted)), Path: "/"}})
		if body := v.opens("/settings").is(200).body; strings.Contains(body, "Saved views") {
			t.Errorf("%s is believed", planted)
		}
	}
	for i := range maxViews + 1 {
		v.opens(fmt.Sprintf("/targets?q=%d", i)).send("Save", "view", fmt.Sprint(i)).is(map[bool]int{true: 200, false: http.StatusBadRequest}[i < maxViews])
	}
}
