package main

import (
	"context"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/verdict"
)

const rules = `relays:
  default: {max_connections: 7}
  rules: [{host: localhost, max_message_rate: 1000/h, max_messages_per_connection: 20}]
`

func TestRelaysCommands(t *testing.T) {
	t.Parallel()
	o := newFixture(t, rules)
	client, err := os.ReadFile(o.config)
	if err != nil {
		t.Fatal(err)
	}
	o.write("client.yaml", string(client)+rules)
	name := "localhost:" + port(o.relay.Submission())
	lane := "localhost-" + port(o.relay.Submission())
	list := func() desk.LaneRow {
		t.Helper()
		rows := read[[]desk.LaneRow](t, o.certpost("relays", "list", "-o", "json").done(t))
		if len(rows) != 1 || rows[0].Lane != lane || len(rows[0].Relays) != 1 {
			t.Fatalf("rows: %+v", rows)
		}
		return rows[0]
	}
	o.until("a heartbeat with the lane", func() bool { return list().Replicas == 1 })
	if r := list().Relays[0]; r.Relay != name || r.Targets != 5 || r.MaxConnections != 7 || r.MaxMessagesPerConnection != 20 ||
		r.MaxMessageRate != (verdict.Rate{Count: 1000, Per: time.Hour}) {
		t.Errorf("relay: %+v", r)
	}

	o.certpost("relays", "suspend", "nowhere", "--reason", "x").failed(t, exitFailed, "certpost: unknown lane \"nowhere\": want one of "+lane+"\n")
	o.certpost("relays", "suspend", lane).failed(t, exitUsage, "certpost: relays suspend: a reason is required: the audit keeps it\nSee certpost relays suspend --help.\n")
	o.certpost("relays", "resume", lane).failed(t, exitFailed, "certpost: lane "+lane+" is not suspended\n")
	if text := o.certpost("relays", "suspend", lane, "--reason", "new firewall", "--for", "2h").done(t); !regexp.MustCompile(`^lane ` + lane + ` is suspended until \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ; attempts in progress are finished\n$`).MatchString(text) {
		t.Errorf("suspend: %q", text)
	}
	o.until("the process knows of the suspension", func() bool { return len(o.service.runner.Suspensions()) == 1 })
	o.publish("held", "ops")
	o.until("the delivery waits", func() bool { return list().Waiting == 1 })
	row := list()
	if s := row.Suspension; s == nil || s.Reason != "new firewall" || s.By != actor() || time.Until(s.Until) > 2*time.Hour || time.Until(s.Until) < time.Hour {
		t.Errorf("suspension: %+v", s)
	}
	text := o.certpost("relays", "list").done(t)
	if lines := strings.Split(strings.TrimSpace(text), "\n"); len(lines) != 8 || !regexp.MustCompile(`^LANE +RELAYS +WAITING +IN FLIGHT +STATE +LAST HOUR +RATE AND CONNECTIONS$`).MatchString(lines[0]) ||
		!regexp.MustCompile(`^`+lane+` +`+name+` +1 +0 +suspended +- +1000/h, 7 connections, 20 mails per connection$`).MatchString(lines[1]) ||
		!regexp.MustCompile(`^Lane +`+lane+`\nState +suspended\nUntil +20\S+ \S+Z\nBy +`+regexp.QuoteMeta(actor())+`\nReason +new firewall$`).MatchString(strings.Join(lines[3:], "\n")) {
		t.Errorf("list:\n%s", text)
	}
	resp, body := o.ask("GET", "/healthz")
	if answer := read[healthAnswer](t, body); resp.StatusCode != http.StatusOK || answer.Status != degraded || !strings.Contains(body, "suspended: "+lane) || !strings.Contains(body, "new firewall") {
		t.Errorf("healthz: %d %s", resp.StatusCode, body)
	}
	if resp, _ := o.ask("GET", "/readyz"); resp.StatusCode != http.StatusOK {
		t.Errorf("readyz: %d while an operator has suspended a lane", resp.StatusCode)
	}
	if o.relay.Count() != 0 {
		t.Errorf("%d mails while suspended", o.relay.Count())
	}
	if text := o.certpost("relays", "resume", lane, "--reason", "done").done(t); text != "lane "+lane+" is resumed\n" {
		t.Errorf("resume: %q", text)
	}
	o.settled()
	if o.relay.Count() != 1 {
		t.Errorf("%d mails, want the one that waited", o.relay.Count())
	}
	entries, err := o.service.broker.Deliveries(context.Background(), "ops", "held")
	if err != nil || len(entries) != 1 || entries[0].Attempts != 1 {
		t.Errorf("ledger: %+v, %v", entries, err)
	}
	if row := list(); row.Suspension != nil || row.Waiting != 0 {
		t.Errorf("after resume: %+v", row)
	}
}

