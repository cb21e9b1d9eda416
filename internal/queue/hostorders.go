package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// Host does on a mail host what operators order through other processes.
//
// RollBack puts the files back that a deployment replaced; the receipt is about the certificate that is back. Plan says what a deployment of an event to a
// target would do, and changes nothing.
type Host interface {
	RollBack(ctx context.Context, what verdict.Deployed) (*verdict.Receipt, *verdict.Failure)
	Plan(ctx context.Context, ev *events.Event, target string) []verdict.Finding
}

// serveHost takes the orders for the mail host that this process runs on.
func (r *Runner) serveHost(ctx context.Context) {
	if r.set.HostLane == "" {
		return
	}
	if err := r.ServeHost(ctx, r.set.HostLane, r.hostOrder); err != nil {
		r.log.Error().Err(err).Str("lane", r.set.HostLane).Msg("orders for this mail host cannot be taken; deployments go on")
	}
}

func (r *Runner) hostOrder(ctx context.Context, order broker.HostOrder) broker.HostAnswer {
	switch order.Order {
	case broker.OrderRollback:
		return r.rollBackOrdered(ctx, order)
	case broker.OrderPlan:
		ev, err := events.Decode(nil, order.Body)
		if err != nil {
			return refusedOrder(invalid(err))
		}
		return broker.HostAnswer{Findings: r.set.Host.Plan(ctx, ev, order.Target)}
	}
	return refusedOrder(verdict.Fail(verdict.TargetInvalid, verdict.PhaseDecode, "this version does not know the order: run the same version on all hosts"))
}

func refusedOrder(f *verdict.Failure) broker.HostAnswer {
	return broker.HostAnswer{Failure: &f.Outcome}
}

// rollBackOrdered rolls a deployment back and records that with its receipt.
func (r *Runner) rollBackOrdered(ctx context.Context, order broker.HostOrder) broker.HostAnswer {
	key := broker.LedgerKey(order.Target, events.Token(order.Event))
	entry, revision, err := r.ledger.Get(ctx, key)
	if err != nil {
		return refusedOrder(verdict.Fail(verdict.TargetInvalid, verdict.PhaseResolve, "the delivery cannot be read in the ledger: "+err.Error()))
	}
	if entry.State != broker.StateSent || entry.Receipt == nil || !entry.Receipt.OnHost() || entry.Certificate == nil {
		return refusedOrder(verdict.Fail(verdict.TargetInvalid, verdict.PhaseResolve, fmt.Sprintf("the delivery is %s, and no deployment that can be rolled back", entry.State)))
	}
	receipt, failure := r.set.Host.RollBack(ctx, verdict.Deployed{
		Target: order.Target, Event: entry.Event, Fingerprint: entry.Certificate.Fingerprint, Published: verdict.Publication{Sequence: entry.EventSequence},
	})
	if failure != nil {
		r.log.Error().Str("target", order.Target).Str("event", order.Event).Str("by", order.By).Str("code", string(failure.Code)).Str("reason", failure.Reason).Msg("a deployment could not be rolled back")
		return refusedOrder(failure)
	}
	r.log.Warn().Str("target", order.Target).Str("event", order.Event).Str("by", order.By).Str("reason", order.Reason).Msg("rolled a deployment back")
	if err := r.recordRollback(ctx, key, entry, revision, order, receipt.Certificate); err != nil {
		receipt.Warnings = append(receipt.Warnings, "the receipt of the delivery does not say so yet: "+err.Error())
	}
	return broker.HostAnswer{Receipt: receipt}
}

// recordRollback adds the rollback to the receipt of the delivery, unless it was delivered again
// meanwhile.
func (r *Runner) recordRollback(ctx context.Context, key string, entry broker.Entry, revision uint64, order broker.HostOrder, back *verdict.Certificate) error {
	ctx, cancel := context.WithTimeout(ctx, leaseMargin)
	defer cancel()
	for {
		changed := *entry.Receipt
		changed.RolledBack = &verdict.RolledBack{At: time.Now().UTC().Truncate(time.Millisecond), By: order.By, Reason: order.Reason, Certificate: back}
		entry.Receipt = &changed
		_, err := r.ledger.Put(ctx, key, entry, revision)
		if !errors.Is(err, broker.ErrClaimLost) {
			return err
		}
		if entry, revision, err = r.ledger.Get(ctx, key); err != nil || entry.Receipt == nil || entry.State != broker.StateSent {
			return errors.Join(err, broker.ErrClaimLost)
		}
	}
}
