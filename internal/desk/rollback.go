package desk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// ErrNoRollback is the refusal to roll back a delivery that is no deployment, or one that was rolled
// back, or whose host keeps no former files.
var ErrNoRollback = errors.New("this delivery cannot be rolled back")

// RollBack puts the files back that a deployment has replaced on its mail host. The audit gets a
// record of the order before the host has it, and one of the result. The receipt is about the
// certificate that the host serves again.
func (d *Desk) RollBack(ctx context.Context, by broker.Actor, target, event, reason string) (*verdict.Receipt, error) {
	reason, err := broker.CheckReason(reason, true)
	if err != nil {
		return nil, err
	}
	target = d.idNow(target)
	delivery, err := d.Delivery(ctx, target, event)
	if err != nil {
		return nil, err
	}
	if err := rollbackRefusal(delivery); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx) // the host goes on without the caller, and the audit shall say how it ended
	record := broker.AuditRecord{Action: broker.ActionRollback, Actor: by, Reason: reason, Event: delivery.Event, Target: delivery.Target, Lane: delivery.Lane}
	if err := d.b.Append(ctx, record); err != nil {
		return nil, fmt.Errorf("the audit has no record of the order, so it was not given: %w", err)
	}
	answer, err := d.b.AskHost(ctx, delivery.Lane, broker.HostOrder{Order: broker.OrderRollback, Target: target, Event: delivery.Event, By: by.Shown(), Reason: reason})
	record.Action = broker.ActionRolledBack
	switch {
	case errors.Is(err, broker.ErrHostAway):
		record.Action, record.Reason = broker.ActionRollbackFailed, err.Error()
		err = fmt.Errorf("%s: %w; nothing was done", hostOf(delivery.Entry), err)
	case err != nil: // it may be done all the same: the receipt will say so
		return nil, err
	case answer.Failure != nil:
		record.Action, record.Reason = broker.ActionRollbackFailed, answer.Failure.Reason
		err = refused{fmt.Errorf("%s: %s: %s (rollback: %s)", hostOf(delivery.Entry), answer.Failure.Code, answer.Failure.Reason, verdict.RollbackOf(*answer.Failure, delivery.Lane)), ErrNoRollback}
	}
	if failed := d.b.Append(context.WithoutCancel(ctx), record); failed != nil && err == nil {
		answer.Receipt.Warnings = append(answer.Receipt.Warnings, "the audit has no record of the result: "+failed.Error())
	}
	d.CatchUp(ctx)
	d.listeners.notify(Change{Audit: true})
	return answer.Receipt, err
}

func hostOf(e broker.Entry) string { return "mail host " + e.Receipt.Host }

// rollbackRefusal returns why a delivery cannot be rolled back, nil if it may be.
func rollbackRefusal(d DeliveryDetail) error {
	switch {
	case d.RollbackAvailable:
		return nil
	case d.State != broker.StateSent || d.Receipt == nil:
		return refused{fmt.Errorf("the delivery is %s: only what was deployed can be rolled back", d.State), ErrNoRollback}
	}
	return refused{errors.New(d.RollbackRemedy), ErrNoRollback}
}

// Plan says what a deployment of an event to a target on a mail host would do; event is its JSON.
// The process on that host looks, and changes nothing.
func (d *Desk) Plan(ctx context.Context, target string, event []byte) ([]verdict.Finding, error) {
	view, defined := d.deliverer.Target(target)
	switch {
	case !defined:
		return nil, fmt.Errorf("target %q: %w", target, ErrNotFound)
	case view.Host == "":
		return nil, invalid("target %s is a mail: certpost render shows it", target)
	}
	answer, err := d.b.AskHost(ctx, view.Lane, broker.HostOrder{Order: broker.OrderPlan, Target: view.ID, Body: event})
	if err != nil {
		return nil, fmt.Errorf("mail host %s: %w", view.Host, err)
	}
	if answer.Failure != nil {
		return []verdict.Finding{{What: "event", Status: verdict.Error, Message: answer.Failure.Reason}}, nil
	}
	if view.ID != target {
		former := verdict.Finding{What: "target", Status: verdict.OK, Message: fmt.Sprintf("%s is a former id of %s", target, view.ID)}
		return append([]verdict.Finding{former}, answer.Findings...), nil
	}
	return answer.Findings, nil
}

// DeployedTarget returns the target of the only deployment of an event that can be rolled back.
func (d *Desk) DeployedTarget(ctx context.Context, event string) (string, error) {
	entries, err := d.b.Deliveries(ctx, "", event)
	if err != nil {
		return "", err
	}
	var targets []string
	for _, e := range entries {
		if e.State == broker.StateSent && e.Receipt != nil && e.Receipt.CanRollBack() {
			targets = append(targets, e.Target)
		}
	}
	switch {
	case len(entries) == 0:
		return "", fmt.Errorf("event %q: %w", legible.Clean(event, 100), ErrNotFound)
	case len(targets) == 0:
		return "", refused{errors.New("the event has no deployment that can be rolled back; certpost deliveries show says why"), ErrNoRollback}
	case len(targets) > 1:
		return "", invalid("the event was deployed to several targets, %s: name one", strings.Join(targets, ", "))
	}
	return targets[0], nil
}
