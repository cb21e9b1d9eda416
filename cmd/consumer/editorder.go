package main

import (
	"context"

	"github.com/certpost/certpost/internal/desk"
)

// editOrder replays one letter for another target, or to other recipients.
type editOrder struct {
	asker
	Number     uint64   `json:"number"`
	Target     string   `json:"target,omitempty"`     // "" leaves the letter's own
	Recipients []string `json:"recipients,omitempty"` // none: all whom the target names
	Uncertain  bool     `json:"may_have_been_sent,omitempty"`
	Reason     string   `json:"reason"`
}

func (c *API) editReplay(ctx context.Context, o editOrder) (orderAnswer, error) {
	if err := o.check(); err != nil {
		return orderAnswer{}, err
	}
	if err := c.current(ctx); err != nil {
		return orderAnswer{}, err
	}
	d, err := c.desk.Letter(ctx, o.Number)
	if err != nil {
		return orderAnswer{}, err
	}
	if err := c.desk.ReplayEdited(ctx, o.actor(), o.Number, desk.Edit{Target: o.Target, Recipients: o.Recipients}, o.Uncertain, o.Reason); err != nil {
		return orderAnswer{}, err
	}
	target := d.Target
	if o.Target != "" {
		target = o.Target
	}
	return orderAnswer{Letters: []letterResult{{Number: o.Number, Event: d.DeadLetter.Event, Target: target, Done: "published for " + target}}, Done: 1}, nil
}
