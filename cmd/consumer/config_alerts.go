package main

import (
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/webhook"
)

// AlertsConfig is the section alerts: whom certpost run itself tells what needs them, for those
// without a monitoring system (docs/metrics.md). Without mail and webhook, nobody. All
// processes on one NATS need the same values. 0s switches letter_age, expiry, waiting or not_ready off.
type AlertsConfig struct {
	// Mail tells by e-mail.
	Mail AlertMail `yaml:"mail"`
	// Webhook tells by HTTP.
	Webhook AlertWebhook `yaml:"webhook"`
	// LetterAge is the age at which an open dead letter is an alert of its own. Every new
	// cause of dead letters is one.
	LetterAge time.Duration `yaml:"letter_age" min:"0s" max:"8760h"`
	// Expiry is how long before its end the certificate of an open dead letter is an alert,
	// unless a newer one has reached the target.
	Expiry time.Duration `yaml:"expiry" min:"0s" max:"8760h"`
	// Waiting is how long a delivery may wait, because its relay or Vault is away or each attempt is
	// refused for now, before its lane is an alert. Suspended lanes are none.
	Waiting time.Duration `yaml:"waiting" min:"0s" max:"8760h"`
	// NotReady is how long a process may be not ready, or events or deliveries not move,
	// before that is an alert.
	NotReady time.Duration `yaml:"not_ready" min:"0s" max:"24h"`
	// GroupWait is how long a message waits for other alerts.
	GroupWait time.Duration `yaml:"group_wait" min:"0s" max:"1h"`
	// Interval is the time between two messages by the same way.
	Interval time.Duration `yaml:"interval" min:"0s" max:"24h"`
	// Repeat is after how long an alert that lasts is told again.
	Repeat time.Duration `yaml:"repeat" min:"5m" max:"720h"`
	// Health says when dead letters make /healthz degraded: old (one is older than letter_age), any
	// (there is one) or never.
	Health string `yaml:"health" enum:"old,any,never"`
}

// AlertMail is the section alerts.mail.
type AlertMail struct {
	// Target is the id of a target: its relay, its login and its from_address are used.
	Target string `yaml:"target"`
	// To are the recipients, at most 50.
	To []string `yaml:"to"`
}

// AlertWebhook is the section alerts.webhook.
type AlertWebhook struct {
	// URL is the address to POST to; a secret reference, or text. It begins with https://,
	// except on this machine. Redirects are not followed.
	URL secrets.Ref `yaml:"url"`
	// Secret is a secret reference: for certpost the key of at least 16 characters that requests are signed with
	// (Standard Webhooks: webhook-id, webhook-timestamp, webhook-signature), for pagerduty the integration key.
	Secret secrets.Ref `yaml:"secret"`
	// Format is that of the body: certpost, slack (incoming webhooks), teams (Workflows) or
	// pagerduty (Events API v2).
	Format string `yaml:"format" enum:"certpost,slack,teams,pagerduty"`
}

func defaultAlerts() AlertsConfig {
	return AlertsConfig{Webhook: AlertWebhook{Format: string(webhook.Certpost)}, LetterAge: time.Hour, Expiry: 7 * 24 * time.Hour, Waiting: time.Hour, NotReady: 5 * time.Minute,
		GroupWait: 30 * time.Second, Interval: 5 * time.Minute, Repeat: 24 * time.Hour, Health: "old"}
}

// on reports whether a mail or a webhook is configured.
func (c *AlertsConfig) on() bool { return c.Mail.Target != "" || !c.Webhook.URL.IsZero() }

func (c *AlertsConfig) validate(f *findings) {
	switch {
	case c.Mail.Target == "" && len(c.Mail.To) > 0:
		f.err("alerts.mail.target", "is required: the id of the target through whose relay the mails are sent")
	case c.Mail.Target != "" && len(c.Mail.To) == 0:
		f.err("alerts.mail.to", "is required: who gets the mails")
	case len(c.Mail.To) > 50:
		f.err("alerts.mail.to", "has more than 50 addresses")
	}
	c.Webhook.validate(f)
	if c.Repeat <= c.Interval {
		f.err("alerts.repeat", "must be longer than alerts.interval")
	}
	if c.Health == "old" && c.LetterAge == 0 {
		f.err("alerts.health", "old requires alerts.letter_age: set any or never")
	}
	plain := defaultAlerts()
	if !c.on() && (c.Expiry != plain.Expiry || c.Waiting != plain.Waiting || c.NotReady != plain.NotReady || c.GroupWait != plain.GroupWait || c.Interval != plain.Interval || c.Repeat != plain.Repeat) {
		f.warn("alerts", "sends nothing: give alerts.mail or alerts.webhook")
	}
}

func (w *AlertWebhook) validate(f *findings) {
	if w.URL.IsZero() {
		if !w.Secret.IsZero() {
			f.err("alerts.webhook.url", "is required: where the messages go")
		}
		return
	}
	checkWebhook(f, "alerts.webhook", w.URL, w.Secret, webhook.Format(w.Format))
}

// undefined returns what keeps mails from being sent with these targets.
func (c *AlertsConfig) undefined(d *delivery.Definitions) []config.Problem {
	if c.Mail.Target == "" || len(c.Mail.To) == 0 {
		return nil
	}
	problems := d.CheckNotice(c.Mail.Target, c.Mail.To)
	for i := range problems {
		problems[i].Path = "alerts.mail." + problems[i].Path
	}
	return problems
}
