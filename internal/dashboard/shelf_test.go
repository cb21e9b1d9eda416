package dashboard

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/alert"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// sampleEntry is a delivery with every field set.
func sampleEntry() broker.Entry {
	return broker.Entry{
		Event: "ev1", Target: "ops", Lane: "relay", State: broker.StateSent, Generation: 2, Attempts: 3, First: noon.Add(-time.Hour), Last: noon.Add(-time.Minute),
		Owner: "host/1/abc", Lease: noon.Add(time.Minute), PossibleDuplicates: 1, Panics: 1, Accepted: []string{"ops@example.com", "b@example.com", "c@example.com"},
		Refused: []verdict.Refusal{{Recipient: "gone@example.com", Code: verdict.SMTPPermanent, ReplyCode: 550, EnhancedCode: "5.1.1", Reply: "no such user"}}, Owed: []string{"later@example.com"},
		Certificate: sample(7).Certificate, DeadLetter: "certpost.dead.SMTP_AUTH.relay.ops.ev1",
		Tries:   sampleTries(),
		Failure: &broker.FailureRecord{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseRcpt, Reason: "it was put off", ReplyCode: 451, EnhancedCode: "4.3.0", Reply: "try later", Certainty: verdict.NotSent}, Secrets: map[string]string{"vault:secret/smtp#password": "3"}},
		Receipt: &verdict.Receipt{Relay: "mx.example.com:587", ReplyCode: 250, Reply: "queued as 4XYZ", QueueID: "4XYZ", MessageID: "<abc@example.com>", TLS: "TLS 1.3 TLS_AES_128_GCM_SHA256", Recipients: []string{"ops@example.com"},
			Certificate: sample(7).Certificate, Secrets: map[string]string{"vault:secret/smtp#password": "4"}, Size: 4321, Warnings: []string{"a bounce may return the key"}, Timings: verdict.Timings{Render: time.Millisecond, Send: 20 * time.Millisecond, Total: 25 * time.Millisecond}},
	}
}

func sampleRecords() (all []desk.Record) {
	ann := broker.Actor{Name: "ann", Role: "operator", Via: broker.ViaPage, Address: "192.0.2.7"}
	for _, r := range []broker.AuditRecord{
		{Sequence: 9, Hash: strings.Repeat("ab", 32), Time: noon, Action: broker.ActionReplayed, Stage: broker.StageOutcome, Actor: ann, Reason: "fixed", Event: "ev1", Target: "ops", LetterNumber: 7, Run: "r1", NewTarget: "java", NewRecipients: []string{"x@example.com"}},
		{Sequence: 8, Time: noon.Add(-time.Minute), Action: broker.ActionReplayed, Stage: broker.StageIntent, Actor: ann, Event: "ev1", LetterNumber: 7},
		{Sequence: 7, Time: noon.Add(-time.Hour), Action: broker.ActionSuspended, Actor: broker.Actor{Name: "bob@host", Via: broker.ViaShell}, Reason: "maintenance", Lane: "relay", Until: noon.Add(time.Hour)},
		{Sequence: 6, Time: noon.Add(-2 * time.Hour), Action: broker.ActionRestored, Actor: ann, LetterNumber: 3, NewLetter: 5},
		{Sequence: 5, Unreadable: true},
	} {
		all = append(all, desk.NewRecord(r))
	}
	return all
}

func sampleTarget() desk.TargetResult {
	return desk.TargetResult{TargetView: verdict.TargetView{ID: "ops", Type: "smtp", Disabled: true, Lane: "relay", Relays: []string{"mx.example.com:587", "mx2.example.com:25"}, Payload: "pkcs12",
		To: []string{"a@example.com", "b@example.com", "c@example.com"}, Where: "certpost.yaml:12", Warnings: []string{"tls_mode is plaintext"},
		Rows: []verdict.TargetRow{{Key: "host", Value: "mx.example.com"}, {Key: "port", Value: "587", Default: true}, {Key: "from_name"}}},
		LastSent: noon, LastDead: noon.Add(-time.Hour), Open: 3, Sent: 1200}
}

