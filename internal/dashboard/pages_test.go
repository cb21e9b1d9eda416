package dashboard

import (
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// sample is a letter with every field set.
func sample(number uint64) desk.Letter {
	return desk.Letter{
		DeadLetter: broker.DeadLetter{
			Outcome: verdict.Outcome{
				Code:         verdict.SMTPAuth,
				Phase:        verdict.PhaseAuth,
				Reason:       "the relay refused user and password",
				ReplyCode:    535,
				EnhancedCode: "5.7.8",
				Reply:        "authentication failed",
				Certainty:    verdict.MaybeSent,
			},
			Sequence: number, Subject: "certpost.dead.SMTP_AUTH.relay.ops.ev1", Time: noon.Add(-3 * time.Hour), Event: "ev1", Token: "ev1", Target: "ops", Lane: "relay", Generation: 1, Class: verdict.Auth, Attempts: 2, First: noon.Add(-4 * time.Hour), Last: noon.Add(-3 * time.Hour), Recipients: []string{"ops@example.com"}, Secrets: "vault:secret/smtp#password=3", ReplaySubject: "certpost.delivery.relay.ops",
		},
		Fingerprint: "f1e2d3c4",
		Certificate: &verdict.Certificate{CommonName: "web1.example.com", DNSNames: []string{"web1.example.com", "xn--pypal-4ve.com"}, Issuer: "CN=R11", Serial: "03aa11",
			Fingerprint: "aabbccddeeff00112233", NotBefore: noon.AddDate(0, -2, 0), NotAfter: noon.AddDate(0, 1, 0)},
		Hold:       &broker.Hold{Letter: number, By: "ann", Reason: "asking the relay's people", Since: noon.Add(-time.Hour)},
		Superseded: &desk.Superseded{Event: "ev2", Serial: "04", NotAfter: noon.AddDate(0, 3, 0), At: noon.Add(-time.Hour)},
		Run:        "r1",
	}
}

func sampleGroup() desk.Group {
	g := desk.Group{Fingerprint: "f1e2d3c4", Code: verdict.SMTPAuth, Class: verdict.Auth, Phase: verdict.PhaseAuth, Lane: "relay", EnhancedCode: "5.7.8", Count: 1234, Held: 2, Superseded: 3, Uncertain: 4,
		First: noon.Add(-30 * time.Hour), Last: noon, Targets: []string{"ops", "java"}, TargetCount: 2, SoonestExpiry: noon.AddDate(0, 0, 5),
		Reason: "the relay refused user and password", Cause: "The relay refused the login", Remedy: "Check username and password, then replay.", Example: 7}
	g.Hours[23], g.Hours[3] = 5, 1
	return g
}

func sampleRun() desk.Run {
	return desk.Run{ID: "r1", State: desk.RunRunning, By: broker.Actor{Name: "ann", Role: "operator", Via: broker.ViaPage}, Started: noon.Add(-time.Minute),
		Spec:      desk.RunSpec{Frozen: desk.Frozen{Count: 100, Hash: "abc", Numbers: []uint64{1, 2}}, Canary: true, Reason: "password fixed", Rate: verdict.Rate{Count: 10, Per: time.Second}},
		Published: 11, Delivered: 9, DeadAgain: 1, Worker: "host/1"}
}

// sampleDetail is a letter's detail with every field set.
func sampleDetail() desk.Detail {
	earlier := sample(3).DeadLetter
	return desk.Detail{
		Letter: sample(7), Status: desk.Open, Event: []byte(`{"id":"ev1","certificate":"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n","labels":{"env":"prod"}}`),
		Delivery: &broker.Entry{Event: "ev1", Target: "ops", Lane: "relay", State: broker.StateWaiting, Generation: 2, Attempts: 3, First: noon.Add(-4 * time.Hour), Last: noon.Add(-time.Minute), PossibleDuplicates: 1,
			Failure: &broker.FailureRecord{Outcome: verdict.Outcome{Code: verdict.SMTPConnect, Phase: verdict.PhaseConnect, Reason: "refused"}, Secrets: map[string]string{"vault:secret/smtp#password": "4"}},
			Tries:   sampleTries(),
			Receipt: &verdict.Receipt{Relay: "mx.example.com:587", TLS: "TLS 1.3 TLS_AES_128_GCM_SHA256", ReplyCode: 250, Reply: "queued"}},
		History: []desk.Record{
			desk.NewRecord(broker.AuditRecord{Time: noon.Add(-5 * time.Hour), Action: broker.ActionReplayed, Actor: broker.Actor{Name: "bob"}, Reason: "password fixed", LetterNumber: 3, Letter: &earlier}),
			desk.NewRecord(broker.AuditRecord{Time: noon.Add(-time.Hour), Action: broker.ActionHeld, Actor: broker.Actor{Name: "ann"}, Reason: "asking", LetterNumber: 7}),
		},
		Cause: "The relay rejected the login.", Remedy: "Check username and password, then replay.", Expires: noon.AddDate(1, 0, 0), Siblings: 12, MessageID: "<abc@example.com>",
	}
}

// sampleTries are the attempts of the sample: two before its replay, with others between
// them that were not kept, and one after it.
func sampleTries() []broker.Try {
	try := func(life, number int, at time.Time, version string) broker.Try {
		return broker.Try{Generation: life, Number: number, At: at, FailureRecord: broker.FailureRecord{
			Outcome: verdict.Outcome{
				Code:         verdict.SMTPAuth,
				Phase:        verdict.PhaseAuth,
				Reason:       "the relay refused user and password",
				ReplyCode:    535,
				EnhancedCode: "5.7.8",
				Reply:        "authentication failed",
				Certainty:    verdict.NotSent,
			},
			Secrets: map[string]string{"vault:secret/smtp#password": version},
		}, Transcript: &verdict.Transcript{
			Definition: "3fa2b1c0", Relay: "mx.example.com:587", Peer: "192.0.2.1:587", TLS: "TLS 1.3 TLS_AES_128_GCM_SHA256",
			PeerCertificate: &verdict.Certificate{CommonName: "mx.example.com", Issuer: "CN=R11", Fingerprint: "0011223344556677", NotAfter: noon.AddDate(0, -1, 0)},
			Steps:           []verdict.Step{{Phase: verdict.PhaseSecrets, Took: 3 * time.Millisecond}, {Phase: verdict.PhaseConnect, Took: time.Millisecond}, {Phase: verdict.PhaseAuth, Took: 2 * time.Second}},
			Dialogue:        []string{"S: 220 mx.example.com", "C: EHLO here", "S: 250 mx.example.com, AUTH PLAIN", "C: AUTH PLAIN (credentials)", "S: 535 5.7.8"},
		}}
	}
	return []broker.Try{try(1, 1, noon.Add(-4*time.Hour), "3"), try(1, 9, noon.Add(-3*time.Hour), "3"), try(2, 1, noon.Add(-time.Minute), "4")}
}

// views are all pages, full and empty, with a text in every untrusted field; "" leaves
// the samples unchanged.
func views(text string) map[string]view {
	full := desk.Overview{
		Recovered24h: 3, Standstills: []broker.Standstill{{Process: "web1/1/x", Part: "consumer", Name: "relay", Since: noon.Add(-2 * time.Minute), Reason: "maximum consumers limit reached"}},
		Balance: desk.Balance{Total: 2000, Open: 1234, Ended: map[desk.Status]int{desk.Replayed: 700, desk.Discarded: 50, desk.Expired: 10, desk.Removed: 3, desk.Replaced: 2}, Restored: 1, Unexplained: 1},
		Lanes: []broker.LaneInfo{{Lane: "relay", Waiting: 12, InFlight: 3, Replicas: 2}, {Lane: "gone"}, {Lane: "held", Suspension: &broker.Suspension{Reason: "maintenance", By: "ann", Since: noon}},
			{Lane: "away", Replicas: 1, Statuses: []broker.LaneStatus{{Lane: "away", Breaker: "open", Relays: []broker.RelayAway{{Relay: "mx:25", Breaker: verdict.Open, Reason: "refused"}}}}}},
		LastSuccess: noon.Add(-time.Minute), Groups: []desk.Group{sampleGroup()}, Runs: []desk.Run{sampleRun()}, Reading: "12,000 of 100,000",
	}
	full = spoil(full, text)
	list := lettersView{Query: spoil(desk.Query{Text: "x", Code: "y", Target: "z", Name: "n", Fingerprint: "f"}, text), Fields: filterFields(desk.LetterConditions.All(), url.Values{"q": {text}, "code": {"SMTP_AUTH"}, "target": {text}, "name": {text}, "group": {text}}, map[string][]string{"code": {"SMTP_AUTH"}, "phase": {"rcpt"}, "target": {"ops" + text}}),
		Chips: spoil([]desk.Chip{{Label: "code SMTP_AUTH", Without: "target=ops"}}, text), Path: lettersPath, List: spoil([]desk.Letter{sample(7), sample(8)}, text), Total: 1234, Beyond: 12, Lag: "not read",
		Moment: sorting{"When", "/dead-letters?order=oldest", "descending"}, Expires: sorting{"Certificate expires", "/dead-letters?order=expiry", ""}, Here: "/dead-letters?q=" + url.QueryEscape(text), Choose: "replay", Pager: pager{"/dead-letters", "/dead-letters?after=8"},
		News: news{Since: 8, Query: "since=8", Count: 12, Address: "/dead-letters"}, AsList: "/dead-letters", AsGroups: "/dead-letters?view=groups", All: "/dead-letters/confirm?all=yes&action=",
		Commands: []command{onLetter("list", nil), replayWithNATS(7, "certpost.delivery.relay.ops")}}
	group, running := newGroupView(spoil(sampleGroup(), text)), spoil(sampleRun(), text)
	list.Commands = append(list.Commands, onLetter("discard", nil, text), replayWithNATS(7, text))
	grouped := list
	grouped.Grouped, grouped.Groups = true, []groupView{group}
	held := spoil(sampleDetail(), text)
	held.Status, held.NotReplayable = desk.Open, ""
	open := held
	open.Hold = nil
	gone := held
	gone.Status, gone.End = desk.Discarded, &broker.AuditRecord{Time: noon, Action: broker.ActionDiscarded, Actor: broker.Actor{Name: "ann" + text}, Reason: "not needed" + text, NewLetter: 9}
	bare := desk.Detail{Letter: desk.Letter{DeadLetter: broker.DeadLetter{Sequence: 1}}, Status: desk.Open, NotReplayable: "it has no event"}
	examined := newLetterView(open, noon)
	ahead := verdict.NewPreflight(spoil([]verdict.Finding{{What: "target", Status: verdict.OK, Message: "is there"}, {What: "secret", Status: verdict.Warning, Message: "old"}, {What: "recipients", Status: verdict.NotTried, Message: "last reply"}, {What: "relay", Status: verdict.Error, Message: "refused"}}, text))
	examined.Ahead = &ahead
	examined.Actions[0].Fault = "Say why."
	asked := order{Action: "replay", Query: desk.Query{Code: verdict.SMTPAuth, Text: text}, Reason: text, Rate: verdict.Rate{Count: 10, Per: time.Second}, Canary: true}
	confirmed := confirmView{order: asked, Frozen: desk.Frozen{Count: 100, AsOf: 900, Hash: "abcdef0123456789", Held: 1, Superseded: 2, Withheld: 3, InRuns: 4, Uncertain: 5, Numbers: []uint64{7, 8}}, Title: "Replay 100 dead letters", Verb: "Replay", Says: "So.",
		Chips: list.Chips, Fields: []field{{"all", "yes"}, {"q", text}}, With: "/dead-letters/confirm", Takes: "10 s", Fault: "Say why.", Was: 101, Changed: "It has.", Commands: asked.commands(desk.Frozen{AsOf: 900, Hash: "abcdef"}),
		Contents: spoil(desk.Contents{Causes: desk.Tally{Values: 7, First: []desk.Counted{{Value: "why", Letters: 3}}}, Recipients: desk.Tally{Values: 1, First: []desk.Counted{{Value: "a@example.com", Letters: 3}}}, SoonestExpiry: noon, SoonestName: "a.example",
			MaybeSent: []desk.MaybeSentMail{{Number: 7, Target: "ops", MessageID: "<x>", Recipients: []string{"a@example.com"}}}}, text),
		Ahead: spoil(&desk.SetPreflight{Verdict: "So.", Letters: 3, Parts: []desk.PartPreflight{{Target: "ops", Number: 7, Letters: 2, Preflight: ahead}, {Number: 8, Letters: 1, Preflight: verdict.NewPreflight(nil)}}}, text)}
	paused := running
	paused.State, paused.Why = desk.RunPaused, "to look"
	done := running
	done.State, done.Ended = desk.RunDone, noon
	results := spoil([]desk.RunResult{{Number: 7, Target: "ops", Event: "ev1", Result: "delivered", At: noon}, {Number: 8, Target: "ops", Event: "ev2", Result: "dead again", Letter: 9, Note: "refused", At: noon}, {Number: 10, Result: "waiting"}}, text)
	all := shelves(text)
	maps.Copy(all, map[string]view{
		"letter":           {template: "letter", title: "Dead letter 7", data: newLetterView(open, noon)},
		"letter, held":     {template: "letter", title: "Dead letter 7", data: newLetterView(held, noon)},
		"letter, gone":     {template: "letter", title: "Dead letter 7", data: newLetterView(gone, noon)},
		"letter, bare":     {template: "letter", title: "Dead letter 1", data: newLetterView(bare, noon)},
		"letter, examined": {template: "letter", title: "Dead letter 7", data: examined},
		"uncertain":        {template: "uncertain", title: "Has it been sent?", data: uncertainView{open, "because" + text, true, []command{onLetter("replay", []uint64{7})}}},
		"confirm":          {template: "confirm", title: "Replay", data: confirmed},
		"confirm, empty":   {template: "confirm", title: "Discard", data: confirmView{order: order{Action: "discard"}}},
		"edit":             {template: "edit", title: "Edit", data: editView{Detail: open, Targets: spoil([]string{"ops", "java"}, text), Allowed: spoil([]string{"*@example.com"}, text), Target: "ops", Recipients: text, Reason: text, Fault: "no " + text}},
		"edit, looked at":  {template: "edit", title: "Edit", data: editView{Detail: open, Target: text, Rows: spoil([]difference{{What: "target", Values: []string{"ops", "java"}, Changed: true}}, text), Recipients: text}},
		"replays":          {template: "replays", title: "Replays", data: replaysView{Unfinished: []desk.Run{running}, Finished: []desk.Run{done}, Fields: filterFields(desk.RunConditions.All(), url.Values{"by": {text}}, nil)}},
		"replays, empty":   {template: "replays", title: "Replays", data: replaysView{}},
		"run":              {template: "run", title: "Replay r1", data: newRunView(running, results)},
		"run, paused":      {template: "run", title: "Replay r1", data: newRunView(paused, results)},
		"run, done":        {template: "run", title: "Replay r1", data: newRunView(done, nil)},
		"overview":         {template: "overview", title: "Overview", data: newOverview(time.Now(), full, 8)},
		"overview, empty":  {template: "overview", title: "Overview", data: newOverview(time.Now(), desk.Overview{}, 0)},
		"letters":          {template: "letters", title: "Dead letters", data: list},
		"letters, empty":   {template: "letters", title: "Dead letters", data: lettersView{}},
		"letters, not yet": {template: "letters", title: "Dead letters", data: lettersView{Lag: "not read"}},
		"groups":           {template: "letters", title: "Dead letters by cause", data: grouped},
		"groups, empty":    {template: "letters", title: "Dead letters by cause", data: lettersView{Grouped: true}},
		"group":            {template: "group", title: "Why", data: groupPage{Group: group, Letters: list}},
		"news":             {template: "news", title: "New", data: list.News, fragment: true},
		"problem":          {template: "problem", title: "Another action came first", data: problem{Title: "Another action came first", Says: "x" + text, Do: "y", Letter: 7, First: spoil(&broker.AuditRecord{Action: broker.ActionReplayed, Actor: broker.Actor{Name: "bob"}, Time: noon, Reason: "z"}, text), Works: []string{"a"}}},
		"sign in":          {template: "sign-in", title: "Sign in", data: access.SignInView{Accounts: true, Name: text, Provider: "Example" + text, ProviderPath: "/sign-in/provider", Token: "t", Message: "no", ProviderSignOut: "https://id.example.com/out"}},
	})
	return all
}

// TestEveryTemplate renders every page full and empty, for every role, and checks its
// structure.
//
// Fault: scripts in every field. Result: shown as text.
func TestEveryTemplate(t *testing.T) {
	t.Parallel()
	look := newTestLook(t)
	used := map[string]bool{}
	for name, v := range views("") {
		used[v.template+".html"] = true
		for _, role := range []access.Role{access.Viewer, access.Operator, access.Admin} {
			doc, _ := show(t, look, v, role)
			sound(t, name, doc, v.fragment)
			if role == access.Viewer && v.template != "confirm" && v.template != "confirm-waiting" && v.template != "confirm-resend" && v.template != "uncertain" && v.template != "edit" { // a viewer cannot reach these
				for _, form := range all(doc, "form") {
					if action := attr(form, "action"); attr(form, "method") == "post" && action != "/settings" && action != "/sign-out" && action != "/sign-in" && !strings.HasPrefix(action, "/sessions/") {
						t.Errorf("%s shows a viewer a form that leads to %s", name, action)
					}
				}
			}
		}
	}
	for template := range look.pages {
		if !used[template] {
			t.Errorf("no test renders %s", template)
		}
	}
}

// sound checks the structure that every page must have.
func sound(t *testing.T, name string, doc *html.Node, fragment bool) {
	t.Helper()
	if n := len(all(doc, "h1")); n != 1 && !fragment {
		t.Errorf("%s has %d main headings", name, n)
	}
	if n := len(all(doc, "main")); n != 1 && !fragment {
		t.Errorf("%s has %d main parts", name, n)
	}
	ids := map[string]bool{}
	for _, e := range all(doc) {
		if id := attr(e, "id"); id != "" {
			if ids[id] {
				t.Errorf("%s has two elements with the id %s", name, id)
			}
			ids[id] = true
		}
		for _, a := range e.Attr {
			if a.Key == "style" || len(a.Key) > 2 && a.Key[:2] == "on" {
				t.Errorf("%s has <%s %s=%q>, which the policy forbids", name, e.Data, a.Key, a.Val)
			}
		}
		switch e.Data {
		case "style":
			t.Errorf("%s has a style of its own", name)
		case "script":
			if attr(e, "src") == "" {
				t.Errorf("%s has an inline script", name)
			}
		case "form":
			if attr(e, "method") == "post" && !hasToken(e) {
				t.Errorf("%s: the form for %s has no token", name, attr(e, "action"))
			}
		case "th":
			if attr(e, "scope") == "" {
				t.Errorf("%s: a table heading has no scope: %s", name, textOf(e))
			}
		case "img":
			if !has(e, "alt") {
				t.Errorf("%s: an image has no alt text", name)
			}
		case "svg":
			if attr(e, "aria-label") == "" {
				t.Errorf("%s: a chart has no aria-label", name)
			}
		}
	}
}

func has(e *html.Node, key string) bool {
	for _, a := range e.Attr {
		if a.Key == key {
			return true
		}
	}
	return false
}

func hasToken(form *html.Node) bool {
	for _, field := range all(form, "input") {
		if attr(field, "name") == access.TokenField && attr(field, "value") != "" {
			return true
		}
	}
	return false
}
