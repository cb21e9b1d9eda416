package main

import (
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
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
	// the target's own; *@example.com allows all addresses of that domain, but none with @, %,
	// !, : or quotes before the @, which relays read as routes. Default: none.
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

// rules are what the desk is told of it, with the courier's own rule.
func (e *EditConfig) rules() desk.EditRules {
	return desk.EditRules{Enabled: e.Enabled, Targets: e.Targets, Recipients: e.Recipients, Allows: e.recipients().Allows}
}

type lettersEditCmd struct {
	Number          uint64   `arg:"" help:"Number of the letter."`
	Target          string   `help:"Deliver to this target instead." placeholder:"ID"`
	To              []string `help:"Send only to these addresses (repeatable)." placeholder:"ADDRESS"`
	MayHaveBeenSent bool     `help:"Also if it may have been sent already."`
	Reason          string   `help:"Why (kept in the audit)." required:""`
	Output          string   `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read.
func (c *lettersEditCmd) Validate() error {
	if c.Target == "" && len(c.To) == 0 {
		return desk.ErrNoEdit
	}
	return reasoned(c.Reason, true)
}

func (c *lettersEditCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	answer, err := give[service.OrderAnswer](a, counter, "dead.edit",
		service.EditOrder{Caller: me(), Number: c.Number, Target: c.Target, Recipients: c.To, Uncertain: c.MayHaveBeenSent, Reason: c.Reason})
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.json(answer)
	}
	a.printOrder(answer, "replayed")
	return nil
}
