package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden bodies")

const (
	secretPath = "/services/T000/B000/XXXXcanaryXXXX"
	secretKey  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

// a constant text, as store.Get would return it.
func text(s string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return s, nil }
}

// example is a message with two alerts and one that is over.
func example() Message {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return Message{ID: "MSG1", Group: "GROUP1", Made: at, Omitted: 1, Link: "https://certpost.example.com/alerts",
		Firing: []Line{
			{Key: "audit/ledger", Kind: Audit, Severity: Page, Summary: "The ledger is not what Certpost wrote.", Advice: "Run `certpost audit verify`.", Since: at.Add(-time.Hour)},
			{Key: "dead_letters/abc", Kind: DeadLetters, Severity: Ticket, Summary: "3 dead letters SMTP_PERMANENT 5.1.1, lane <smtp&587>.", Advice: "Open them.", Since: at.Add(-time.Minute), New: true},
		},
		Resolved: []Line{{Key: "letter_age", Kind: LetterAge, Severity: Ticket, Summary: "A dead letter was old.", Since: at.Add(-2 * time.Hour), Over: at.Add(-time.Minute)}}}
}

func resolved() Message {
	m := example()
	m.Firing, m.Omitted = nil, 0
	return m
}

// The bodies are JSON of the form that the services document.
func TestBodies(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]Message{"firing": example(), "resolved": resolved()} {
		for _, f := range []Format{Certpost, Slack, Teams, PagerDuty} {
			body, err := m.body(f, "0123456789abcdef0123456789abcdef")
			if err != nil {
				t.Fatal(err)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, body, "", "  "); err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			golden(t, string(f)+"-"+name+".json", indented.String()+"\n")
		}
		golden(t, "mail-"+name+".txt", m.Subject()+"\n\n"+m.Text())
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != got {
		t.Errorf("%s (%v): %s", path, err, got)
	}
}

// The largest message stays within what each service takes.
func TestLargestBodies(t *testing.T) {
	t.Parallel()
	m := example()
	m.Firing = nil
	for range maxAlerts {
		m.Firing = append(m.Firing, Line{Key: strings.Repeat("k", maxKey), Kind: DeadLetters, Severity: Ticket, Summary: strings.Repeat("é_", maxText/2), Advice: strings.Repeat("&", maxText), New: true})
	}
	m.Resolved = m.Firing
	var slack struct {
		Text   string
		Blocks []struct {
			Type string
			Text struct{ Type, Text string }
		}
	}
	read(t, m, Slack, &slack)
	if len(slack.Blocks) > 50 || len([]rune(slack.Blocks[0].Text.Text)) > 150 {
		t.Errorf("%d blocks", len(slack.Blocks))
	}
	for _, b := range slack.Blocks {
		if len([]rune(b.Text.Text)) > 3000 {
			t.Errorf("a block has %d characters", len([]rune(b.Text.Text)))
		}
	}
	if n := read(t, m, Teams, &map[string]any{}); n > 28<<10 {
		t.Errorf("Teams: %d bytes", n)
	}
	var duty struct {
		Payload struct{ Summary, Severity string }
	}
	if n := read(t, m, PagerDuty, &duty); n > 512<<10 || len([]rune(duty.Payload.Summary)) > 1024 || duty.Payload.Severity != "warning" {
		t.Errorf("PagerDuty: %d bytes, %+v", n, duty)
	}
}

func read(t *testing.T, m Message, f Format, into any) int {
	t.Helper()
	body, err := m.body(f, "")
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(body)
}

// Whatever the receiver does, no error has the address, the key or the receiver's words.
//
// Fault: the receiver of alerts.webhook does not answer, redirects, refuses the message. Result: an error that says what to do, and
// nothing of address, key and answer.
func TestWebhookFailures(t *testing.T) {
	t.Parallel()
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	t.Cleanup(other.Close)
	closed := httptest.NewServer(nil)
	closed.Close()
	patient := &http.Client{CheckRedirect: NewClient().CheckRedirect, Timeout: 200 * time.Millisecond}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+secretPath, http.StatusTemporaryRedirect)
		}, "redirects (307)"},
		"refused": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "XXXXcanaryXXXX")
		}, "refused the message (403): check alerts.webhook.url"},
		"fault":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "did not take the message (502 Bad Gateway)"},
		"silent": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer: "},
		"closed": {nil, "no answer: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := closed
			if c.answer != nil {
				server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					c.answer(w, r)
				}))
				defer server.Close()
			}
			err := Webhook{URL: text(server.URL + secretPath), Secret: text(secretKey), Format: Certpost, Client: patient}.Send(t.Context(), example())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			for _, secret := range []string{"canary", secretPath, secretKey, "MfKQ9r8"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%v shows a secret", err)
				}
			}
		})
	}
	t.Cleanup(func() {
		if elsewhere != 0 {
			t.Error("a redirect was followed")
		}
	})
}

// An endless answer is not read to its end.
//
// Fault: the receiver of alerts.webhook never ends its answer. Result: the answer counts, and its rest is not read.
func TestEndlessAnswer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for chunk := make([]byte, 32<<10); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	if err := (Webhook{URL: text(server.URL), Format: Slack}).Send(t.Context(), example()); err != nil {
		t.Error(err)
	}
}

func TestWebhookAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"https://hooks.example.com/x": "", "http://127.0.0.1:9/x": "", "http://localhost/x": "", "http://[::1]:9/": "",
		"http://hooks.example.com/x": "only by https", "ftp://hooks.example.com": "is not an address", "hooks.example.com": "is not an address", "": "is not an address",
		"https://user:canary@hooks.example.com": "user name or a password", "http://127.0.0.1.example.com/": "only by https", "https://%zz/canary": "is not an address",
	} {
		err := CheckURL(address)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}

func TestWebhookSecrets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		format Format
		secret string
		good   bool
	}{
		{Certpost, secretKey, true}, {Certpost, "sixteen characters", true}, {Certpost, "short", false}, {Certpost, "whsec_AAAA", false}, {Certpost, "", false},
		{PagerDuty, strings.Repeat("0", 32), true}, {PagerDuty, "0", false},
	} {
		if err := CheckSecret(c.format, c.secret); (err == nil) != c.good {
			t.Errorf("%s %q: %v", c.format, c.secret, err)
		}
	}
}
