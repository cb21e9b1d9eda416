package service

import (
	"context"

	"github.com/certpost/certpost/internal/alert"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/duration"
)

// AlertsRequest asks for the alerts.
type AlertsRequest struct{}

func (c *API) alerts(ctx context.Context, _ AlertsRequest) (desk.Alerts, error) {
	return c.desk.Alerts(ctx)
}

// SilenceOrder silences alerts: one by its key, those of a kind, or all.
type SilenceOrder struct {
	Caller
	Alert  string `json:"alert"`
	For    string `json:"for"` // 2h
	Reason string `json:"reason"`
}

func (c *API) silence(ctx context.Context, o SilenceOrder) (alert.Silence, error) {
	if err := o.check(); err != nil {
		return alert.Silence{}, err
	}
	last, err := duration.Parse(o.For)
	if err != nil {
		return alert.Silence{}, badRequest("for: want a duration such as 2h or 7d")
	}
	return c.desk.Silence(ctx, o.actor(), o.Alert, last, o.Reason)
}

// UnsilenceOrder ends a silence.
type UnsilenceOrder struct {
	Caller
	Alert  string `json:"alert"`
	Reason string `json:"reason,omitempty"`
}

// UnsilenceAnswer says whose silence has ended.
type UnsilenceAnswer struct {
	Alert string `json:"alert"`
}

func (c *API) unsilence(ctx context.Context, o UnsilenceOrder) (UnsilenceAnswer, error) {
	if err := o.check(); err != nil {
		return UnsilenceAnswer{}, err
	}
	return UnsilenceAnswer{o.Alert}, c.desk.Unsilence(ctx, o.actor(), o.Alert, o.Reason)
}