// A relay at a limit of its own is shown with its reply and the end of the pause, by the
// command and by the health check, and no letter is written. The command ends the pause.
func TestRelaysListShowsALimit(t *testing.T) {
	t.Parallel()
	o := newFixture(t, rules)
	if err := o.relay.SetRules([]devrelay.Rule{{Stage: devrelay.StageMail, Code: 550, Enhanced: "5.4.5", Text: "Daily user sending limit exceeded"}}); err != nil {
		t.Fatal(err)
	}
	o.publish("e1", "ops")
	row := regexp.MustCompile(`(?m)^localhost-\d+ +localhost:\d+ +1 +0 +at the relay's own limit +\S.*\n\nLane +localhost-\d+\nState +at the relay's own limit\nUntil +20\S+ \S+Z\n` +
		`Reason +localhost:\d+ answered 550 5\.4\.5 to MAIL FROM; this is a limit of the relay itself.*\nReply +5\.4\.5 Daily user sending limit exceeded\n$`)
	o.until("the limit to be listed", func() bool { return row.MatchString(o.certpost("relays", "list").done(t)) })
	o.until("the health check to name the limit", func() bool {
		_, body := o.ask("GET", "/healthz")
		return strings.Contains(body, `"degraded","message":"at a limit of the relay itself: localhost:`) && strings.Contains(body, "550 5.4.5")
	})
	if n := o.relay.Count(); n != 0 {
		t.Errorf("%d mails", n)
	}
	if text := o.certpost("dead-letters", "list", "-o", "json").done(t); strings.Contains(text, "5.4.5") {
		t.Errorf("dead letters: %s", text)
	}
	if err := o.relay.SetRules(nil); err != nil {
		t.Fatal(err)
	}
	lane := "localhost-" + port(o.relay.Submission())
	o.certpost("relays", "resume", lane).done(t)
	o.publish("e2", "ops")
	o.until("a mail after the pause was ended", func() bool { return o.relay.Count() > 0 })
	o.certpost("relays", "resume", lane).failed(t, exitFailed, "certpost: lane "+lane+" is not suspended\n")
}

func TestCheckShowsRelays(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	o.write("c.yaml", rules+`targets:
  - {id: a, host: localhost, from_address: a@example.com, to: [b@example.com], fallback: [{host: backup.example.com}]}
  - {id: b, host: localhost, from_address: a@example.com, to: [b@example.com]}
`)
	want := `relay backup.example.com:587: 0 targets, fallback of 1 target; 7 connections
relay localhost:587: 2 targets, fallback of 0 targets; 1000/h, 7 connections, 20 mails per connection
the configuration is valid: 2 targets on 1 lane, 0 warnings
`
	if text := command(t, nil, "-c", o.path("c.yaml"), "check").done(t); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	answer := read[struct{ Relays []map[string]any }](t, command(t, nil, "-c", o.path("c.yaml"), "check", "-o", "json").done(t))
	if len(answer.Relays) != 2 || answer.Relays[1]["max_message_rate"] != "1000/h" || answer.Relays[0]["fallback_of"] != 1.0 {
		t.Errorf("relays: %v", answer.Relays)
	}
}
