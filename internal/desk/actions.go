package desk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/certpost/certpost/internal/broker"
)

// actsAtOnce is the number of letters that are acted on at a time: their records share one
// flush to disk.
const actsAtOnce = 16

// Replay publishes one letter again. The error is a *Conflict if another action came first,
// ErrHeld, ErrUncertain if its mail may have been sent and uncertain is false, or
// ErrNotFound if there is no record of the letter.
func (d *Desk) Replay(ctx context.Context, by broker.Actor, number uint64, uncertain, force bool, reason string) error {
	letter, err := d.b.DeadLetter(ctx, number)
	if err != nil {
		d.CatchUp(ctx) // another action came first: read its record
		return d.refusal(number, err)
	}
	return d.replay(ctx, by, letter, broker.Replay{Uncertain: uncertain, Force: force, Reason: reason})
}

// replay publishes one letter again, as it is or edited.
func (d *Desk) replay(ctx context.Context, by broker.Actor, letter broker.DeadLetter, how broker.Replay) error {
	d.redirect(letter, &how)
	err := d.b.Replay(ctx, letter, by, how)
	if err == nil {
		d.off(letter.Sequence)
	}
	d.CatchUp(ctx)
	return d.refusal(letter.Sequence, err)
}

// Discard takes letters off the list, with a reason; the audit keeps each whole, so that it
// can be restored. done is the number of discarded letters. Letters that are held, or on
// which another action came first, are skipped; they cause an error only if no letter was
// discarded.
func (d *Desk) Discard(ctx context.Context, by broker.Actor, frozen Frozen, reason string) (done int, err error) {
	if reason, err = broker.CheckReason(reason, true); err != nil {
		return 0, err
	}
	return d.eachOf(ctx, by, frozen, ForDiscard, reason, func(ctx context.Context, by broker.Actor, number uint64) error {
		letter, err := d.b.DeadLetter(ctx, number)
		if err != nil {
			return err
		}
		if err = d.b.Discard(ctx, letter, by, reason); err == nil {
			d.off(number)
		}
		return err
	})
}

// off removes from the index a letter that this process has taken off the list; the next
// look at the stream would do it later.
func (d *Desk) off(number uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.letters.gone(number)
}

// Hold keeps letters from being replayed and discarded until they are released.
func (d *Desk) Hold(ctx context.Context, by broker.Actor, frozen Frozen, reason string) (done int, err error) {
	if reason, err = broker.CheckReason(reason, true); err != nil {
		return 0, err
	}
	return d.eachOf(ctx, by, frozen, ForHold, reason, func(ctx context.Context, by broker.Actor, number uint64) error {
		letter, err := d.b.DeadLetter(ctx, number)
		if err != nil {
			return err
		}
		hold, err := d.b.Hold(ctx, letter, by, reason)
		if err == nil {
			d.setHold(number, &hold)
		}
		return err
	})
}

// Release ends holds.
func (d *Desk) Release(ctx context.Context, by broker.Actor, frozen Frozen, reason string) (done int, err error) {
	if reason, err = broker.CheckReason(reason, false); err != nil {
		return 0, err
	}
	return d.eachOf(ctx, by, frozen, ForRelease, reason, func(ctx context.Context, by broker.Actor, number uint64) error {
		err := d.b.Release(ctx, number, by, reason)
		if err == nil {
			d.setHold(number, nil)
		}
		return err
	})
}

// setHold sets a letter's hold in the index before the bucket's watch reports it.
func (d *Desk) setHold(number uint64, hold *broker.Hold) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if delete(d.runs.holds, number); hold != nil {
		d.runs.holds[number] = *hold
	}
	if l := d.letters.find(number); l != nil {
		d.letters.alter(l, func() { l.hold = hold })
	}
}

// ActOn discards, holds or releases one letter. The error is the reason why that was not
// possible.
func (d *Desk) ActOn(ctx context.Context, by broker.Actor, number uint64, purpose Purpose, reason string) error {
	many := map[Purpose]func(context.Context, broker.Actor, Frozen, string) (int, error){
		ForDiscard: d.Discard, ForHold: d.Hold, ForRelease: d.Release,
	}[purpose]
	if many == nil {
		return fmt.Errorf("%q is not an action on one letter", purpose)
	}
	done, err := many(ctx, by, d.FreezeFor(purpose, Query{}, []uint64{number}, true), reason)
	if err == nil && done == 0 {
		err = d.whyNot(ctx, number)
	}
	return err
}

