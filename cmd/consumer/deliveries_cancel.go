package main

import (
	"errors"
	"fmt"

	"github.com/certpost/certpost/internal/service"
)

type deliveriesCancelCmd struct {
	waitingFlags
	Reason string `help:"Reason (kept in the dead letters and the audit). Required, except with --dry-run."`
	DryRun bool   `help:"Only print what would be cancelled."`
	Yes    bool   `help:"Skip the confirmation." short:"y"`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read.
func (c *deliveriesCancelCmd) Validate() error {
	return errors.Join(reasoned(c.Reason, !c.DryRun), c.waitingFlags.Validate())
}

// Run makes dead letters of waiting deliveries. Unless event and target name one, the operator
// confirms their number, and only what was counted is cancelled.
func (c *deliveriesCancelCmd) Run(a *app) error {
	client, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	order := service.CancelOrder{Caller: me(), WaitingSelection: c.selection(), Reason: c.Reason, DryRun: true}
	one := order.Filter["event"] != "" && order.Filter["target"] != ""
	if c.DryRun || !one {
		answer, err := ask[service.CancelAnswer](a.ctx, client, "deliveries.cancel", order)
		if err != nil {
			return err
		}
		if c.DryRun && c.Output == "json" {
			return a.json(answer)
		}
		n := answer.Contents.Count
		what := count(n, "waiting delivery", "waiting deliveries") + " would be cancelled"
		switch {
		case c.DryRun:
			a.dryRun(deliveryLines(answer.Contents), what)
			return nil
		case n > 0:
			if err := a.confirmCount(n, what, "deliveries", deliveryLines(answer.Contents), client.URL(), c.Yes); err != nil {
				return err
			}
		}
		order.UpTo = answer.Contents.UpTo
	}
	order.DryRun = false
	answer, err := give[service.CancelAnswer](a, client, "deliveries.cancel", order)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.json(answer)
	}
	fmt.Fprintf(a.stdout, "%s cancelled: see certpost dead-letters list --code DELIVERY_CANCELLED\n", count(answer.Done, "delivery", "deliveries"))
	if answer.InAttempt > 0 {
		fmt.Fprintf(a.stdout, "%s not cancelled, because an attempt is sending now: see certpost deliveries list --state sending\n", count(answer.InAttempt, "delivery was", "deliveries were"))
	}
	return nil
}
