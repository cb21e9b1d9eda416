package service

import (
	"context"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

// RetryOrder ends the wait of deliveries: those that match a filter, those of a lane, or all.
type RetryOrder struct {
	Caller
	Filtered
	Lane   string `json:"lane,omitempty"`
	All    bool   `json:"all,omitempty"` // all that wait; without a filter and lane
	Reason string `json:"reason,omitempty"`
}

func (c *API) retry(ctx context.Context, o RetryOrder) (desk.Retried, error) {
	q, err := desk.DeliveryConditions.ParseFilter(o.Filter)
	if err == nil {
		err = o.check()
	}
	if err != nil {
		return desk.Retried{}, err
	}
	one := q
	if one.State == broker.StateWaiting {
		one.State = ""
	}
	switch chosen := one != (desk.DeliveryQuery{}) || o.Lane != ""; {
	case chosen && o.All:
		return desk.Retried{}, badRequest("give one of filter or lane, and all")
	case !chosen && !o.All:
		return desk.Retried{}, badRequest("no deliveries are selected: give a filter, a lane, or all")
	}
	if err := c.current(ctx); err != nil {
		return desk.Retried{}, err
	}
	return c.desk.RetryNow(ctx, o.actor(), q, o.Lane, o.Reason)
}
