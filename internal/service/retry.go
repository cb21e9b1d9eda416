package service

import (
	"context"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

// WaitingSelection is the waiting deliveries of an order: some by name, those that match a filter, those of a
// lane, or all.
type WaitingSelection struct {
	Filtered
	Deliveries []desk.DeliveryName `json:"deliveries,omitempty"`
	Lane       string              `json:"lane,omitempty"`
	All        bool                `json:"all,omitempty"`   // all that wait; without the others
	UpTo       uint64              `json:"up_to,omitempty"` // of a dry run: only what it has counted
}

// MaxNamed is the maximum number of deliveries in an order by name.
const MaxNamed = 1000

func (o WaitingSelection) selection() (s desk.WaitSelection, err error) {
	s = desk.WaitSelection{Lane: o.Lane, Named: o.Deliveries, UpTo: o.UpTo}
	if s.Query, err = desk.DeliveryConditions.ParseFilter(o.Filter); err != nil {
		return s, err
	}
	switch chosen := selects(s.Query, broker.StateWaiting) || o.Lane != "" || len(o.Deliveries) > 0; {
	case chosen && o.All:
		return s, badRequest("give one of filter or lane, and all")
	case !chosen && !o.All:
		return s, badRequest("no deliveries are selected: give a filter, a lane, or all")
	case len(o.Deliveries) > MaxNamed:
		return s, badRequest("%d deliveries are too many, the maximum is %d: give a filter", len(o.Deliveries), MaxNamed)
	}
	return s, nil
}

// selects reports whether a query selects deliveries by more than the state that they must have.
func selects(q desk.DeliveryQuery, state broker.State) bool {
	if q.State == state {
		q.State = ""
	}
	return q != (desk.DeliveryQuery{})
}

// RetryOrder ends the wait of deliveries: they are tried now.
type RetryOrder struct {
	Caller
	WaitingSelection
	Reason string `json:"reason,omitempty"`
}

func (c *API) retry(ctx context.Context, o RetryOrder) (desk.Retried, error) {
	s, err := o.selection()
	if err == nil {
		err = o.check()
	}
	if err == nil {
		err = c.current(ctx)
	}
	if err != nil {
		return desk.Retried{}, err
	}
	return c.desk.RetryNow(ctx, o.actor(), s, o.Reason)
}

// CancelOrder ends the wait of deliveries: they become dead letters.
type CancelOrder struct {
	Caller
	WaitingSelection
	DryRun bool   `json:"dry_run,omitempty"`
	Reason string `json:"reason"`
}

// CancelAnswer is the result of an order to cancel; of a dry run what would be cancelled.
type CancelAnswer struct {
	desk.Cancelled
	DryRun   bool                   `json:"dry_run,omitempty"`
	Contents *desk.DeliveryContents `json:"contents,omitempty"`
}

func (c *API) cancel(ctx context.Context, o CancelOrder) (a CancelAnswer, err error) {
	s, err := o.selection()
	if err == nil {
		err = o.check()
	}
	if err == nil && !o.DryRun {
		_, err = broker.CheckReason(o.Reason, true)
	}
	if err == nil {
		err = c.desk.MayCancel()
	}
	if err == nil {
		err = c.current(ctx)
	}
	if err != nil {
		return a, err
	}
	if a.DryRun = o.DryRun; a.DryRun {
		contents, err := c.desk.WaitContents(ctx, s)
		a.Contents = &contents
		return a, err
	}
	a.Cancelled, err = c.desk.Cancel(ctx, o.actor(), s, o.Reason)
	return a, err
}
