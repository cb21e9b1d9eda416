package main

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/alert"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/service"
)

type alertsCmd struct {
	List      alertsListCmd      `cmd:"" help:"List the alerts that last, the silences, and how mail and webhook do."`
	Silence   alertsSilenceCmd   `cmd:"" help:"Silence an alert, a kind of alerts, or all, for a time."`
	Unsilence alertsUnsilenceCmd `cmd:"" help:"End a silence."`
	Test      alertsTestCmd      `cmd:"" help:"Send a test message by alerts.mail and alerts.webhook, without NATS."`
}

type alertsListCmd struct {
	Output string `help:"Format: table, wide (all columns, nothing shortened), json or csv." enum:"table,wide,json,csv" default:"table" short:"o"`
}

func (c *alertsListCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	answer, err := ask[desk.Alerts](a.ctx, counter, "alerts.list", service.AlertsRequest{})
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.json(answer)
	}
	return a.printAlerts(answer, c.Output)
}

func (a *app) printAlerts(all desk.Alerts, format string) error {
	err := printList(a, format, all.Alerts, "no alerts", []string{"ALERT", "SEVERITY", "STATE", "SINCE", "TOLD", "WHAT"}, func(r desk.AlertRow, _ bool) []string {
		return []string{r.Key, string(r.Severity), r.State, when(r.Since), toldText(r.Told), r.Summary}
	}, desk.AlertTable)
	if err != nil || format == "csv" {
		return err
	}
	if all.Omitted > 0 {
		fmt.Fprintf(a.stdout, "%s more: there is no room for them\n", count(all.Omitted, "alert"))
	}
	for _, s := range all.Silences {
		fmt.Fprintln(a.stdout)
		if err := pairs(a.stdout, [2]string{"Silenced", s.Of}, [2]string{"Until", when(s.Until)}, [2]string{"By", s.By}, [2]string{"Reason", s.Reason}); err != nil {
			return err
		}
	}
	for _, c := range all.Channels {
		if c.Error != "" {
			fmt.Fprintf(a.stdout, "\nthe %s fails (%d tries): %s\n", printable(c.Name), c.Tries, printable(c.Error))
		}
	}
	return nil
}

// toldText is "mail 2026-01-31 15:04:05Z"; "not yet" before a message was sent.
func toldText(told alert.Told) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(told)) {
		parts = append(parts, name+" "+when(told[name]))
	}
	if parts == nil {
		return "not yet"
	}
	return strings.Join(parts, ", ")
}

type alertsSilenceCmd struct {
	Alert  string        `arg:"" help:"The alert (see certpost alerts list), a kind such as dead_letters, or all."`
	For    time.Duration `help:"Duration, such as 2h or 7d; at most 31d." required:"" placeholder:"DURATION"`
	Reason string        `help:"Reason (kept in the audit)." required:""`
}

// Validate is called when the command line has been read.
func (c *alertsSilenceCmd) Validate() error {
	if err := alert.CheckSilence(c.For); err != nil {
		return fmt.Errorf("--for: %w", err)
	}
	return reasoned(c.Reason, true)
}

func (c *alertsSilenceCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	s, err := give[alert.Silence](a, counter, "alerts.silence", service.SilenceOrder{Caller: me(), Alert: c.Alert, For: c.For.String(), Reason: c.Reason})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s is silenced until %s\n", printable(s.Of), when(s.Until))
	return nil
}

type alertsUnsilenceCmd struct {
	Alert  string `arg:"" help:"What is silenced (see certpost alerts list)."`
	Reason string `help:"Reason (kept in the audit)."`
}

func (c *alertsUnsilenceCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	answer, err := give[service.UnsilenceAnswer](a, counter, "alerts.unsilence", service.UnsilenceOrder{Caller: me(), Alert: c.Alert, Reason: c.Reason})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s is no longer silenced\n", printable(answer.Alert))
	return nil
}

type alertsTestCmd struct{}

// Run sends a message that says that it is a test, by every configured way.
func (c *alertsTestCmd) Run(a *app) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	if !cfg.Alerts.on() {
		return usage("the section alerts sends nothing: give alerts.mail or alerts.webhook")
	}
	log := a.logger(LogConfig{Level: "error", Format: cfg.Log.Format})
	store, err := secrets.Open(cfg.Vault, log)
	if err != nil {
		return err
	}
	defer store.Close()
	now := time.Now().UTC().Truncate(time.Second)
	line := alert.Line{Key: "test", Kind: "test", Severity: alert.Ticket, Summary: "This is a test of Certpost's alerts.", Advice: "Nothing is wrong.", Since: now}
	m := alert.Message{ID: rand.Text(), Group: "test-" + rand.Text(), Made: now, Firing: []alert.Line{line}}
	if cfg.Alerts.Mail.Target != "" {
		courier := delivery.NewCourier(cfg.Book, store, cfg.courierOptions())
		defer courier.Close()
		if err := mailAlerts(courier, cfg.Alerts.Mail, log)(a.ctx, m); err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "the relay of target %s accepted the mail for %s\n", cfg.Alerts.Mail.Target, strings.Join(cfg.Alerts.Mail.To, ", "))
	}
	if cfg.Alerts.Webhook.URL.IsZero() {
		return nil
	}
	hook := cfg.Alerts.Webhook.open(store)
	if err := alert.Post(a.ctx, hook, m); err != nil {
		return err
	}
	// So that no incident stays open.
	line.Over, m.ID, m.Firing = now, rand.Text(), nil
	m.Resolved = []alert.Line{line}
	if err := alert.Post(a.ctx, hook, m); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, "the webhook accepted the message, and another that says that all is over")
	return nil
}
