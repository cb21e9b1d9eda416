package main

import (
	"fmt"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
)

// waitingFlags select deliveries that wait.
type waitingFlags struct {
	filterFlags
	Lane string `help:"Only deliveries in this lane." placeholder:"LANE"`
	All  bool   `help:"All that waits."`
}

// Validate is called when the command line has been read.
func (f *waitingFlags) Validate() error {
	_, err := parseFlags(desk.DeliveryConditions, &f.filterFlags)
	return err
}

func (f *waitingFlags) selection() service.WaitingSelection {
	filter := f.values()
	// As for dead letters, --all with a filter is all that match it.
	return service.WaitingSelection{Filtered: service.Filtered{Filter: filter}, Lane: f.Lane, All: f.All && len(filter) == 0 && f.Lane == ""}
}

type deliveriesRetryCmd struct {
	waitingFlags
	Reason string `help:"Reason (kept in the audit)."`
	Output string `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Run ends the wait of deliveries. It fails if some of them cannot be tried now.
func (c *deliveriesRetryCmd) Run(a *app) error {
	client, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	answer, err := give[desk.Retried](a, client, "deliveries.retry", service.RetryOrder{Caller: me(), WaitingSelection: c.selection(), Reason: c.Reason})
	if err != nil {
		return err
	}
	if c.Output == "json" {
		err = a.json(answer)
	} else {
		fmt.Fprintf(a.stdout, "%s tried now\n", count(answer.Done, "delivery is", "deliveries are"))
		for _, l := range answer.Blocked {
			fmt.Fprintf(a.stdout, "%s\n", printable(l.String()))
		}
	}
	if err == nil && len(answer.Blocked) > 0 {
		err = &failure{code: exitFailed}
	}
	return err
}
