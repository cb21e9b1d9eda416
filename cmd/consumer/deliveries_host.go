package main

import (
	"fmt"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/service"
)

type deliveriesRollbackCmd struct {
	Event  string `arg:"" help:"Id of the event."`
	Target string `arg:"" optional:"" help:"Id of the target. Default: the only one of the event that can be rolled back."`
	Reason string `help:"Reason (kept in the audit; required)."`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Run puts the former files of a deployment back.
func (c *deliveriesRollbackCmd) Run(a *app) error {
	client, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	answer, err := give[service.RollbackAnswer](a, client, "deliveries.rollback", service.RollbackOrder{
		Caller: service.Caller{By: actor(), Via: broker.ViaShell}, Event: c.Event, Target: c.Target, Reason: c.Reason})
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.json(answer)
	}
	r := answer.Receipt
	fields := [][2]string{{"Rolled back", "target " + answer.Target + " on mail host " + r.Host}}
	if cert := r.Certificate; cert != nil {
		fields = append(fields, [2]string{"Certificate now", cert.Name()}, [2]string{"Serial", cert.Serial}, [2]string{"Valid", when(cert.NotBefore) + " to " + when(cert.NotAfter)})
	}
	for _, step := range r.Steps {
		fields = append(fields, [2]string{"Step", step})
	}
	for _, warning := range r.Warnings {
		fields = append(fields, [2]string{"Warning", warning})
	}
	return pairs(a.stdout, fields...)
}

type deliveriesPlanCmd struct {
	Target string `help:"Target on a mail host." required:"" placeholder:"ID"`
	Cert   string `help:"Certificate and chain, PEM." required:"" placeholder:"FILE"`
	Key    string `help:"Private key, PEM; only on the mail host itself." placeholder:"FILE" xor:"key"`
	KeyRef string `name:"key-ref" help:"Where the private key is stored: vault:MOUNT/PATH#FIELD, or file:PATH." placeholder:"REF" xor:"key"`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Run says what a deployment would do. On the mail host itself the command looks; elsewhere the
// process that runs there does.
func (c *deliveriesPlanCmd) Run(a *app) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	t, err := a.targetOf(cfg.Book.Current(), c.Target)
	if err != nil {
		return err
	}
	c.Target = t.ID
	ev, err := eventFromFile(c.Cert)
	if err != nil {
		return err
	}
	if c.KeyRef != "" {
		if ev.PrivateKey, err = keyReference(c.KeyRef); err != nil {
			return err
		}
	}
	var answer service.PlanAnswer
	if lane := cfg.hostLane(); lane != "" && lane == t.Lane() {
		answer, err = c.here(a, cfg, ev)
	} else if c.Key != "" {
		return usage("--key: target %s is on another host, and a key is not sent there: run the command there, or give --key-ref", c.Target)
	} else {
		answer, err = c.there(a, ev)
	}
	if err != nil {
		return err
	}
	if c.Output == "json" {
		err = a.json(answer)
	} else {
		for _, f := range answer.Findings {
			fmt.Fprintf(a.stdout, "%-7s  %s: %s\n", f.Status, f.What, printable(f.Message))
		}
	}
	if err == nil && !answer.OK {
		err = &failure{code: exitFailed}
	}
	return err
}

// here looks on this host.
func (c *deliveriesPlanCmd) here(a *app, cfg *Config, ev *events.Event) (service.PlanAnswer, error) {
	var key []byte
	if c.Key != "" {
		var err error
		if key, err = readFile(c.Key); err != nil {
			return service.PlanAnswer{}, usage("--key: %w", err)
		}
		defer clear(key)
	}
	store, err := secrets.Open(cfg.Vault, a.logger(LogConfig{Level: "error", Format: cfg.Log.Format}))
	if err != nil {
		return service.PlanAnswer{}, err
	}
	defer store.Close()
	courier := delivery.NewCourier(cfg.Book, store, cfg.courierOptions())
	defer courier.Close()
	return service.NewPlanAnswer(courier.PlanWithKey(a.ctx, ev, c.Target, key)), nil
}

// there asks the process on the mail host.
func (c *deliveriesPlanCmd) there(a *app, ev *events.Event) (service.PlanAnswer, error) {
	client, done, err := a.client()
	if err != nil {
		return service.PlanAnswer{}, err
	}
	defer done()
	return ask[service.PlanAnswer](a.ctx, client, "deliveries.plan", service.PlanRequest{Target: c.Target, Event: []byte(strings.TrimSpace(string(ev.Encode())))})
}
