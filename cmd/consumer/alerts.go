package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/alert"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/webhook"
)

// newAlerts returns the engine of the section alerts; nil without a mail and a webhook.
func (s *instance) newAlerts(registry prometheus.Registerer) *alert.Engine {
	cfg := &s.cfg.Alerts
	if !cfg.on() || s.cfg.agent { // an agent reads no dead letters
		return nil
	}
	settings := alert.Settings{
		Timing:  alert.Timing{GroupWait: cfg.GroupWait, Interval: cfg.Interval, Repeat: cfg.Repeat},
		Process: s.runner.Name(), Host: hostName(), NotReady: cfg.NotReady, Facts: s.alertFacts, Log: s.log,
	}
	if home, err := s.cfg.HTTP.home(); err == nil && s.cfg.HTTP.URL != "" {
		settings.Link = home.String() + "/alerts"
	}
	if cfg.Mail.Target != "" {
		settings.Senders = append(settings.Senders, alert.Sender{Name: "mail", Send: mailAlerts(s.courier, cfg.Mail, s.log)})
	}
	if !cfg.Webhook.URL.IsZero() {
		receiver := cfg.Webhook.open(s.store)
		settings.Senders = append(settings.Senders, alert.Sender{Name: "webhook", Send: func(ctx context.Context, m alert.Message) error { return alert.Post(ctx, receiver, m) }})
	}
	metrics := newAlertMetrics(registry, settings.Senders)
	settings.Failed = metrics.failed
	metrics.engine = alert.New(settings, s.desk)
	return metrics.engine
}

func hostName() string {
	host, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return host
}

// alertFacts is what this process sees.
func (s *instance) alertFacts(ctx context.Context) (f alert.Facts) {
	cfg := &s.cfg.Alerts
	f.Shared, f.Err = s.desk.AlertConditions(ctx, desk.AlertLimits{LetterAge: cfg.LetterAge, Expiry: cfg.Expiry, Stands: cfg.NotReady, Waiting: cfg.Waiting}, time.Now())
	if f.Err == nil && s.auditor.State().Verified.IsZero() {
		f.Err = errors.New("the audit is being verified")
	}
	for _, where := range s.auditor.Broken() {
		f.Shared = append(f.Shared, alert.Condition{Kind: alert.Audit, Name: where, Severity: alert.Page,
			Summary: fmt.Sprintf("The %s is not what Certpost wrote.", where), Advice: "Run `certpost audit verify`; docs/audit.md says what each finding means."})
	}
	// What stands still is known to all processes, and is an alert of its own.
	if err := s.runner.Ready(ctx); err != nil && cfg.NotReady > 0 {
		f.Own = append(f.Own, alert.Condition{Kind: alert.NotReady, Name: hostName(), Severity: alert.Page, For: cfg.NotReady,
			Summary: fmt.Sprintf("Certpost on %s is not ready.", hostName()), Advice: "Events or deliveries wait there. /readyz and the log have the reason."})
	}
	return f
}

// mailAlerts sends messages through the relay of a target. Recipients that the relay refuses while
// it accepts others are only logged: the others must not get the message again and again.
func mailAlerts(courier *delivery.Courier, cfg AlertMail, log zerolog.Logger) func(context.Context, alert.Message) error {
	return func(ctx context.Context, m alert.Message) error {
		receipt, failure := courier.Notify(ctx, cfg.Target, delivery.Notice{ID: "alert-" + m.ID, Subject: m.Subject(), Text: m.Text(), To: cfg.To})
		switch {
		case failure == nil:
			return nil
		case receipt == nil:
			return fmt.Errorf("alerts.mail: %w", errors.New(failure.Error()))
		}
		log.Error().Int("refused", len(failure.Refused)).Str("reason", failure.Reason).Msg("alerts: the relay refused some recipients of alerts.mail.to; correct them")
		return nil
	}
}

// open returns the webhook with its secrets.
func (w *AlertWebhook) open(store *secrets.Store) webhook.Receiver {
	return openWebhook(store, "alerts.webhook", w.URL, w.Secret, w.Format)
}

// probe checks the webhook. The mails go through a target, which has checks of its own.
func (c *AlertsConfig) probe(ctx context.Context, store *secrets.Store) (found []finding) {
	w := &c.Webhook
	if w.URL.IsZero() {
		return nil
	}
	return probeWebhook(ctx, store, "alerts", "webhook", w.open(store), w.URL, w.Secret, "the receiver answers; `certpost alerts test` sends it a message")
}

// alertMetrics are the metrics of alerts.
type alertMetrics struct {
	engine   *alert.Engine
	states   *prometheus.Desc
	failures *prometheus.CounterVec
}

func newAlertMetrics(registry prometheus.Registerer, senders []alert.Sender) *alertMetrics {
	m := &alertMetrics{
		states: prometheus.NewDesc("certpost_alerts", "Alerts that last by kind and state (firing, silenced); only with the section alerts.", []string{"kind", "state"}, nil),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_alert_failures_total", Help: "Tries of this process to send a message about alerts that failed, by channel (mail, webhook); only with the section alerts. Alert on any.",
		}, []string{"channel"}),
	}
	registry.MustRegister(m, m.failures)
	for _, s := range senders {
		m.failures.WithLabelValues(s.Name)
	}
	return m
}

func (m *alertMetrics) failed(channel string) { m.failures.WithLabelValues(channel).Inc() }

// Describe names the metric.
func (m *alertMetrics) Describe(out chan<- *prometheus.Desc) { out <- m.states }

// Collect reads it from what the engine last knew.
func (m *alertMetrics) Collect(out chan<- prometheus.Metric) {
	counts := map[[2]string]int{}
	board, _ := m.engine.Board()
	for _, a := range board.Alerts {
		if state := board.State(a, time.Now()); state != "" {
			counts[[2]string{string(a.Kind), state}]++
		}
	}
	for _, kind := range alert.Kinds() {
		for _, state := range []string{alert.Firing, alert.Silenced} {
			out <- prometheus.MustNewConstMetric(m.states, prometheus.GaugeValue, float64(counts[[2]string{string(kind), state}]), string(kind), state)
		}
	}
}

// waiting is the check of /healthz of dead letters that wait; there is false if it is healthy.
func (c *AlertsConfig) waiting(d *desk.Desk, now time.Time) (_ check, there bool) {
	var oldest time.Time
	open := 0
	for _, g := range d.Groups(desk.Query{}) {
		open += g.Count
		if oldest.IsZero() || g.First.Before(oldest) {
			oldest = g.First
		}
	}
	if open == 0 || c.Health == "never" || c.Health == "old" && now.Sub(oldest) < c.LetterAge {
		return check{}, false
	}
	return verdictOn("dead_letters", "dead_letters", degraded, fmt.Errorf("%s open, the oldest since %s", count(open, "dead letter"), legible.Moment(oldest))), true
}
