package main

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
)

// refusal is a wrong value or a forbidden act at each of the three doors: the pages, the
// commands and the NATS service. A door with "" does not have it.
type refusal struct {
	want   string // in the text of every door; the case of letters aside, because pages write sentences
	status int    // of the page and of the service
	page   string // "POST /dead-letters/1/hold reason=x"
	shell  string // "dead-letters hold 1 --reason=x"; + is a space within a word
	code   int    // of the command
	asks   string // `dead.hold {"numbers": [1], "reason": "x"}`
}

// doors are the three doors of one program.
type doors struct {
	*fixture
	nats    natsClient
	browser *http.Client
	token   string // of the forms
	js      jetstream.JetStream
}

func (o *fixture) doors() *doors {
	o.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		o.t.Fatal(err)
	}
	d := &doors{fixture: o, nats: o.client(), browser: &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		js: o.jetStream()}
	await(o.t, "the audit begins: what is refused must not be taken for its first record", func() bool {
		audit, err := d.js.Stream(o.t.Context(), broker.AuditStream)
		return err == nil && audit.CachedInfo().State.LastSeq > 0
	})
	_, body := d.send("GET", "/settings", "")
	token := regexp.MustCompile(`name="` + access.TokenField + `" value="([^"]+)"`).FindStringSubmatch(body)
	if token == nil {
		o.t.Fatalf("the page has no token: %s", body)
	}
	d.token = token[1]
	return d
}

// send makes a request as a browser does. It follows no redirect.
func (d *doors) send(method, path, form string) (status int, body string) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.service.http.address()+path, strings.NewReader(form))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if method == "POST" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := d.browser.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// visit makes the request of a refusal's page, and returns the text that is to be seen.
func (d *doors) visit(page string) (status int, text string) {
	d.t.Helper()
	parts := append(strings.Split(page, " "), "")
	if parts[0] == "POST" {
		parts[2] += "&" + access.TokenField + "=" + url.QueryEscape(d.token)
	}
	status, body := d.send(parts[0], parts[1], parts[2])
	text = html.UnescapeString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(body, ""))
	return status, strings.Join(strings.Fields(text), " ")
}

// run runs a command line in which + stands for a space within a word.
func (d *doors) run(line string) said {
	d.t.Helper()
	words := strings.Fields(line)
	for i := range words {
		words[i] = strings.ReplaceAll(words[i], "+", " ")
	}
	return d.certpost(words...)
}

// request sends a request to the service; status is 200 where it is not refused.
func (d *doors) request(asks string) (status int, text string) {
	d.t.Helper()
	subject, body, _ := strings.Cut(asks, " ")
	code, m := d.nats.ask(subject, body)
	if code == "" {
		return http.StatusOK, string(m.Data)
	}
	r := read[service.Refusal](d.t, string(m.Data))
	if fmt.Sprint(r.Status) != code {
		d.t.Errorf("%s: the header has the status %s, the answer %d", asks, code, r.Status)
	}
	return r.Status, r.Text
}

// everything is all that an act would change: letters, audit, mails.
func (d *doors) everything() string {
	d.t.Helper()
	state := ""
	for _, name := range []string{broker.DeadLettersStream, broker.AuditStream, broker.DeliveriesStream} {
		stream, err := d.js.Stream(context.Background(), name)
		if err != nil {
			d.t.Fatal(err)
		}
		s := stream.CachedInfo().State
		state += fmt.Sprintf("%s: %d messages, the last is %d\n", name, s.Msgs, s.LastSeq)
	}
	return state + fmt.Sprintf("%d mails", d.relay.Count())
}

// refuse sends a refusal through all doors that have it.
func (d *doors) refuse(r refusal) {
	d.t.Helper()
	same := func(door, input string, got, want int, text string) {
		d.t.Helper()
		if got != want || !strings.Contains(strings.ToLower(text), strings.ToLower(r.want)) {
			d.t.Errorf("%s %s\nsays %d %s\nwant %d %s", door, input, got, text, want, r.want)
		}
	}
	before, want := d.everything(), r.want
	if r.page != "" {
		status, text := d.visit(r.page)
		same("page", r.page, status, r.status, text)
	}
	if r.shell != "" {
		said := d.run(r.shell)
		if strings.Contains(r.shell+" ", "--reason=+") { // the shell refuses every flag without a value, in the same words
			r.want = "--reason is empty: give a value, or leave the flag out"
		}
		same("certpost", r.shell, said.code, r.code, said.stderr)
		r.want = want
	}
	if r.asks != "" {
		status, text := d.request(r.asks)
		same("nats", r.asks, status, r.status, text)
	}
	if after := d.everything(); after != before {
		d.t.Errorf("%+v: something was done:\n%s\nbefore:\n%s", r, after, before)
	}
}

