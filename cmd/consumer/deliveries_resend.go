package main

import (
	"errors"
	"fmt"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
)

type deliveriesResendCmd struct {
	filterFlags
	To             string `name:"to-target" help:"Send the events to this target, which was added later, instead of to the same again." placeholder:"ID"`
	Force          bool   `help:"With --to-target: also what was delivered there."`
	WithSuperseded bool   `help:"Include certificates of which the target has a newer one."`
	Reason         string `help:"Reason (kept in the audit). Required, except with --dry-run."`
	DryRun         bool   `help:"Only print what would be sent, and whether it would be delivered."`
	Yes            bool   `help:"Skip the confirmation." short:"y"`
	Output         string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read.
func (c *deliveriesResendCmd) Validate() error {
	if c.Force && c.To == "" { // the service names its field, and --to is a time
		return errors.New("--force requires --to-target: what was delivered is sent again to its target without it")
	}
	_, err := parseFlags(desk.DeliveryConditions, &c.filterFlags)
	return errors.Join(reasoned(c.Reason, !c.DryRun), err)
}

// Run sends again what was delivered, after the operator has confirmed how much that is.
func (c *deliveriesResendCmd) Run(a *app) error {
	client, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	order := service.ResendOrder{Caller: me(), Filtered: service.Filtered{Filter: c.values()}, To: c.To, Force: c.Force, Superseded: c.WithSuperseded, Reason: c.Reason, DryRun: true}
	dry, err := ask[service.ResendAnswer](a.ctx, client, "deliveries.resend", order)
	if err != nil {
		return err
	}
	if c.DryRun && c.Output == "json" {
		return a.json(dry)
	}
	in := dry.Contents
	what := count(in.Count, "delivery", "deliveries") + " would be sent again"
	if c.To != "" {
		what = count(in.Count, "event") + " would be sent to " + c.To
	}
	if in.Superseded > 0 {
		what += fmt.Sprintf(" (skipped: %d superseded)", in.Superseded)
	}
	lines := deliveryLines(&in.DeliveryContents)
	for _, p := range in.Parts {
		lines = append(lines, fmt.Sprintf("preflight of %s to %s: %s", p.Event, p.Target, p.Verdict))
	}
	if c.DryRun {
		a.dryRun(lines, what)
		return nil
	}
	if in.Count > 0 {
		if err := a.confirmCount(in.Count, printable(what), "deliveries", lines, client.URL(), c.Yes); err != nil {
			return err
		}
	}
	order.DryRun, order.Hash = false, in.Hash
	answer, err := give[service.ResendAnswer](a, client, "deliveries.resend", order)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		err = a.json(answer)
	} else {
		fmt.Fprintf(a.stdout, "%s published again\n", count(answer.Done, "delivery", "deliveries"))
		for _, r := range answer.Refused {
			fmt.Fprintf(a.stdout, "not sent: %s\n", printable(r.Reason))
		}
	}
	if err == nil && len(answer.Refused) > 0 {
		err = &failure{code: exitFailed}
	}
	return err
}
