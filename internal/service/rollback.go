package service

import (
	"context"
	"encoding/json"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// RollbackOrder orders the rollback of a deployment. Without a target it is that of the event's only
// deployment that can be rolled back.
type RollbackOrder struct {
	Caller
	Event  string `json:"event"`
	Target string `json:"target,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// RollbackAnswer says what the mail host has again.
type RollbackAnswer struct {
	Event   string           `json:"event"`
	Target  string           `json:"target"`
	Receipt *verdict.Receipt `json:"receipt"`
}

func (c *API) rollBack(ctx context.Context, o RollbackOrder) (RollbackAnswer, error) {
	out := RollbackAnswer{Event: o.Event, Target: o.Target}
	if err := o.check(); err != nil {
		return out, err
	}
	if _, err := broker.CheckReason(o.Reason, false); err != nil {
		return out, err
	}
	if err := c.current(ctx); err != nil {
		return out, err
	}
	var err error
	if out.Target == "" {
		if out.Target, err = c.desk.DeployedTarget(ctx, o.Event); err != nil {
			return out, err
		}
	}
	out.Receipt, err = c.desk.RollBack(ctx, o.actor(), out.Target, o.Event, o.Reason)
	return out, err
}

// PlanRequest asks what a deployment of an event to a target would do.
type PlanRequest struct {
	Target string          `json:"target"`
	Event  json.RawMessage `json:"event"` // as it would be published
}

// PlanAnswer is what it would do, in order; not OK if it would fail.
type PlanAnswer struct {
	Findings []verdict.Finding `json:"findings"`
	OK       bool              `json:"ok"`
}

// NewPlanAnswer returns the answer with these findings.
func NewPlanAnswer(found []verdict.Finding) PlanAnswer {
	a := PlanAnswer{Findings: append([]verdict.Finding{}, found...), OK: true}
	for _, f := range found {
		a.OK = a.OK && f.Status != verdict.Error
	}
	return a
}

func (c *API) plan(ctx context.Context, r PlanRequest) (PlanAnswer, error) {
	found, err := c.desk.Plan(ctx, r.Target, r.Event)
	return NewPlanAnswer(found), err
}
