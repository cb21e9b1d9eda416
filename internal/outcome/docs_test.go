package outcome

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
	"github.com/certpost/certpost/internal/webhook"
)

func example() *Event {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return event(at, "01JNX0K8", "letter.17", Data{Event: "01JNX0K8", Target: "ops-archive", Lane: "smtp-587", Outcome: Dead, Attempts: 1, Generation: 1, Code: verdict.SMTPPermanent, Class: verdict.SMTPPermanent.Class(),
		Phase: verdict.PhaseRcpt, ReplyCode: 550, EnhancedCode: "5.1.1", Certainty: verdict.NotSent, Letter: 17,
		Certificate: &Certificate{CommonName: "www.example.com", DNSNames: []string{"www.example.com", "example.com"}, Serial: "4f2a", Fingerprint: strings.Repeat("5a", 32), NotBefore: at.Add(-time.Hour), NotAfter: at.Add(90 * 24 * time.Hour)}})
}

// The manual has each body as it is sent, and every outcome.
func TestManual(t *testing.T) {
	t.Parallel()
	parts := map[string]string{}
	for _, f := range []webhook.Format{webhook.Certpost, webhook.Slack, webhook.Teams, webhook.PagerDuty} {
		body, err := example().Body(f, "0123456789abcdef0123456789abcdef")
		if err != nil {
			t.Fatal(err)
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, body, "", "  "); err != nil {
			t.Fatal(err)
		}
		parts[string(f)] = "```json\n" + indented.String() + "\n```\n"
	}
	lab.Document(t, "docs/outcomes.md", parts)
	stored, err := os.ReadFile(filepath.Join(lab.Root(), "docs/outcomes.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(stored)
	for _, kind := range Types() {
		if !strings.Contains(page, "`"+string(kind)+"`") {
			t.Errorf("the manual lacks %s", kind)
		}
	}
}

// The largest bodies stay within what each service takes, and every outcome opens, acknowledges or resolves an incident.
func TestLargestBodies(t *testing.T) {
	t.Parallel()
	e := example()
	e.Data.Event = strings.Repeat("<é_", 400)
	e.Data.Certificate.CommonName = strings.Repeat("&", 200)
	for range 100 {
		e.Data.Certificate.DNSNames = append(e.Data.Certificate.DNSNames, strings.Repeat("w.", 120)+"example.com")
	}
	var slack struct {
		Blocks []struct{ Text struct{ Text string } }
	}
	sized(t, e, webhook.Slack, 100<<10, &slack)
	if n := len([]rune(slack.Blocks[0].Text.Text)); n > slackHeader {
		t.Errorf("the header has %d characters", n)
	}
	if n := len([]rune(slack.Blocks[1].Text.Text)); n > slackSection {
		t.Errorf("the section has %d characters", n)
	}
	sized(t, e, webhook.Teams, 28<<10, &map[string]any{})
	actions := map[string]int{}
	for _, kind := range Types() {
		e.Data.Outcome = kind
		var duty struct {
			Action string                   `json:"event_action"`
			Key    string                   `json:"dedup_key"`
			Load   struct{ Summary string } `json:"payload"`
		}
		sized(t, e, webhook.PagerDuty, 512<<10, &duty)
		if duty.Key != "certpost/01JNX0K8/ops-archive" || len([]rune(duty.Load.Summary)) > pagerDutySummary {
			t.Errorf("%+v", duty)
		}
		actions[duty.Action]++
	}
	if actions["trigger"] != 4 || actions["acknowledge"] != 1 || actions["resolve"] != 4 {
		t.Errorf("%v", actions)
	}
}

func sized(t *testing.T, e *Event, f webhook.Format, most int, into any) {
	t.Helper()
	body, err := e.Body(f, "key")
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil || len(body) > most {
		t.Errorf("%s: %d bytes, %v", f, len(body), err)
	}
}