func sampleLane() desk.LaneRow {
	return desk.LaneRow{
		LaneInfo: broker.LaneInfo{Lane: "relay", Waiting: 12, InFlight: 3, Replicas: 2, Statuses: []broker.LaneStatus{
			{Lane: "relay", Process: "host/1/abc", Breaker: "open", InFlight: 1, Paused: "breaker", Relays: []broker.RelayAway{
				{Relay: "mx.example.com:587", Breaker: verdict.Open, Reason: "connection refused", Again: noon.Add(30 * time.Second)}, {Relay: "mx2.example.com:25", Breaker: verdict.HalfOpen, Reason: "greeting 421"}}},
			{Lane: "relay", Process: "host/2/def", Breaker: "closed", Paused: "rate"},
			{Lane: "relay", Process: "host/3/ghi", Breaker: "open", Paused: "relay_limit", Relays: []broker.RelayAway{
				{Relay: "mx3.example.com:587", Breaker: verdict.Open, Reason: "550 5.4.5", Reply: "5.4.5 Daily limit", Limit: true, Again: noon.Add(time.Hour)}}}}},
		Relays: []verdict.RelayView{{Relay: "mx.example.com:587", Lane: "relay", Targets: 2, MaxConnections: 5, MaxMessagesPerConnection: 100, MaxMessageRate: verdict.Rate{Count: 14, Per: time.Second}}, {Relay: "mx2.example.com:25", Fallback: 1}},
	}
}

func sampleSessions() []access.Session {
	ann := access.User{Name: "ann", Subject: "user:ann", Role: access.Admin, Address: "192.0.2.7"}
	return []access.Session{
		{ID: "one", User: ann, LastAddress: "192.0.2.7", Way: "password", Browser: "Firefox on Linux", Since: noon.Add(-time.Hour), Seen: noon, Ends: noon.Add(time.Hour), Own: true, Current: true},
		{ID: "two", User: ann, LastAddress: "198.51.100.7", Way: "password", Since: noon.Add(-2 * time.Hour), Seen: noon.Add(-time.Minute), Ends: noon.Add(time.Hour), Own: true},
		{ID: "three", User: access.User{Name: "bob", Subject: "https://id.example.com#17", Role: access.Viewer, Address: "2001:db8::7"}, LastAddress: "2001:db8::7", Way: "provider", Browser: "Safari on iOS", Since: noon.Add(-3 * time.Hour), Seen: noon.Add(-30 * time.Minute), Ends: noon.Add(30 * time.Minute)},
	}
}

