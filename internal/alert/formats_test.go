package alert

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/webhook"
)

var update = flag.Bool("update", false, "write the golden bodies")

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
		for _, f := range []webhook.Format{webhook.Certpost, webhook.Slack, webhook.Teams, webhook.PagerDuty} {
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
	read(t, m, webhook.Slack, &slack)
	if len(slack.Blocks) > 50 || len([]rune(slack.Blocks[0].Text.Text)) > 150 {
		t.Errorf("%d blocks", len(slack.Blocks))
	}
	for _, b := range slack.Blocks {
		if len([]rune(b.Text.Text)) > 3000 {
			t.Errorf("a block has %d characters", len([]rune(b.Text.Text)))
		}
	}
	if n := read(t, m, webhook.Teams, &map[string]any{}); n > 28<<10 {
		t.Errorf("Teams: %d bytes", n)
	}
	var duty struct {
		Payload struct{ Summary, Severity string }
	}
	if n := read(t, m, webhook.PagerDuty, &duty); n > 512<<10 || len([]rune(duty.Payload.Summary)) > 1024 || duty.Payload.Severity != "warning" {
		t.Errorf("PagerDuty: %d bytes, %+v", n, duty)
	}
}

func read(t *testing.T, m Message, f webhook.Format, into any) int {
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
