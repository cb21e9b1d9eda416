package alert

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/webhook"
)

// Post sends a message to a receiver.
func Post(ctx context.Context, to webhook.Receiver, m Message) error {
	return to.Post(ctx, m.ID, func(secret string) ([]byte, error) { return m.body(to.Format, secret) })
}

// Subject is the subject of a mail.
func (m Message) Subject() string {
	word := "ALERT"
	if len(m.Firing) == 0 {
		word = "RESOLVED"
	}
	return "[" + word + "] Certpost: " + legible.Header(m.Summary(), 200)
}

// Text is the message as plain text.
func (m Message) Text() string {
	var w strings.Builder
	for i, l := range m.Firing {
		if i == 0 {
			w.WriteString("What needs somebody:\n\n")
		}
		fmt.Fprintf(&w, "%s: %s%s\n  since %s\n", strings.ToUpper(string(l.Severity)), l.Summary, l.mark(), legible.Moment(l.Since))
		if l.Advice != "" {
			fmt.Fprintf(&w, "  %s\n", l.Advice)
		}
		fmt.Fprintf(&w, "  certpost alerts silence '%s' --for 4h --reason WHY\n\n", l.Key)
	}
	if m.Omitted > 0 {
		fmt.Fprintf(&w, "%s\n\n", notListed(m.Omitted))
	}
	for i, l := range m.Resolved {
		if i == 0 {
			w.WriteString("Resolved:\n\n")
		}
		fmt.Fprintf(&w, "%s\n  from %s to %s\n\n", l.Summary, legible.Moment(l.Since), legible.Moment(l.Over))
	}
	if m.Link != "" {
		fmt.Fprintf(&w, "%s\n", m.Link)
	}
	return w.String()
}

func (l Line) mark() string {
	if l.New {
		return " (new)"
	}
	return ""
}

// body returns the body of a webhook. routing is PagerDuty's routing key.
func (m Message) body(f webhook.Format, routing string) ([]byte, error) {
	switch f {
	case webhook.Slack:
		return webhook.Encode(m.slack())
	case webhook.Teams:
		return webhook.Encode(m.teams())
	case webhook.PagerDuty:
		return webhook.Encode(m.pagerDuty(routing))
	}
	return webhook.Encode(m.own())
}

// status is firing or resolved.
func (m Message) status() string {
	if len(m.Firing) == 0 {
		return "resolved"
	}
	return Firing
}

type object = map[string]any

func (m Message) own() any {
	return struct {
		Type    string `json:"type"`
		Status  string `json:"status"`
		Summary string `json:"summary"`
		Message
	}{"certpost.alerts", m.status(), m.Summary(), m}
}

// The limits of Slack's blocks: https://docs.slack.dev/reference/block-kit/blocks
const (
	slackHeader  = 150
	slackSection = 3000
	slackBlocks  = 50
)

func (m Message) slack() any {
	blocks := []object{{"type": "header", "text": object{"type": "plain_text", "text": webhook.Shorten(m.Subject(), slackHeader)}}}
	section := func(text string) {
		if len(blocks) < slackBlocks-2 {
			blocks = append(blocks, object{"type": "section", "text": object{"type": "mrkdwn", "text": webhook.Shorten(text, slackSection)}})
		}
	}
	for _, l := range m.Firing {
		section(fmt.Sprintf("*%s* %s%s\nsince %s\n%s", strings.ToUpper(string(l.Severity)), webhook.SlackText(l.Summary), l.mark(), legible.Moment(l.Since), webhook.SlackText(l.Advice)))
	}
	for _, l := range m.Resolved {
		section("*RESOLVED* after " + lasted(l) + ": " + webhook.SlackText(l.Summary))
	}
	if m.Omitted > 0 {
		section(notListed(m.Omitted))
	}
	if m.Link != "" {
		section("<" + m.Link + "|Alerts on the dashboard>")
	}
	return object{"text": webhook.SlackText(m.Subject()), "blocks": blocks}
}

func notListed(n int) string { return fmt.Sprintf("Not listed: %d more.", n) }

func lasted(l Line) string { return l.Over.Sub(l.Since).Round(time.Second).String() }

// teamsRoom is how much a card may say, in bytes of JSON: a message may have 28 kB.
const teamsRoom = 22 << 10

func (m Message) teams() any {
	block := func(text string, more object) object {
		b := object{"type": "TextBlock", "text": webhook.TeamsText(text), "wrap": true}
		for key, value := range more {
			b[key] = value
		}
		return b
	}
	body := []object{block(m.Subject(), object{"size": "Medium", "weight": "Bolder"})}
	left, room := m.Omitted, teamsRoom
	add := func(blocks ...object) {
		text, err := webhook.Encode(blocks)
		if room -= len(text); err != nil || room < 0 {
			left++
			return
		}
		body = append(body, blocks...)
	}
	for _, l := range m.Firing {
		add(block(strings.ToUpper(string(l.Severity))+": "+l.Summary+l.mark(), object{"color": teamsColour(l.Severity)}),
			block("Since "+legible.Moment(l.Since)+". "+l.Advice, object{"isSubtle": true}))
	}
	for _, l := range m.Resolved {
		add(block("RESOLVED after "+lasted(l)+": "+l.Summary, object{"color": "Good"}))
	}
	if left > 0 {
		body = append(body, block(notListed(left), nil))
	}
	return webhook.TeamsCard(body, "Alerts on the dashboard", m.Link)
}

func teamsColour(s Severity) string {
	if s == Page {
		return "Attention"
	}
	return "Warning"
}

// pagerDutySummary is the length of the longest summary: https://developer.pagerduty.com/docs/send-alert-event
const pagerDutySummary = 1024

// pagerDuty is one event: all alerts of an installation are one incident.
func (m Message) pagerDuty(routing string) any {
	event := object{"routing_key": routing, "dedup_key": "certpost-" + m.Group, "event_action": "trigger"}
	if len(m.Firing) == 0 {
		event["event_action"] = "resolve"
		return event
	}
	severity := "warning"
	if m.Severity() == Page {
		severity = "critical"
	}
	event["payload"] = object{"summary": webhook.Shorten(m.Summary(), pagerDutySummary), "source": "certpost", "severity": severity, "timestamp": m.Made.UTC().Format(time.RFC3339),
		"component": "certpost", "group": m.Group, "class": string(m.Firing[0].Kind), "custom_details": object{"alerts": m.Firing, "resolved": m.Resolved, "not_listed": m.Omitted}}
	if m.Link != "" {
		event["links"] = []object{{"href": m.Link, "text": "Alerts on the dashboard"}}
	}
	return event
}