// shelves are the pages that are not about dead letters, full and empty; views adds the
// pages about letters.
func shelves(text string) map[string]view {
	entry, records, target, lane := spoil(sampleEntry(), text), spoil(sampleRecords(), text), spoil(sampleTarget(), text), spoil(sampleLane(), text)
	entry.State = broker.StateSent
	all := map[string]view{}
	for _, state := range []broker.State{broker.StateWaiting, broker.StateSending, broker.StateSent, broker.StateDead, broker.StateDiscarded, broker.StateSkipped} {
		one := entry
		one.State, one.Uncertain = state, state == broker.StateDead
		all["delivery, "+string(state)] = view{template: "delivery", title: "Delivery", data: newDelivery(desk.DeliveryDetail{Entry: one, History: records}, []desk.Letter{sample(7)})}
	}
	held := lane
	held.Suspension = &broker.Suspension{Lane: lane.Lane, Reason: "maintenance" + text, By: "ann" + text, Since: noon, Until: noon.Add(time.Hour)}
	idle := desk.LaneRow{LaneInfo: broker.LaneInfo{Lane: "idle"}}
	fresh := desk.LaneRow{LaneInfo: broker.LaneInfo{Lane: "fresh", Starting: true}}
	fields := filterFields(desk.DeliveryConditions.All(), desk.DeliveryConditions.Values(spoil(desk.DeliveryQuery{Name: "x", Serial: "1", Fingerprint: "2", Target: "t", Event: "e", From: noon}, text)), map[string][]string{"target": {"ops" + text}})
	checked, steady := newTarget(target), newRelay(lane, []string{"ops" + text})
	checked.take(spoil([]verdict.Finding{{What: "secret", Status: verdict.OK, Message: "version 3"}, {What: "relay", Status: verdict.Warning, Message: "its certificate ends soon"}, {What: "login", Status: verdict.Error, Message: "refused"}}, text))
	suspended := newRelay(held, nil)
	suspended.Fault, suspended.Reason = "Say why.", text
	chips := spoil([]desk.Chip{{Label: "name *.example.com", Without: "target=ops"}}, text)
	audit := historyView{Fields: filterFields(desk.HistoryConditions.All(), desk.HistoryConditions.Values(spoil(desk.HistoryQuery{By: "a", Target: "t", Event: "e", Lane: "l", Run: "r"}, text)), map[string][]string{"lane": {"relay" + text}}), Chips: chips, Path: historyPath,
		List: historyRows(records), Pager: pager{"/audit", "/audit?after=5"}, Head: records[0], News: historyNews{Query: "newer_than=9", Count: 100, More: true, Address: "/audit"}, Older: older{5, shellLine("certpost", "audit", "export", "--by="+text)}, Commands: []command{{"certpost", shellLine("certpost", "audit", "list", "--by="+text)}}}
	maps.Copy(all, map[string]view{
		"deliveries": {template: "deliveries", title: "Deliveries", data: deliveriesView{Fields: fields, Chips: chips, Path: deliveriesPath, List: []deliveryRow{newDeliveryRow(entry), newDeliveryRow(broker.Entry{Event: "e" + text, Target: "t" + text, State: broker.StateWaiting})},
			Total: 1234, Pager: pager{"/deliveries", "/deliveries?after=7"}, Reading: true, Read: 12000, Of: 100000, Here: "/deliveries?name=x", Commands: newDelivery(desk.DeliveryDetail{Entry: entry}, nil).Commands}},
		"deliveries, waiting": {template: "deliveries", title: "Deliveries", data: deliveriesView{Fields: fields, Path: deliveriesPath, List: []deliveryRow{newDeliveryRow(broker.Entry{Event: "e" + text, Target: "t", State: broker.StateWaiting})},
			Waits: true, Total: 1, All: "/deliveries/confirm?all=yes&action=", Choose: "cancel", Here: "/deliveries?state=waiting"}},
		"confirm-waiting": {template: "confirm-waiting", title: "Cancel", data: confirmWaitView{waitOrder: waitOrder{Action: "cancel", WaitSelection: desk.WaitSelection{Lane: "relay" + text}, List: "/deliveries?state=waiting", Reason: text},
			Contents: desk.DeliveryContents{Count: 3, Uncertain: 1, SoonestExpiry: noon, SoonestName: "www.example.com" + text}, Title: "Cancel 3 waiting deliveries", Verb: "Cancel", Says: "So.", Chips: chips, Fields: []field{{"q", text}}, Fault: "Say why."}},
		"confirm-waiting, empty": {template: "confirm-waiting", title: "Retry", data: confirmWaitView{waitOrder: waitOrder{Action: "retry"}}},
		"deliveries, sent": {template: "deliveries", title: "Deliveries", data: deliveriesView{Fields: fields, Chips: chips, Path: deliveriesPath, List: []deliveryRow{newDeliveryRow(entry)},
			Sent: true, Total: 1, All: "/deliveries/resend?all=yes", Choose: "send again", Here: "/deliveries?state=sent"}},
		"confirm-resend": {template: "confirm-resend", title: "Send again", data: confirmResendView{resendOrder: resendOrder{List: "/deliveries?state=sent", Reason: text},
			Contents: desk.ResendContents{DeliveryContents: desk.DeliveryContents{Count: 3, SoonestExpiry: noon, SoonestName: "www.example.com" + text}, Superseded: 2,
				Parts: []desk.ResendPreflight{{Target: "t" + text, Event: "e" + text, Preflight: verdict.NewPreflight([]verdict.Finding{{What: "relay", Status: verdict.Error, Message: text}})}}},
			Title: "Send 3 deliveries again", Chips: chips, Fields: []field{{"q", text}}, With: "/deliveries/resend?with_superseded=yes", Fault: "Say why.", Commands: []command{{"certpost", "certpost deliveries resend"}}}},
		"confirm-resend, empty": {template: "confirm-resend", title: "Send again", data: confirmResendView{resendOrder: resendOrder{List: "/deliveries?state=sent", ResendSelection: desk.ResendSelection{WithSuperseded: true, Named: []desk.DeliveryName{{Target: "t", Event: "e"}}}}, With: "/deliveries/resend"}},
		"confirm-resend, refused": {template: "confirm-resend", title: "Sent again", data: confirmResendView{resendOrder: resendOrder{List: "/deliveries?state=sent"}, Title: "1 delivery sent again, 1 not",
			Refused: []desk.RefusedResend{{DeliveryName: desk.DeliveryName{Target: "t" + text, Event: "e" + text}, Reason: text}}}},
		"who": {template: "who", title: "Who", data: whoView{Name: "www.example.com" + text, Key: true, Reading: true, Pager: pager{"/deliveries/who", "/deliveries/who?after=7"}, Commands: []command{{"certpost", shellLine("certpost", "deliveries", "who", "--name", text)}},
			List: []handoverRow{{spoil(desk.Handover{At: noon, Recipients: []string{"ops@example.com"}, PrivateKey: verdict.KeyClear, Payload: "pem_and_key", Files: []string{"www.pem"}, Target: "ops", Event: "e", Name: "www.example.com", Serial: "1f", Relay: "relay:25"}, text), "/deliveries/ops/e"},
				{desk.Handover{At: noon, PrivateKey: verdict.KeyEncrypted, Proof: broker.ProofSigned, NotShown: 2}, "/deliveries/ops/f"}, {desk.Handover{At: noon, PrivateKey: verdict.KeyNone, Proof: broker.ProofBroken}, "/deliveries/ops/g"},
				{desk.Handover{At: noon, Proof: broker.ProofUnsigned}, "/deliveries/ops/h"}, {desk.Handover{At: noon, Certainty: verdict.MaybeSent, Recipients: []string{"may@example.com"}}, "/deliveries/ops/i"}}}},
		"who, none":         {template: "who", title: "Who", data: whoView{Name: "www.example.com"}},
		"who, empty":        {template: "who", title: "Who", data: whoView{}},
		"deliveries, empty": {template: "deliveries", title: "Deliveries", data: deliveriesView{}},
		"deliveries, none":  {template: "deliveries", title: "Deliveries", data: deliveriesView{Chips: chips, Reading: true, Read: 1, Of: 2}},
		"delivery, bare":    {template: "delivery", title: "Delivery", data: newDelivery(desk.DeliveryDetail{Entry: broker.Entry{Event: "e", Target: "t", State: broker.StateWaiting}}, nil)},
		"targets":           {template: "targets", title: "Targets", data: targetsView{Text: text, List: []targetRow{newTargetRow(target), newTargetRow(desk.TargetResult{TargetView: verdict.TargetView{ID: "bare"}})}, Total: 2, Pager: pager{"/targets", "/targets?after=1"}}},
		"targets, empty":    {template: "targets", title: "Targets", data: targetsView{}},
		"targets, none":     {template: "targets", title: "Targets", data: targetsView{Text: "x" + text}},
		"target":            {template: "target", title: "Target ops", data: newTarget(target)},
		"target, checked":   {template: "target", title: "Target ops", data: checked},
		"target, bare":      {template: "target", title: "Target bare", data: newTarget(desk.TargetResult{TargetView: verdict.TargetView{ID: "bare"}})},
		"mail": {template: "mail", title: "Mail of target ops", frames: true, data: newMail(newTargetRow(target), new(spoil(verdict.MailView{
			Target: "ops", Subject: "certificate", From: "certs@example.com", To: "ops@example.com", CC: "cc@example.com", ReplyTo: "help@example.com", Text: "Hello", HTML: "<p>Hello</p>",
			Files: []verdict.File{{Name: "www.pem", About: "chain", Bytes: 1}, {Name: "www.key.pem", Bytes: 2}}, Bytes: 12345, Instead: []string{"no signature"}}, text)), nil)},
		"mail, text":       {template: "mail", title: "Mail of target ops", frames: true, data: newMail(newTargetRow(target), &verdict.MailView{Target: "ops", Text: "Hello"}, nil)},
		"mail, none":       {template: "mail", title: "Mail of target ops", frames: true, data: newMail(newTargetRow(target), nil, verdict.Fail(verdict.TargetUnknown, verdict.PhaseResolve, "disabled"+text))},
		"relays":           {template: "relays", title: "Relays", data: relaysView{List: []laneRow{newLaneRow(lane), newLaneRow(held), newLaneRow(idle), newLaneRow(fresh)}}},
		"relays, empty":    {template: "relays", title: "Relays", data: relaysView{}},
		"relay":            {template: "relay", title: "Lane relay", data: steady},
		"relay, suspended": {template: "relay", title: "Lane relay", data: suspended},
		"relay, idle":      {template: "relay", title: "Lane idle", data: newRelay(idle, nil)},
		"relay, fresh":     {template: "relay", title: "Lane fresh", data: newRelay(fresh, nil)},
		"audit":            {template: "audit", title: "Audit", data: audit},
		"alerts": {template: "alerts", title: "Alerts", data: newAlertsView(spoil(desk.Alerts{Omitted: 2, Silences: []alert.Silence{{Of: "all", Until: noon, Reason: "maintenance", By: "ann", Since: noon}},
			Channels: []desk.AlertChannel{{Name: "mail", Error: "SMTP_CONNECT", Tries: 3}}, Alerts: []desk.AlertRow{
				{Key: "dead_letters/f", Kind: alert.DeadLetters, Severity: alert.Ticket, State: "silenced", Summary: "3 dead letters", Advice: "Look.", Since: noon, Until: noon, By: "ann", Reason: "maintenance", Told: alert.Told{"mail": noon}},
				{Key: "audit", Kind: alert.Audit, Severity: alert.Page, State: "firing", Summary: "The audit is broken.", Since: noon},
				{Key: "letter_age", Kind: alert.LetterAge, Severity: alert.Ticket, State: "resolved", Summary: "An old letter.", Since: noon, Over: noon}}}, text), true, text, "A reason is required: the audit keeps it.")},
		"alerts, empty":  {template: "alerts", title: "Alerts", data: newAlertsView(desk.Alerts{}, false, "", "")},
		"audit, empty":   {template: "audit", title: "Audit", data: historyView{}},
		"audit, none":    {template: "audit", title: "Audit", data: historyView{Chips: chips}},
		"audit news":     {template: "audit-news", title: "New", data: audit.News, fragment: true},
		"sessions":       {template: "sessions", title: "Signed in", data: sessionsView{Text: text, List: spoil(sampleSessions(), text), Total: 3, Others: 1, Pager: pager{"/sessions", "/sessions?after=3"}}},
		"sessions, none": {template: "sessions", title: "Signed in", data: sessionsView{Text: "x" + text}},
		"settings":       {template: "settings", title: "Settings", data: newSettings(asked("/settings"))},
		"keys":           {template: "keys", title: "Keys"},
	})
	return all
}