// wrong is a value that a condition refuses.
type wrong struct{ value, want string }

var (
	wrongMoments = unreadable("want a date (2026-01-31) or a time (2026-01-31T15:04:05Z), not %q", "yesterday", "2026-13-01")
	wrongSpans   = unreadable("want a duration such as 30m, 24h or 7d, or a date or time such as 2026-01-31 or 2026-01-31T15:04:05Z, not %q", "3", "-5m", "0s")
	wrongNumbers = unreadable("want the number of a dead letter, not %q", "x", "0", "-1")
	wrongYesNo   = unreadable("want yes or no, not %q", "perhaps")
	wrongHex     = unreadable("%q is not hexadecimal: want digits such as 03:AA:11 or 03aa11", "zz", ":")
)

// unreadable are values that are refused in the same words.
func unreadable(want string, values ...string) (all []wrong) {
	for _, v := range values {
		all = append(all, wrong{v, fmt.Sprintf(want, v)})
	}
	return all
}

// words are a value that is like none of a condition's, with the first of those that are
// offered, and one with a slip of the keyboard, with the one that was meant.
func words(value, first, slip, meant string) []wrong {
	return []wrong{{value, fmt.Sprintf("unknown value %q: want one of %s", value, first)}, {slip, fmt.Sprintf("unknown value %q: did you mean %s?", slip, meant)}}
}

// list is a list at every door: where its conditions are given, what they refuse, and
// which of them take any text.
type list struct {
	conditions []desk.Condition
	pages      []string // ending with the key and value
	commands   []string
	requests   []string // with %s in place of the filter
	wrong      map[string][]wrong
	anyText    []string
}

var lists = map[string]list{
	"dead letters": {
		conditions: desk.LetterConditions.All(),
		pages: []string{"GET /dead-letters?", "GET /dead-letters?view=groups&", "GET /dead-letters.csv?", "GET /dead-letters/news?newer_than=0&",
			"GET /dead-letters/confirm?action=discard&all=yes&", "POST /dead-letters/bulk action=discard&all=yes&reason=x&"},
		commands: []string{"dead-letters list", "dead-letters groups", "dead-letters replay --all --yes --reason=x", "dead-letters discard --all --yes --reason=x",
			"dead-letters hold --all --yes --reason=x", "dead-letters release --all --yes"},
		requests: []string{`dead.list {"filter": %s}`, `dead.list %s`, `dead.groups {"filter": %s}`, `dead.replay {"filter": %s, "reason": "x"}`,
			`dead.discard {"filter": %s, "reason": "x"}`, `dead.hold {"filter": %s, "reason": "x"}`, `dead.release {"filter": %s}`},
		wrong: map[string][]wrong{
			"state":     words("nonsense", "open, discarded", "opne", "open"),
			"code":      words("FOO", "DELIVERY_CANCELLED, ", "SMTP_PERMANANT", "SMTP_PERMANENT"),
			"class":     words("nonsense", "network, auth, io_transient", "netwrok", "network"),
			"phase":     words("nonsense", "decode, ", "rctp", "rcpt"),
			"certainty": {{"maybe", `unknown value "maybe": want one of not-sent, may-have-been-sent, accepted`}},
			"order":     words("random", "newest, oldest, expiry", "oldst", "oldest"),
			"held":      wrongYesNo, "superseded": wrongYesNo, "since": wrongSpans, "from": wrongMoments, "to": wrongMoments, "expires_before": wrongMoments,
			"above": wrongNumbers, "as_of": wrongNumbers,
		},
		anyText: []string{"group", "act", "lane", "target", "event", "name", "q"},
	},
	"deliveries": {
		conditions: desk.DeliveryConditions.All(),
		pages:      []string{"GET /deliveries?", "GET /deliveries.csv?"},
		commands:   []string{"deliveries list"},
		requests:   []string{`deliveries.list {"filter": %s}`, `deliveries.list %s`},
		wrong: map[string][]wrong{
			"state":  words("gone", "waiting, sending, sent, dead, discarded, skipped", "discarted", "discarded"),
			"serial": wrongHex, "fingerprint": wrongHex,
			"since": wrongSpans, "from": wrongMoments, "to": wrongMoments,
		},
		anyText: []string{"name", "recipient", "target", "event"},
	},
	"audit": {
		conditions: desk.HistoryConditions.All(),
		pages:      []string{"GET /audit?", "GET /audit.csv?", "GET /audit/news?newer_than=0&"},
		commands:   []string{"audit list", "audit export"},
		requests:   []string{`history.list {"filter": %s}`, `history.list %s`},
		wrong: map[string][]wrong{
			"action": words("nonsense", "replayed, ", "replayd", "replayed"),
			"ended":  words("nonsense", "replayed, ", "discarted", "discarded"),
			"letter": wrongNumbers, "since": wrongSpans, "from": wrongMoments, "to": wrongMoments, "each": wrongYesNo,
		},
		anyText: []string{"by", "target", "lane", "event", "run", "group", "act"},
	},
	"replay runs": {
		conditions: desk.RunConditions.All(),
		pages:      []string{"GET /replays?", "GET /replays.csv?"},
		commands:   []string{"replays list"},
		requests:   []string{`replays.list {"filter": %s}`, `replays.list %s`},
		wrong: map[string][]wrong{
			"state": words("nonsense", "running, ", "cancled", "cancelled"),
			"since": wrongSpans, "from": wrongMoments, "to": wrongMoments,
		},
		anyText: []string{"by"},
	},
}

