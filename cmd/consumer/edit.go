package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/certpost/certpost/internal/dashboard"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/desk"
)

// EditConfig is the section http.edit_and_replay.
type EditConfig struct {
	// Enabled lets an admin change target and recipients of a dead letter before its
	// replay.
	Enabled bool `yaml:"enabled"`
	// Targets are the ids of the targets to which a dead letter may be sent instead of
	// its own target. Default: none.
	Targets []string `yaml:"targets"`
	// Recipients are the addresses to which a dead letter may be sent, in addition to
	// the target's own; *@example.com allows all addresses of that domain. Default: none.
	Recipients []string `yaml:"recipients"`
}

func (e *EditConfig) validate(f *findings) {
	if e.Enabled && len(e.Targets)+len(e.Recipients) == 0 {
		f.err("http.edit_and_replay", "is enabled, and nothing may be changed: give targets or recipients")
	}
	for _, p := range delivery.Recipients(e.Recipients).Validate() {
		f.err("http.edit_and_replay.recipients"+p.Path, p.Message)
	}
}

// recipients are those to whom a replay may go besides the target's own.
func (e *EditConfig) recipients() delivery.Recipients {
	if !e.Enabled {
		return nil
	}
	return e.Recipients
}

// page is what the dashboard is told of it, with the courier's own rule.
func (e *EditConfig) page() *dashboard.Edit {
	return &dashboard.Edit{Targets: e.Targets, Recipients: e.Recipients, Allows: e.recipients().Allows}
}

// errEditing says that something may not be changed of a letter.
var errEditing = errors.New("not allowed by http.edit_and_replay of the running certpost")

// editOrder replays one letter for another target, or to other recipients.
type editOrder struct {
	asker
	Number     uint64   `json:"number"`
	Target     string   `json:"target,omitempty"`     // "" leaves the letter's own
	Recipients []string `json:"recipients,omitempty"` // none: all whom the target names
	Uncertain  bool     `json:"may_have_been_sent,omitempty"`
	Reason     string   `json:"reason"`
}

// editReplay holds to the same lists as the dashboard and, for recipients, to the
// rule of the courier, who asks it once more.
func (c *clerk) editReplay(ctx context.Context, o editOrder) (orderAnswer, error) {
	if !c.edit.Enabled {
		return orderAnswer{}, fmt.Errorf("editing is switched off: %w", errEditing)
	}
	if err := o.check(o.Reason); err != nil {
		return orderAnswer{}, err
	}
	if err := c.current(ctx); err != nil {
		return orderAnswer{}, err
	}
	d, err := c.desk.Letter(ctx, o.Number)
	switch {
	case err != nil:
		return orderAnswer{}, numbered(o.Number, err)
	case d.Fate != desk.Open:
		return orderAnswer{}, gone(d)
	}
	target := d.Target
	if o.Target != "" && o.Target != d.Target {
		if target = o.Target; !slices.Contains(c.edit.Targets, target) {
			return orderAnswer{}, fmt.Errorf("target %q: %w", printable(target), errEditing)
		}
	}
	var own []string
	for _, t := range c.desk.Targets() {
		if t.ID == target {
			own = t.To
		}
	}
	for _, r := range o.Recipients {
		if !c.edit.recipients().Allows(own, r) {
			return orderAnswer{}, fmt.Errorf("recipient %s: %w", printable(r), errEditing)
		}
	}
	if err := c.desk.ReplayEdited(ctx, o.actor(), o.Number, desk.Edit{Target: o.Target, Recipients: o.Recipients}, o.Uncertain, o.Reason); err != nil {
		return orderAnswer{}, numbered(o.Number, err)
	}
	return orderAnswer{Letters: []outcome{{Number: o.Number, Event: d.DeadLetter.Event, Target: target, Done: "published for " + target}}, Done: 1}, nil
}

type lettersEditCmd struct {
	Number          uint64   `arg:"" help:"Number of the letter."`
	Target          string   `help:"Deliver to this target instead." placeholder:"ID"`
	To              []string `help:"Send to these addresses alone (repeatable)." placeholder:"ADDRESS"`
	MayHaveBeenSent bool     `help:"Also if it may have been sent already."`
	Reason          string   `help:"Why (kept in the audit)." required:""`
	Output          string   `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read.
func (c *lettersEditCmd) Validate() error {
	if c.Target == "" && len(c.To) == 0 {
		return errors.New("what is to be different? Give --target, or --to")
	}
	return reasoned(c.Reason)
}

func (c *lettersEditCmd) Run(a *app) error {
	counter, done, err := a.counter()
	if err != nil {
		return err
	}
	defer done()
	answer, err := ask[orderAnswer](a.ctx, counter, "dead.edit",
		editOrder{asker: me(), Number: c.Number, Target: c.Target, Recipients: c.To, Uncertain: c.MayHaveBeenSent, Reason: c.Reason})
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.json(answer)
	}
	a.printOrder(answer, "replayed")
	return nil
}