// The relay's page shows, for each process, the state of each relay and the time of the
// next try.
func TestLanesSayWhatProcessesDo(t *testing.T) {
	t.Parallel()
	doc, _ := show(t, newTestLook(t), shelves("")["relay"], access.Viewer)
	text := textOf(doc)
	for _, want := range []string{"host/1/abc", "mx.example.com:587 not used connection refused", "in 30 s", "mx2.example.com:25 being tried again greeting 421 with the next delivery", "host/2/def in use nothing is fetched: at its rate limit", "14/s, 5 connections, 100 mails per connection"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(text, "Suspend the lane") {
		t.Error("a viewer's page offers to suspend the lane")
	}
	for page, want := range map[string]string{"relay, idle": "not served No process has reported recently", "relay, fresh": "starting A process has just started to serve this lane"} {
		if doc, _ := show(t, newTestLook(t), shelves("")[page], access.Viewer); !strings.Contains(textOf(doc), want) {
			t.Errorf("%s: the page does not say %q", page, want)
		}
	}
}

// A delivery's page shows the outcome for each recipient.
func TestOutcomeOfEachRecipient(t *testing.T) {
	t.Parallel()
	dead, uncertain := sampleEntry(), sampleEntry()
	dead.State, uncertain.State, uncertain.Uncertain = broker.StateDead, broker.StateDead, true
	for name, c := range map[string]struct {
		entry broker.Entry
		want  []string
	}{
		"sent":      {sampleEntry(), []string{"gone@example.com refused permanently 550 5.1.1 no such user", "later@example.com pending", "ops@example.com accepted 250 queued as 4XYZ"}},
		"doubtful":  {broker.Entry{Event: "ev1", Target: "ops", State: broker.StateDead, Receipt: sampleEntry().Receipt, Failure: &broker.FailureRecord{Outcome: verdict.Outcome{Certainty: verdict.MaybeSent}}}, []string{"it is unknown who has the mail"}},
		"dead":      {dead, []string{"later@example.com not delivered"}},
		"uncertain": {uncertain, []string{"later@example.com may have been sent"}},
	} {
		doc, _ := show(t, newTestLook(t), view{template: "delivery", title: "x", data: newDelivery(desk.DeliveryDetail{Entry: c.entry}, nil)}, access.Viewer)
		text := textOf(doc)
		for _, want := range append(c.want, "certpost deliveries show ev1 ops", "nats kv get CERTPOST_LEDGER ops.ev1 --raw", "queued as 4XYZ", "a bounce may return the key", "TLS 1.3 TLS_AES_128_GCM_SHA256", "vault:secret/smtp#password , version 4", "20 ms") {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the page does not say %q", name, want)
			}
		}
	}
}

