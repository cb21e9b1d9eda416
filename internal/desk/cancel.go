package desk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certpost/certpost/internal/broker"
)

// Canceller ends the wait of a delivery without a mail. The error is broker.ErrNoEntry if it does
// not wait any more, and broker.ErrInAttempt if its mail may be going out; *queue.Runner implements it.
type Canceller interface {
	Cancel(ctx context.Context, e broker.Entry, order broker.Cancel) error
}

// CancelWith sets what cancels deliveries. It must be called before the desk is used.
func (d *Desk) CancelWith(c Canceller) { d.canceller = c }

// MayCancel returns why this process cannot cancel deliveries; nil if it can. It is asked before an
// operator confirms what is cancelled.
func (d *Desk) MayCancel() error {
	if d.canceller == nil {
		return errors.New("only a running certpost cancels deliveries, because it keeps an attempt from sending them: start `certpost run`")
	}
	return nil
}

// Cancelled is the result of an order to cancel.
type Cancelled struct {
	Done int `json:"done"` // deliveries that are dead letters now
	// InAttempt are those that were being sent when their turn came. They are not cancelled.
	InAttempt int `json:"in_attempt,omitempty"`
}

// Cancel makes dead letters of the selected waiting deliveries, with a reason. Each has a record in
// the audit. An error says how many were cancelled before it.
func (d *Desk) Cancel(ctx context.Context, by broker.Actor, s WaitSelection, reason string) (out Cancelled, err error) {
	if reason, err = broker.CheckReason(reason, true); err != nil {
		return out, err
	}
	if err := d.MayCancel(); err != nil {
		return out, err
	}
	order := broker.Cancel{Actor: by, Reason: reason, At: time.Now().UTC()}
	err = d.eachWaiting(ctx, s, func(entries []broker.Entry) error {
		return d.cancelAll(ctx, entries, order, &out)
	})
	d.CatchUp(ctx)
	switch {
	case err != nil && out.Done > 0:
		return out, fmt.Errorf("%d deliveries were cancelled, then an error: %w", out.Done, err)
	case err != nil:
		return out, err
	case out.Done == 0:
		return out, d.noneCancelled(ctx, s, out.InAttempt)
	}
	d.listeners.notify(Change{Audit: true, Lanes: true, Letters: true})
	return out, nil
}

// noneCancelled is the refusal of an order that cancelled nothing: an attempt sends what was
// selected, or nothing of it waits.
func (d *Desk) noneCancelled(ctx context.Context, s WaitSelection, inAttempt int) error {
	name, one := s.one()
	if inAttempt == 0 && one { // what is sent at this moment is not among those that wait
		if detail, err := d.Delivery(ctx, name.Target, name.Event); err == nil && detail.State == broker.StateSending {
			inAttempt = 1
		}
	}
	switch {
	case inAttempt == 0:
		return d.noneWaits(ctx, s)
	case one:
		return refused{fmt.Errorf("event %s to %s was not cancelled, because %w", name.Event, name.Target, broker.ErrInAttempt), ErrNothingWaits}
	}
	return refused{fmt.Errorf("none of %d deliveries was cancelled, because %w", inAttempt, broker.ErrInAttempt), ErrNothingWaits}
}

// cancelAll cancels deliveries, several at a time, and begins no more after an error.
func (d *Desk) cancelAll(ctx context.Context, entries []broker.Entry, order broker.Cancel, out *Cancelled) error {
	results := make([]error, len(entries))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(actsAtOnce)
	begun := 0
	for ; begun < len(entries) && ctx.Err() == nil; begun++ {
		i := begun
		group.Go(func() error {
			results[i] = d.canceller.Cancel(ctx, entries[i], order)
			if errors.Is(results[i], broker.ErrNoEntry) || errors.Is(results[i], broker.ErrInAttempt) {
				return nil
			}
			return results[i]
		})
	}
	err := group.Wait()
	for _, result := range results[:begun] {
		switch {
		case result == nil:
			out.Done++
		case errors.Is(result, broker.ErrInAttempt):
			out.InAttempt++
		}
	}
	if err == nil && begun < len(entries) {
		err = ctx.Err() // the caller's: the group's ends with an error of its own
	}
	return err
}
