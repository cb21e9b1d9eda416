package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// Selection says which letters an order is about: some by number, which are worked on
// one after the other, or all that fit a filter, frozen to exactly those that are
// there when the order comes.
type Selection struct {
	Caller
	Filtered
	Numbers    []uint64 `json:"numbers,omitempty"`
	All        bool     `json:"all,omitempty"` // without a filter
	Superseded bool     `json:"with_superseded,omitempty"`
	Hash       string   `json:"hash,omitempty"` // of a dry run: only if it would be the same letters again
	Size       int      `json:"size,omitempty"` // with a filter: at most so many, those with the lowest numbers; 0: all
	DryRun     bool     `json:"dry_run,omitempty"`
	Reason     string   `json:"reason,omitempty"`
}

// MaxNumbered bounds an order by number.
const MaxNumbered = 100

func (o Selection) check() error {
	switch filter := len(o.Filter) > 0; {
	case len(o.Numbers) > 0 && (filter || o.All), filter && o.All:
		return badRequest("give one of numbers, filter and all")
	case len(o.Numbers) == 0 && !filter && !o.All:
		return badRequest("which ones? Give numbers, a filter, or all")
	case len(o.Numbers) > MaxNumbered:
		return badRequest("%d numbers are more than %d: give a filter", len(o.Numbers), MaxNumbered)
	case len(o.Numbers) > 0 && (o.Hash != "" || o.Size != 0):
		return badRequest("a hash and a size go with a filter, or with all")
	case o.Size < 0:
		return badRequest("a size of %d is none", o.Size)
	}
	return o.Caller.check()
}

// LetterResult is what became of one letter of an order.
type LetterResult struct {
	Number    uint64 `json:"number"`
	Event     string `json:"event"`
	Target    string `json:"target,omitempty"`
	Done      string `json:"done,omitempty"`
	NewNumber uint64 `json:"new_number,omitempty"` // of a restored letter
	Error     string `json:"error,omitempty"`
}

// OrderAnswer is what became of an order. By number: Letters. By filter: Frozen
// says which letters they are; a replay of them is a Run, of others Done counts.
type OrderAnswer struct {
	Letters []LetterResult `json:"letters,omitempty"`
	Frozen  *desk.Frozen   `json:"frozen,omitempty"`
	DryRun  bool           `json:"dry_run,omitempty"`
	Run     *desk.Run      `json:"run,omitempty"`
	Done    int            `json:"done"`
	Rest    *desk.Frozen   `json:"rest,omitempty"` // of an order with a size: for the next one, with its hash and its filter
}

// each does something to every letter of a number. A number that is none of an
// open letter stops all before anything is done.
func (c *API) each(ctx context.Context, o Selection, ended bool, do func(desk.Detail) (LetterResult, error)) (a OrderAnswer, err error) {
	var letters []desk.Detail
	for _, n := range o.Numbers {
		d, err := c.desk.Letter(ctx, n)
		switch {
		case err != nil:
			return a, err
		case !ended && d.Fate != desk.Open:
			return a, desk.Gone(d)
		}
		letters = append(letters, d)
	}
	a = OrderAnswer{Letters: []LetterResult{}, DryRun: o.DryRun}
	for _, d := range letters {
		out := LetterResult{}
		if !o.DryRun {
			out, err = do(d)
		}
		if err != nil && len(letters) == 1 {
			return OrderAnswer{}, err // with its status
		}
		out.Number, out.Event, out.Target = d.Sequence, d.DeadLetter.Event, d.Target
		if err != nil {
			out.Error = err.Error()
		} else if !o.DryRun {
			a.Done++
		}
		a.Letters = append(a.Letters, out)
	}
	return a, nil
}

// frozen nails a filter down. With the hash of a dry run it stands for the letters
// of that, and the desk says whether it can still be those.
func (c *API) frozen(o Selection, purpose desk.Purpose) (desk.Frozen, error) {
	q, err := desk.LetterConditions.ParseFilter(o.Filter)
	if err != nil {
		return desk.Frozen{}, err
	}
	f := c.desk.FreezeFor(purpose, q, nil, o.Superseded)
	if o.Hash != "" && o.Hash != f.Hash {
		if o.DryRun {
			return f, desk.ErrChanged
		}
		f.Hash = o.Hash
	}
	return f, nil
}

// prepare is what all orders begin with.
func (c *API) prepare(ctx context.Context, o Selection) error {
	if err := o.check(); err != nil {
		return err
	}
	return c.current(ctx)
}

// ErrForRun is the refusal to replay letters by number with what only a run has.
var ErrForRun = badRequest("a canary and a rate are for a run: give a filter, or all")

type ReplayOrder struct {
	Selection
	Uncertain bool         `json:"may_have_been_sent,omitempty"` // also those that may have been sent
	Force     bool         `json:"force,omitempty"`              // also what the ledger says was sent
	Rate      verdict.Rate `json:"rate,omitzero"`
	Canary    bool         `json:"canary,omitempty"`
}