// A lane whose relay is at a limit of its own says so, on both pages, and until when.
func TestLaneAtTheLimitOfItsRelay(t *testing.T) {
	t.Parallel()
	lane := sampleLane()
	lane.Statuses = lane.Statuses[2:]
	lane.Pauses = []verdict.RelayPause{{Relay: "mx3.example.com:587", Until: noon.Add(time.Hour)}}
	for name, v := range map[string]view{
		"lane":  {template: "relay", title: "x", data: newRelay(lane, nil)},
		"lanes": {template: "relays", title: "x", data: relaysView{List: []laneRow{newLaneRow(lane)}}},
	} {
		doc, _ := show(t, newTestLook(t), v, access.Operator)
		text := textOf(doc)
		want := map[string][]string{"lane": {"at the relay's own limit", "550 5.4.5", "in 1 h", "Reply: 5.4.5 Daily limit", "End the pause", "mx3.example.com:587 is not used until", "certpost relays resume relay"},
			"lanes": {"at the relay's own limit", "until 13:00:00", "Reply: 5.4.5 Daily limit"}}[name]
		for _, token := range []string{"relay_limit", "half-open", "breaker"} {
			if strings.Contains(text, token) {
				t.Errorf("%s: the page says %q", name, token)
			}
		}
		for _, words := range want {
			if !strings.Contains(text, words) {
				t.Errorf("%s: the page does not say %q:\n%s", name, words, text)
			}
		}
	}
}