// eachOf acts on the letters of a frozen query, several at a time, and starts no more after
// one has failed. If it is an act on many letters, the audit gets a record of the whole; a caller
// that acts on them one by one has given by the act's id, and records the whole itself (RecordAct).
func (d *Desk) eachOf(ctx context.Context, by broker.Actor, frozen Frozen, purpose Purpose, reason string, act func(context.Context, broker.Actor, uint64) error) (done int, err error) {
	now, set, err := d.resolve(frozen, purpose)
	if err != nil {
		return 0, err
	}
	whole := by.Act == "" && (len(set) > 1 || frozen.Act != "")
	if whole {
		by.Act = cmp.Or(frozen.Act, NewAct())
	}
	results := make([]error, len(set))
	var group errgroup.Group
	group.SetLimit(actsAtOnce)
	var failed atomic.Bool
	begun := 0
	for ; begun < len(set) && ctx.Err() == nil && !failed.Load(); begun++ {
		i := begun
		group.Go(func() error {
			if results[i] = act(ctx, by, set[i]); results[i] != nil && !skipped(results[i]) {
				failed.Store(true) // the others will most likely fail too: NATS is unavailable
			}
			return nil
		})
	}
	_ = group.Wait() // each has its own result
	refused := -1
	var acted []uint64
	for i, result := range results[:begun] {
		switch {
		case result == nil:
			done++
			acted = append(acted, set[i])
		case skipped(result):
			refused = i
		default:
			err = cmp.Or(err, d.refusal(set[i], result)) // the others most likely have the same cause
		}
	}
	if whole {
		d.RecordAct(ctx, by, purpose, reason, now.Query, frozen.Named || frozen.Only != nil, acted)
	}
	d.CatchUp(ctx)
	if err = cmp.Or(err, ctx.Err()); err != nil && len(set) > 1 {
		err = fmt.Errorf("%d of %d letters were done, then an error: %w", done, len(set), err)
	}
	if done == 0 && err == nil && refused >= 0 {
		err = d.refusal(set[refused], results[refused])
	}
	return done, err
}

// skipped reports whether the action does not apply to the letter any more: it is held, not
// held, gone, or another action has claimed it.
func skipped(err error) bool {
	var taken *broker.Taken
	var held *broker.Held
	return errors.As(err, &taken) || errors.As(err, &held) || slices.ContainsFunc([]error{broker.ErrNoLetter, broker.ErrNotHeld, broker.ErrNotDiscarded, broker.ErrNewerLetter, broker.ErrTooLarge},
		func(known error) bool { return errors.Is(err, known) })
}

// Restore puts a discarded letter on the list again and returns its new number. The error
// is a *Conflict if it is restored already, and ErrNotFound if the number is not a discarded
// letter's.
func (d *Desk) Restore(ctx context.Context, by broker.Actor, number uint64, reason string) (newNumber uint64, err error) {
	record, err := d.endOf(ctx, number)
	if err == nil {
		newNumber, err = d.b.Restore(ctx, record, by, reason)
	}
	d.CatchUp(ctx)
	if errors.Is(err, broker.ErrNotDiscarded) {
		if _, unknown := d.Letter(ctx, number); unknown != nil { // there is none: other acts say so too
			return 0, unknown
		}
		return 0, refused{err, ErrNotFound}
	}
	return newNumber, d.refusal(number, err)
}

// endOf reads the whole record of a discarded letter.
func (d *Desk) endOf(ctx context.Context, number uint64) (broker.AuditRecord, error) {
	d.mu.RLock()
	record, known := d.history.ended(number)
	d.mu.RUnlock()
	if !known || record.Action != broker.ActionDiscarded {
		return d.b.Discarded(ctx, number) // older than the index, or newer than its last look
	}
	return d.b.RecordAt(ctx, record.Sequence)
}

// refusal converts an error of the broker to the desk's.
func (d *Desk) refusal(number uint64, err error) error {
	var taken *broker.Taken
	var held *broker.Held
	switch {
	case err == nil:
		return nil
	case errors.As(err, &taken):
		return &Conflict{number, taken.Record}
	case errors.As(err, &held):
		return refused{held, ErrHeld}
	case errors.Is(err, broker.ErrUncertain):
		return fmt.Errorf("dead letter %d: %w", number, ErrUncertain)
	case errors.Is(err, broker.ErrNoLetter):
		d.mu.RLock()
		end, known := d.history.ended(number)
		d.mu.RUnlock()
		if known {
			return &Conflict{number, end}
		}
		return notFound(number)
	}
	return err
}
