package service

import (
	"context"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

// ResendOrder sends again what was delivered: some by name, or those that match a filter.
type ResendOrder struct {
	Caller
	Filtered
	Deliveries []desk.DeliveryName `json:"deliveries,omitempty"`
	Superseded bool                `json:"with_superseded,omitempty"`
	To         string              `json:"to,omitempty"`    // another target, which gets the events
	Force      bool                `json:"force,omitempty"` // with to: also what was delivered there
	Hash       string              `json:"hash,omitempty"`  // of a dry run: refuse the order if it selects other deliveries now
	DryRun     bool                `json:"dry_run,omitempty"`
	Reason     string              `json:"reason"`
}

// ResendAnswer is the result of an order to resend; of a dry run what would be sent again, with
// preflights.
type ResendAnswer struct {
	desk.Resent
	DryRun   bool                 `json:"dry_run,omitempty"`
	Contents *desk.ResendContents `json:"contents,omitempty"`
}

func (c *API) resend(ctx context.Context, o ResendOrder) (a ResendAnswer, err error) {
	q, err := desk.DeliveryConditions.ParseFilter(o.Filter)
	if err == nil {
		err = o.check()
	}
	if err == nil && !o.DryRun {
		_, err = broker.CheckReason(o.Reason, true)
	}
	if err != nil {
		return a, err
	}
	switch {
	case !selects(q, broker.StateSent) && len(o.Deliveries) == 0:
		return a, badRequest("no deliveries are selected: give a filter, such as target, event, or since")
	case o.Force && o.To == "":
		return a, badRequest("force requires to: what was delivered is sent again to its target without it")
	case len(o.Deliveries) > MaxNamed:
		return a, badRequest("%d deliveries are too many, the maximum is %d: give a filter", len(o.Deliveries), MaxNamed)
	}
	if err := c.current(ctx); err != nil {
		return a, err
	}
	s := desk.ResendSelection{Query: q, Named: o.Deliveries, WithSuperseded: o.Superseded, To: o.To, Force: o.Force}
	if a.DryRun = o.DryRun; a.DryRun {
		contents, err := c.desk.ResendContents(ctx, s, true)
		a.Contents = &contents
		return a, err
	}
	a.Resent, err = c.desk.Resend(ctx, o.actor(), s, o.Hash, o.Reason)
	return a, err
}
