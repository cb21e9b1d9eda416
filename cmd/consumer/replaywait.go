package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
)

// waitForLetters is how long --wait waits for letters given by number, unless --timeout says it.
const waitForLetters = 5 * time.Minute

// awaited are letters whose replay is waited for, by number.
type awaited struct {
	before map[uint64]desk.WholeLetter // as they were before the replay
	force  bool                        // a delivery that was sent before is sent again
	limit  time.Duration
}

// readBefore reads the letters before they are replayed.
func (w *awaited) readBefore(ctx context.Context, c *client, numbers []uint64) error {
	w.before = map[uint64]desk.WholeLetter{}
	for _, number := range desk.Once(numbers) {
		letter, err := ask[desk.WholeLetter](ctx, c, "dead.show", service.NumberRequest{Number: number})
		if err != nil {
			return err
		}
		w.before[number] = letter
	}
	return nil
}

// wait waits until the outcome of each replayed letter is known, and puts it into the results:
// an error is what was not delivered.
func (w *awaited) wait(a *app, c *client, results []service.LetterResult) error {
	ctx, cancel := context.WithTimeout(a.ctx, cmp.Or(w.limit, waitForLetters))
	defer cancel()
	bar := a.bar()
	defer bar.end()
	for i := range results {
		r := &results[i]
		if r.Error != "" {
			continue
		}
		if r.Target == "" {
			r.Done += "; an event without a target: certpost deliveries list --event " + shellWord(printable(r.Event)) + " shows what becomes of it"
			continue
		}
		bar.show(i, len(results), "settled")
		if err := w.follow(ctx, c, r); err != nil {
			return err
		}
	}
	if a.ctx.Err() != nil {
		return errors.New("interrupted; the replays go on without this command")
	}
	return nil
}

// follow waits until the outcome of one letter's replay is known, or the time is over.
func (w *awaited) follow(ctx context.Context, c *client, r *service.LetterResult) error {
	for waits := ""; ; {
		over, reason, err := w.settled(ctx, c, r)
		switch {
		case ctx.Err() != nil:
			why := "not settled within the time limit"
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				why = "not settled when the command was interrupted"
			}
			r.Done, r.Error = "", fmt.Sprintf("%s%s; it goes on: certpost deliveries show %s %s", why, waits, shellWord(printable(r.Event)), r.Target)
			return nil
		case err != nil || over:
			return err
		}
		waits = reason
		select {
		case <-ctx.Done():
		case <-time.After(followEvery):
		}
	}
}

// settled reports whether the outcome of a letter's replay is known, and puts it into the
// result. Until then it returns what the delivery waits for, in brackets.
func (w *awaited) settled(ctx context.Context, c *client, r *service.LetterResult) (over bool, waits string, err error) {
	one, err := ask[desk.DeliveryDetail](ctx, c, "deliveries.show", service.DeliveryRequest{Target: r.Target, Event: r.Event})
	if refused := (*service.Refusal)(nil); errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return false, "", nil // the ledger has no entry before the first attempt
	}
	if err != nil {
		return false, "", err
	}
	before := w.before[r.Number]
	switch again := one.Generation > before.Generation; {
	case one.State == broker.StateSent && (again || !w.force):
		r.Done = "delivered"
		if !again {
			r.Done = "delivered before, nothing was sent now"
		}
		if missing := one.Missing(); len(missing) > 0 {
			r.Done += " to " + strings.Join(one.Accepted, ", ") + ", not to " + strings.Join(missing, ", ")
		}
		return true, "", nil
	case again && one.State == broker.StateDead && one.Failure != nil:
		r.Done, r.Error = "", fmt.Sprintf("dead again: %s: %s", one.Failure.Code, one.Failure.Reason)
		return true, "", nil
	case again && (one.State == broker.StateSkipped || one.State == broker.StateDiscarded || one.State == broker.StateDead):
		r.Done, r.Error = "", "not delivered: "+string(one.State)
		return true, "", nil
	case one.Wait != nil:
		waits = fmt.Sprintf(" (waits: %s; next try %s)", one.Wait.Reason, cmp.Or(nextTry(*one.Wait), "not known"))
	}
	return false, waits, nil
}
