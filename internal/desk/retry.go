package desk

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/legible"
)

// ErrNothingWaits is the refusal to retry or cancel deliveries of which none waits.
var ErrNothingWaits = errors.New("no such delivery waits")

var errNoneWaits = refused{errors.New("nothing that waits matches: it may have been delivered, or be in work; certpost deliveries list shows its state"), ErrNothingWaits}

// Retried is the result of an order to retry now.
type Retried struct {
	Done int `json:"done"` // deliveries that the lanes take next
	// Blocked are those in lanes that deliver nothing: a retry would wait just the same. By lane.
	Blocked []BlockedLane `json:"blocked,omitempty"`
}

// BlockedLane is a lane that delivers nothing, with the deliveries that were not retried for that.
type BlockedLane struct {
	Lane       string `json:"lane"`
	Deliveries int    `json:"deliveries"`
	Reason     string `json:"reason"`
}

// String is the sentence for people.
func (l BlockedLane) String() string {
	what, verb := "deliveries", "wait"
	if l.Deliveries == 1 {
		what, verb = "delivery", "waits"
	}
	return fmt.Sprintf("%d %s still %s for %s", l.Deliveries, what, verb, l.Reason)
}

// RetryNow ends the wait of the waiting deliveries that are selected: they are tried next, whatever
// delay their last failure has brought them. Each has a record in the audit, written before.
// Deliveries in lanes that deliver nothing are left as they are.
func (d *Desk) RetryNow(ctx context.Context, by broker.Actor, s WaitSelection, reason string) (out Retried, err error) {
	if reason, err = broker.CheckReason(reason, false); err != nil {
		return out, err
	}
	lanes, err := d.lanes(ctx)
	if err != nil {
		return out, err
	}
	byName := map[string]broker.LaneInfo{}
	for _, l := range lanes {
		byName[l.Lane] = l
	}
	err = d.eachWaiting(ctx, s, func(entries []broker.Entry) error { // copies come behind the newest, so no page has them
		var ready []broker.Entry
		for _, e := range entries {
			if l, known := byName[e.Lane]; known && !fetches(l) {
				out.block(e)
			} else {
				ready = append(ready, e)
			}
		}
		n, err := d.retryAll(ctx, by, ready, reason)
		out.Done += n
		return err
	})
	if err != nil {
		return out, err
	}
	if out.Done == 0 && len(out.Blocked) == 0 {
		return out, d.noneWaits(ctx, s)
	}
	d.listeners.notify(Change{Audit: true, Lanes: true})
	return out, nil
}

func (r *Retried) block(e broker.Entry) {
	i := slices.IndexFunc(r.Blocked, func(l BlockedLane) bool { return l.Lane == e.Lane })
	if i < 0 {
		i, r.Blocked = len(r.Blocked), append(r.Blocked, BlockedLane{Lane: e.Lane, Reason: legible.Clean(e.Wait.Reason, 300)})
	}
	r.Blocked[i].Deliveries++
}

// retryAll retries deliveries, the oldest first. It returns how many there were left to retry.
func (d *Desk) retryAll(ctx context.Context, by broker.Actor, newestFirst []broker.Entry, reason string) (n int, err error) {
	for part := range slices.Chunk(slices.Collect(backward(newestFirst)), retriedAtOnce) {
		records := make([]broker.AuditRecord, len(part))
		for i, e := range part {
			records[i] = broker.AuditRecord{Action: broker.ActionRetried, Actor: by, Reason: reason, Event: e.Event, Target: e.Target, Lane: e.Lane, Delivery: e.Sequence}
		}
		if err := d.b.Append(ctx, records...); err != nil {
			return n, fmt.Errorf("the audit has no record of the order, so it was not carried out: %w", err)
		}
		for _, e := range part {
			switch err := d.b.RetryNow(ctx, e); {
			case errors.Is(err, broker.ErrNoEntry): // settled meanwhile
			case err != nil:
				return n, err
			default:
				n++
			}
		}
	}
	return n, nil
}

// retriedAtOnce is the number of deliveries that are recorded in the audit together.
const retriedAtOnce = 50

// backward yields the elements from the last to the first.
func backward[E any](s []E) func(func(E) bool) {
	return func(yield func(E) bool) {
		for _, e := range slices.Backward(s) {
			if !yield(e) {
				return
			}
		}
	}
}