func TestSuspendedUntil(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		after, at string
		want      time.Time
		fault     string
	}{
		{"1h", "", noon.Add(time.Hour), ""},
		{"", "", time.Time{}, ""},
		{"1h", "2026-11-22T08:15", time.Date(2026, 11, 22, 8, 15, 0, 0, time.UTC), ""},
		{"", "2026-11-21T10:00", time.Time{}, "in the past"},
		{"", "tomorrow", time.Time{}, "date and time"},
		{"17h", "", time.Time{}, "one of the durations"},
	} {
		until, err := suspendedUntil(c.after, c.at, noon)
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%q, %q: %v, want %q", c.after, c.at, err, c.fault)
			}
		} else if err != nil || !until.Equal(c.want) {
			t.Errorf("%q, %q: %v, %v, want %v", c.after, c.at, until, err, c.want)
		}
	}
}

// asked is a request for an address, as a page function gets it.
func asked(address string) *request {
	u, err := url.Parse(address)
	if err != nil {
		panic(err)
	}
	return &request{Request: &http.Request{Method: "GET", URL: u, Header: http.Header{}}, now: noon}
}

// The form has what the address says; a condition without a field is sent along.
func TestFilterFields(t *testing.T) {
	t.Parallel()
	r := asked("/deliveries?name=+*.example.com+&serial=03:AA&fingerprint=&target=ops&event=a%2Fb&state=sent&since=24h&from=2026-11-01&to=2026-11-21T10:30&after=9&size=20")
	q, err := desk.DeliveryConditions.Parse(r.URL.Query(), listKeys...)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]formField{}
	for _, f := range filterFields(desk.DeliveryConditions.All(), desk.DeliveryConditions.Values(q), map[string][]string{"target": {"java"}}) {
		got[f.Key] = f
	}
	for key, want := range map[string]string{"name": "*.example.com", "serial": "03:AA", "fingerprint": "", "target": "ops", "state": "sent", "since": "24h0m0s", "from": "2026-11-01T00:00", "to": "2026-11-21T10:30"} {
		if f, ok := got[key]; !ok || f.Value != want {
			t.Errorf("%s: %+v, want %q", key, f, want)
		}
	}
	if got["since"].Field != "" || !slices.Equal(got["target"].Options, []string{"java", "ops"}) || len(got["state"].Options) != 6 {
		t.Errorf("%+v", got)
	}
}

// Targets are found by id, relay, recipient, payload and lane.
func TestTargetsAreFound(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{"OPS": true, "mx2": true, "b@example": true, "pkcs": true, "relay": true, "nobody": false} {
		if fitsText(sampleTarget(), text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}

// Every recorded action can be selected in the filter.
func TestActionsCanBeAskedFor(t *testing.T) {
	t.Parallel()
	seen := broker.Actions()
	slices.Sort(seen)
	if n := len(slices.Compact(seen)); n != len(broker.Actions()) {
		t.Errorf("%d actions, %d of them different", len(broker.Actions()), n)
	}
	for _, a := range broker.Actions() {
		if actionWords(a) == "" || strings.TrimSpace(fmt.Sprint(a)) == "" {
			t.Errorf("%q has no text", a)
		}
	}
}
