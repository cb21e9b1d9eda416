package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/secrets"
)

type sendTestCmd struct {
	Target string `help:"Target to send the mail for." required:"" placeholder:"ID"`
	Name   string `help:"Name in the certificate of the test." default:"test.certpost.invalid"`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Run sends a target's mail with a new certificate that nobody trusts, to the target's own
// recipients. It does not use NATS, so it works before anything runs.
func (c *sendTestCmd) Run(a *app) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	target, err := a.targetOf(cfg.Book.Current(), c.Target)
	if err != nil {
		return err
	}
	authority, err := newDemoCA()
	if err != nil {
		return err
	}
	chain, key, err := authority.issue(c.Name)
	if err != nil {
		return err
	}
	defer clear(key)
	store, err := secrets.Open(cfg.Vault, a.logger(LogConfig{Level: "error", Format: cfg.Log.Format}))
	if err != nil {
		return err
	}
	defer store.Close()
	courier := delivery.NewCourier(cfg.Book, store, cfg.courierOptions())
	defer courier.Close()
	now := time.Now()
	ev := &events.Event{ID: fmt.Sprintf("send-test-%d", now.UnixNano()), Source: "certpost://send-test", Time: now.UTC(), Certificate: events.Certificate{PEM: string(chain)}}
	receipt, failed := courier.SendTest(a.ctx, ev, target.ID, key)
	if receipt == nil && failed != nil {
		return &failure{exitFailed, fmt.Errorf("the test mail was not sent: %w", failed)}
	}
	if c.Output == "json" {
		if err := a.json(receipt); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.stdout, "%s accepted the test mail for %s: %s\n", receipt.Relay, strings.Join(receipt.Recipients, ", "), printable(receipt.Reply))
	}
	if failed != nil {
		return &failure{exitFailed, fmt.Errorf("some recipients were refused: %w", failed)}
	}
	return nil
}
