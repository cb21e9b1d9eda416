package outcome

import (
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/webhook"
)

// Body is the outcome as a receiver takes it: the CloudEvent, or a message of Slack, Teams or PagerDuty. routing is
// PagerDuty's routing key.
func (e *Event) Body(f webhook.Format, routing string) ([]byte, error) {
	switch f {
	case webhook.Slack:
		return webhook.Encode(e.slack())
	case webhook.Teams:
		return webhook.Encode(e.teams())
	case webhook.PagerDuty:
		return webhook.Encode(e.pagerDuty(routing))
	}
	return webhook.Encode(e)
}

type object = map[string]any

// The limits of Slack's texts and PagerDuty's summaries.
const (
	slackHeader      = 150
	slackSection     = 3000
	pagerDutySummary = 1024
)

// facts are the lines about an outcome below its summary.
func (e *Event) facts() (lines []string) {
	d := &e.Data
	add := func(name, value string) {
		if value != "" {
			lines = append(lines, name+": "+legible.Clean(value, 300))
		}
	}
	add("Event", d.Event)
	if c := d.Certificate; c != nil {
		const shown = 10
		names := strings.Join(c.DNSNames[:min(len(c.DNSNames), shown)], ", ")
		if more := len(c.DNSNames) - shown; more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		add("Names", names)
		add("Serial", c.Serial)
		add("Expires", legible.Moment(c.NotAfter))
	}
	if d.Attempts > 0 {
		add("Attempts", fmt.Sprint(d.Attempts))
	}
	add("Host", d.Host)
	if d.Letter != 0 {
		add("Dead letter", fmt.Sprint(d.Letter))
	}
	return lines
}

func (e *Event) slack() any {
	summary := legible.Clean(e.Summary(), 300)
	return object{"text": webhook.SlackText(summary), "blocks": []object{
		{"type": "header", "text": object{"type": "plain_text", "text": webhook.Shorten(summary, slackHeader)}},
		{"type": "section", "text": object{"type": "mrkdwn", "text": webhook.Shorten(webhook.SlackText(strings.Join(e.facts(), "\n")), slackSection)}},
	}}
}

func (e *Event) teams() any {
	title := object{"type": "TextBlock", "text": webhook.TeamsText(legible.Clean(e.Summary(), 300)), "wrap": true, "size": "Medium", "weight": "Bolder", "color": e.Data.Outcome.colour()}
	body := []object{title}
	for _, line := range e.facts() {
		body = append(body, object{"type": "TextBlock", "text": webhook.TeamsText(line), "wrap": true, "spacing": "None"})
	}
	return webhook.TeamsCard(body, "", "")
}

// colour is that of an Adaptive Card.
func (t Type) colour() string {
	switch t {
	case Dead:
		return "Attention"
	case Failed, RolledBack:
		return "Warning"
	case Delivered, Deployed:
		return "Good"
	}
	return "Default"
}

// pagerDuty is an event of the Events API v2. All outcomes of a delivery are about one incident: a dead letter opens it,
// and whatever settles the letter resolves it.
func (e *Event) pagerDuty(routing string) any {
	event := object{"routing_key": routing, "dedup_key": webhook.Shorten("certpost/"+e.incident(), 255), "event_action": e.Data.Outcome.action()}
	if event["event_action"] != "trigger" {
		return event
	}
	severity := "error"
	if e.Data.Outcome != Dead && e.Data.Outcome != Restored {
		severity = "warning"
	}
	event["payload"] = object{"summary": webhook.Shorten(legible.Clean(e.Summary(), 1000), pagerDutySummary), "source": Source, "severity": severity, "timestamp": e.Time.UTC().Format(time.RFC3339),
		"component": e.Subject, "group": e.Data.Lane, "class": string(e.Data.Code), "custom_details": e.Data}
	return event
}

// incident names the delivery: the event and the target.
func (e *Event) incident() string {
	parts := strings.SplitN(e.ID, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func (t Type) action() string {
	switch t {
	case Failed, Dead, Restored, RolledBack:
		return "trigger"
	case Replayed:
		return "acknowledge"
	}
	return "resolve"
}