func (c *API) replay(ctx context.Context, o ReplayOrder) (OrderAnswer, error) {
	if err := c.prepare(ctx, o.Selection); err != nil {
		return OrderAnswer{}, err
	}
	if len(o.Numbers) > 0 {
		if o.Canary || !o.Rate.IsZero() {
			return OrderAnswer{}, ErrForRun
		}
		return c.each(ctx, o.Selection, false, func(d desk.Detail) (LetterResult, error) {
			err := c.desk.Replay(ctx, o.actor(), d.Sequence, o.Uncertain, o.Force, o.Reason)
			if errors.Is(err, desk.ErrUncertain) {
				err = fmt.Errorf("%w; %s", err, lookFor(d.MessageID))
			}
			return LetterResult{Done: "published again to " + d.ReplaySubject}, err
		})
	}
	if o.Size != 0 {
		return OrderAnswer{}, badRequest("a replay of all that fit is a run, which goes on by itself: leave out the size")
	}
	f, err := c.frozen(o.Selection, desk.ForReplay)
	if err != nil || o.DryRun || f.Count == 0 && o.Hash == "" {
		return OrderAnswer{Frozen: &f, DryRun: o.DryRun}, err
	}
	run, err := c.desk.StartRun(ctx, o.actor(), desk.RunSpec{Frozen: f, Rate: o.Rate, Canary: o.Canary, Uncertain: o.Uncertain, Force: o.Force, Reason: o.Reason})
	if errors.Is(err, desk.ErrUncertain) {
		err = fmt.Errorf("%d of the %d may have been sent: %w", f.Uncertain, f.Count, err)
	}
	return OrderAnswer{Frozen: &f, Run: &run}, err
}

func lookFor(messageID string) string {
	if messageID == "" {
		return "look for the event's id (X-Certpost-Event-Id) at the relay first"
	}
	return "look for its Message-ID " + messageID + " at the relay first"
}

func (c *API) discard(ctx context.Context, o Selection) (OrderAnswer, error) {
	return c.many(ctx, o, desk.ForDiscard, true, "discarded", c.desk.Discard)
}

func (c *API) hold(ctx context.Context, o Selection) (OrderAnswer, error) {
	return c.many(ctx, o, desk.ForHold, true, "held", c.desk.Hold)
}

func (c *API) release(ctx context.Context, o Selection) (OrderAnswer, error) {
	return c.many(ctx, o, desk.ForRelease, false, "released", c.desk.Release)
}

// many does one thing to the letters chosen.
func (c *API) many(ctx context.Context, o Selection, purpose desk.Purpose, reasoned bool, done string, do func(context.Context, broker.Actor, desk.Frozen, string) (int, error)) (OrderAnswer, error) {
	if _, err := broker.CheckReason(o.Reason, reasoned); err != nil {
		return OrderAnswer{}, err
	}
	if err := c.prepare(ctx, o); err != nil {
		return OrderAnswer{}, err
	}
	if len(o.Numbers) > 0 {
		return c.each(ctx, o, false, func(d desk.Detail) (LetterResult, error) {
			return LetterResult{Done: done}, c.desk.ActOn(ctx, o.actor(), d.Sequence, purpose, o.Reason)
		})
	}
	f, err := c.frozen(o, purpose)
	if err != nil || o.DryRun || f.Count == 0 && o.Hash == "" {
		return OrderAnswer{Frozen: &f, DryRun: o.DryRun}, err
	}
	a := OrderAnswer{Frozen: &f}
	part := f
	if o.Size != 0 {
		a.Rest = new(desk.Frozen)
		if part, *a.Rest, err = c.desk.Part(f, o.Size); err != nil {
			return a, err
		}
	}
	a.Done, err = do(ctx, o.actor(), part, o.Reason)
	return a, err
}

func (c *API) restore(ctx context.Context, o Selection) (OrderAnswer, error) {
	if err := c.prepare(ctx, o); err != nil {
		return OrderAnswer{}, err
	}
	if len(o.Numbers) == 0 {
		return OrderAnswer{}, badRequest("restoring is by number: a filter finds open letters alone")
	}
	return c.each(ctx, o, true, func(d desk.Detail) (LetterResult, error) {
		n, err := c.desk.Restore(ctx, o.actor(), d.Sequence, o.Reason)
		return LetterResult{Done: fmt.Sprintf("on the list again as number %d", n), NewNumber: n}, err
	})
}

// Freeze narrows an order to the letters of its dry run.
func (o *Selection) Freeze(f *desk.Frozen) {
	o.Hash = f.Hash
	if o.Filter == nil {
		o.Filter = map[string]string{}
	}
	o.Filter["as_of"], o.All = fmt.Sprint(f.AsOf), false
}
