package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// Selection is the letters of an order: some by number, which are processed one after the
// other, or all that match a filter when the order arrives.
type Selection struct {
	Caller
	Filtered
	Numbers    []uint64 `json:"numbers,omitempty"`
	All        bool     `json:"all,omitempty"` // all open letters; without a filter
	Superseded bool     `json:"with_superseded,omitempty"`
	Hash       string   `json:"hash,omitempty"` // of a dry run: refuse the order if it selects other letters now
	Size       int      `json:"size,omitempty"` // with a filter or all: only this many letters, the lowest numbers first; 0: all
	DryRun     bool     `json:"dry_run,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	Act        string   `json:"act,omitempty"` // an id that the client chooses, or that of an earlier part's answer: the audit lists the parts of one order, with one id, as one
}

// MaxNumbered is the maximum number of letters in an order by number.
const MaxNumbered = 100

func (o Selection) check() error {
	switch filter := len(o.Filter) > 0; {
	case len(o.Numbers) > 0 && (filter || o.All), filter && o.All:
		return badRequest("give one of numbers, filter and all")
	case len(o.Numbers) == 0 && !filter && !o.All:
		return badRequest("no letters are selected: give numbers, a filter, or all")
	case len(o.Numbers) > MaxNumbered:
		return badRequest("%d numbers are too many, the maximum is %d: give a filter", len(o.Numbers), MaxNumbered)
	case len(o.Numbers) > 0 && (o.Hash != "" || o.Size != 0):
		return badRequest("hash and size require a filter, or all")
	case o.Size < 0:
		return badRequest("invalid size %d: want a number above 0", o.Size)
	case filter:
		q, err := desk.LetterConditions.ParseFilter(o.Filter)
		if err != nil {
			return err
		}
		if desk.LetterConditions.SelectsAll(q) {
			return badRequest("the filter leaves no letter out: give all instead")
		}
	}
	if _, err := broker.CheckReason(o.Reason, false); err != nil {
		return err
	}
	if err := desk.CheckAct(o.Act); err != nil {
		return err
	}
	return o.Caller.check()
}

// part returns the actor of an act on several letters that is done one by one.
func (o Selection) part() broker.Actor {
	by := o.actor()
	if by.Act = o.Act; by.Act == "" && len(o.Numbers) > 1 {
		by.Act = desk.NewAct()
	}
	return by
}

// LetterResult is the result of an order for one letter.
type LetterResult struct {
	Number    uint64 `json:"number"`
	Event     string `json:"event"`
	Target    string `json:"target,omitempty"`
	Done      string `json:"done,omitempty"`
	NewNumber uint64 `json:"new_number,omitempty"` // of a restored letter
	Error     string `json:"error,omitempty"`
}

// OrderAnswer is the result of an order. By number: Letters. By filter: Frozen describes
// the letters; a replay starts a Run, for other actions Done is the number of letters.
type OrderAnswer struct {
	Letters []LetterResult `json:"letters,omitempty"`
	Frozen  *desk.Frozen   `json:"frozen,omitempty"`
	// Contents are the causes, targets, recipients and names of the letters of a dry run by filter.
	Contents *desk.Contents `json:"contents,omitempty"`
	DryRun   bool           `json:"dry_run,omitempty"`
	Run      *desk.Run      `json:"run,omitempty"`
	Done     int            `json:"done"`
	Act      string         `json:"act,omitempty"`  // the id of an act on many letters, in the audit
	Rest     *desk.Frozen   `json:"rest,omitempty"` // of an order with a size: the remaining letters; its hash and filter select them in the next order
}

// each acts on letters given by number. All numbers are checked first: if one is not an
// open letter, nothing is done. ended allows letters that are not open.
func (c *API) each(ctx context.Context, o Selection, ended bool, do func(desk.Detail) (LetterResult, error)) (a OrderAnswer, err error) {
	var letters []desk.Detail
	for _, n := range desk.Once(o.Numbers) {
		d, err := c.desk.Letter(ctx, n)
		switch {
		case err != nil:
			return a, err
		case !ended && d.Status != desk.Open:
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
		out.Number, out.Event, out.Target = d.Sequence, d.DeadLetter.Event, cmp.Or(out.Target, d.Target)
		if err != nil {
			out.Error = err.Error()
		} else if !o.DryRun {
			a.Done++
		}
		a.Letters = append(a.Letters, out)
	}
	return a, nil
}

// frozen selects the letters that match a filter. With the hash of a dry run it stands for
// the letters of that dry run, and the desk reports whether they can still be selected.
func (c *API) frozen(o Selection, purpose desk.Purpose) (desk.Frozen, error) {
	q, err := desk.LetterConditions.ParseFilter(o.Filter)
	if err != nil {
		return desk.Frozen{}, err
	}
	if err := desk.CheckState(purpose, &q); err != nil {
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

// prepare validates an order and waits until the index is current.
func (c *API) prepare(ctx context.Context, o Selection) error {
	if err := o.check(); err != nil {
		return err
	}
	return c.current(ctx)
}

// ErrForRun is the refusal to replay letters by number with what only a run has.
var ErrForRun = badRequest("canary and rate require a filter, or all: letters given by number are replayed at once")

type ReplayOrder struct {
	Selection
	Uncertain bool         `json:"may_have_been_sent,omitempty"` // include letters that may have been sent
	Force     bool         `json:"force,omitempty"`              // send again even if already delivered
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
				err = fmt.Errorf("%w; %s, then replay it with --may-have-been-sent (may_have_been_sent in requests)", err, lookFor(d.MessageID))
			}
			if to := d.RedirectedTo; to != "" {
				return LetterResult{Target: to, Done: "redirected to " + to + " and published for it"}, err
			}
			return LetterResult{Done: "published again to " + d.ReplaySubject}, err
		})
	}
	if o.Size != 0 {
		return OrderAnswer{}, badRequest("leave out size: a replay of all letters that match is one run")
	}
	f, err := c.frozen(o.Selection, desk.ForReplay)
	if err != nil || o.DryRun || f.Count == 0 && o.Hash == "" {
		return c.dry(ctx, f, o.DryRun), err
	}
	run, err := c.desk.StartRun(ctx, o.actor(), desk.RunSpec{Frozen: f, Rate: o.Rate, Canary: o.Canary, Uncertain: o.Uncertain, Force: o.Force, Reason: o.Reason})
	if errors.Is(err, desk.ErrUncertain) {
		err = fmt.Errorf("%w; look for the Message-IDs of `certpost dead-letters list --certainty may-have-been-sent -o csv` first, then add --may-have-been-sent (may_have_been_sent in requests)", err)
	}
	return OrderAnswer{Frozen: &f, Run: &run}, err
}

// dry is the answer to an order by filter that does nothing.
func (c *API) dry(ctx context.Context, f desk.Frozen, dryRun bool) OrderAnswer {
	a := OrderAnswer{Frozen: &f, DryRun: dryRun}
	if dryRun && f.Count > 0 {
		contents := c.desk.Contents(ctx, f)
		a.Contents = &contents
	}
	return a
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

// many does one action to the selected letters.
func (c *API) many(ctx context.Context, o Selection, purpose desk.Purpose, reasoned bool, done string, do func(context.Context, broker.Actor, desk.Frozen, string) (int, error)) (OrderAnswer, error) {
	if _, err := broker.CheckReason(o.Reason, reasoned); err != nil {
		return OrderAnswer{}, err
	}
	if err := c.prepare(ctx, o); err != nil {
		return OrderAnswer{}, err
	}
	if len(o.Numbers) > 0 {
		by := o.part()
		a, err := c.each(ctx, o, false, func(d desk.Detail) (LetterResult, error) {
			return LetterResult{Done: done}, c.desk.ActOn(ctx, by, d.Sequence, purpose, o.Reason)
		})
		return c.recorded(ctx, a, by, purpose, o.Reason), err
	}
	f, err := c.frozen(o, purpose)
	if err != nil || o.DryRun || f.Count == 0 && o.Hash == "" {
		return c.dry(ctx, f, o.DryRun), err
	}
	f.Act = cmp.Or(o.Act, desk.NewAct())
	a := OrderAnswer{Frozen: &f, Act: f.Act}
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
		return c.many(ctx, o, desk.ForRestore, false, "restored", c.desk.RestoreAll)
	}
	by := o.part()
	a, err := c.each(ctx, o, true, func(d desk.Detail) (LetterResult, error) {
		n, err := c.desk.Restore(ctx, by, d.Sequence, o.Reason)
		return LetterResult{Done: fmt.Sprintf("on the list again as number %d", n), NewNumber: n}, err
	})
	return c.recorded(ctx, a, by, desk.ForRestore, o.Reason), err
}

// recorded records the act as a whole that several letters were part of, one by one.
func (c *API) recorded(ctx context.Context, a OrderAnswer, by broker.Actor, purpose desk.Purpose, reason string) OrderAnswer {
	if by.Act == "" || a.Done == 0 {
		return a
	}
	var done []uint64
	for _, l := range a.Letters {
		if l.Error == "" {
			done = append(done, l.Number)
		}
	}
	a.Act = by.Act
	c.desk.RecordAct(ctx, by, purpose, reason, desk.Query{}, true, done)
	return a
}

// Freeze limits an order to the letters of its dry run.
func (o *Selection) Freeze(f *desk.Frozen) {
	o.Hash = f.Hash
	if o.Filter == nil {
		o.Filter = map[string]string{}
	}
	o.Filter["as_of"], o.All = fmt.Sprint(f.AsOf), false
}