// A value that a condition cannot read is refused in the same words by every list and
// every act that has the condition, at every door.
func TestRefusalsAreTheSame(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	o.publish("first", "nobody")
	o.settled()
	d := o.doors()
	for name, l := range lists {
		for _, c := range l.conditions {
			values := l.wrong[c.Key]
			if slices.Contains(l.anyText, c.Key) {
				values = append(slices.Clone(values), wrong{strings.Repeat("a", 401), "want at most 400 bytes"})
			}
			if len(values) == 0 {
				t.Errorf("%s: the test has no wrong value for the condition %s", name, c.Key)
			}
			for _, w := range values {
				d.refuseCondition(l, c, w)
			}
		}
	}
}

func (d *doors) refuseCondition(l list, c desk.Condition, w wrong) {
	d.t.Helper()
	filter, err := json.Marshal(map[string]string{c.Key: w.value})
	if err != nil {
		d.t.Fatal(err)
	}
	for i := range max(len(l.pages), len(l.commands), len(l.requests)) {
		r := refusal{want: "invalid filter: " + c.Key + ": " + w.want, status: http.StatusBadRequest, code: exitUsage}
		if i < len(l.pages) {
			r.page = l.pages[i] + c.Key + "=" + w.value
		}
		if i < len(l.commands) {
			r.shell = l.commands[i] + " --" + c.Flag() + "=" + w.value
		}
		if i < len(l.requests) {
			r.asks = fmt.Sprintf(l.requests[i], filter)
		}
		d.refuse(r)
	}
}

// A key that is no condition is refused where an act would match more without it, and by
// commands and the service also where it only lists. An address of a list may have keys of
// its page (view, size).
//
// Fault: a request or a form with a key that is mistyped, in another case or given twice. Result: refused with the nearest known key.
func TestUnknownConditions(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	o.publish("first", "nobody")
	o.settled()
	d := o.doors()
	const unknown = `unknown key "cod": did you mean code?`
	d.refuse(refusal{want: unknown, status: http.StatusBadRequest, page: "GET /dead-letters/confirm?action=discard&all=yes&cod=SMTP_AUTH", asks: `dead.list {"filter": {"cod": "SMTP_AUTH"}}`})
	d.refuse(refusal{want: unknown, status: http.StatusBadRequest, page: "POST /dead-letters/bulk action=discard&all=yes&reason=x&cod=SMTP_AUTH", asks: `dead.discard {"filter": {"cod": "SMTP_AUTH"}, "reason": "x"}`})
	for _, subject := range []string{"dead.list", "dead.groups", "deliveries.list", "history.list", "replays.list"} {
		d.refuse(refusal{want: `invalid filter: unknown key "nonsense": want one of `, status: http.StatusBadRequest, asks: subject + ` {"filter": {"nonsense": "x"}}`})
		d.refuse(refusal{want: `invalid filter: unknown key "nonsense": want one of `, status: http.StatusBadRequest, asks: subject + ` {"nonsense": "x"}`})
	}
	for _, line := range []string{"dead-letters list", "dead-letters groups", "dead-letters discard --all --yes --reason=x", "deliveries list", "audit list", "audit export", "replays list"} {
		d.refuse(refusal{want: "unknown flag --nonsense", shell: line + " --nonsense=x", code: exitUsage})
	}
	d.refuse(refusal{want: `unknown flag --cod, did you mean "--code"?`, shell: "dead-letters list --cod=SMTP_AUTH", code: exitUsage})
	for _, page := range []string{"/dead-letters", "/deliveries", "/audit", "/replays"} {
		for _, ext := range []string{"", ".json", ".csv"} {
			if page+ext == "/replays.csv" {
				continue // there is none
			}
			d.refuse(refusal{want: "invalid filter: unknown key ", status: http.StatusBadRequest, page: "GET " + page + ext + "?nonsense=x"})
		}
	}
	// What selects everything without saying so is refused: a mistyped or empty filter would.
	for input, want := range map[string]string{
		`{"filter": {"code": ""}`: "invalid filter: code: has no value", `{"filter": {"code": null}`: "invalid filter: code: has no value", `{"filter": {"cod": ""}`: unknown,
		`{"filter": {"code": "any"}`: "the filter leaves no letter out", `{"filter": {"order": "newest"}`: "the filter leaves no letter out", `{"filter": {}`: "no letters are selected",
	} {
		d.refuse(refusal{want: want, status: http.StatusBadRequest, asks: "dead.discard " + input + `, "reason": "x"}`})
	}
	d.refuse(refusal{want: "--code is empty: give a value", shell: "dead-letters discard --all --yes --reason=x --code=", code: exitUsage})
	for _, twice := range []refusal{
		{want: "code: is given twice", shell: "dead-letters discard --all --yes --reason=x --code=SMTP_AUTH --code=SMTP_PERMANENT", code: exitUsage},
		{want: "code: is given twice", status: http.StatusBadRequest, page: "GET /dead-letters?code=SMTP_AUTH&code=SMTP_PERMANENT"},
		{want: "code: is given twice", status: http.StatusBadRequest, asks: `dead.list {"filter": {"code": "SMTP_AUTH"}, "code": "SMTP_PERMANENT"}`},
		{want: "by: is given twice", status: http.StatusBadRequest, asks: `history.list {"who": "x", "by": "y"}`},
		{want: "code: is given twice", status: http.StatusBadRequest, asks: `dead.list {"code": "SMTP_AUTH", "code": "SMTP_PERMANENT"}`},
		{want: "reason: is given twice", status: http.StatusBadRequest, asks: `dead.discard {"numbers": [1], "reason": "x", "reason": "y"}`, page: "POST /dead-letters/1/discard reason=x&reason=y"},
		{want: "did you mean reason?", status: http.StatusBadRequest, asks: `dead.discard {"numbers": [1], "reason": "x", "reson": "y"}`, page: "POST /dead-letters/1/discard reason=x&reson=y"},
		{want: "did you mean reason?", status: http.StatusBadRequest, asks: `dead.hold {"numbers": [1], "Reason": "x"}`, page: "POST /dead-letters/1/hold Reason=x"},
		{want: "did you mean key?", status: http.StatusBadRequest, asks: `deliveries.who {"name": "a.example", "kye": true}`, page: "GET /deliveries/who?name=a.example&kye=yes"},
		{want: "size: want a number above 0", status: http.StatusBadRequest, asks: `dead.list {"size": -1}`},
	} {
		d.refuse(twice)
	}
	for _, year := range []string{"1600", "2300", "0001", "9999"} {
		for _, key := range []string{"from", "to", "expires_before"} {
			d.refuse(refusal{want: key + ": want a time between the years ", status: http.StatusBadRequest, page: "GET /dead-letters?" + key + "=" + year + "-01-01", asks: `dead.list {"` + key + `": "` + year + `-01-01"}`})
		}
	}
}
