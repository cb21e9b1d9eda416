package service

import (
	"context"

	"github.com/certpost/certpost/internal/desk"
)

// EditOrder is the request to replay one letter for another target, or to other recipients.
type EditOrder struct {
	Caller
	Number     uint64   `json:"number"`
	Target     string   `json:"target,omitempty"`     // "": the letter's own
	Recipients []string `json:"recipients,omitempty"` // none: the target's recipients
	Uncertain  bool     `json:"may_have_been_sent,omitempty"`
	Reason     string   `json:"reason"`
}

func (c *API) editReplay(ctx context.Context, o EditOrder) (OrderAnswer, error) {
	if err := o.check(); err != nil {
		return OrderAnswer{}, err
	}
	if err := c.current(ctx); err != nil {
		return OrderAnswer{}, err
	}
	d, err := c.desk.Letter(ctx, o.Number)
	if err != nil {
		return OrderAnswer{}, err
	}
	if err := c.desk.ReplayEdited(ctx, o.actor(), o.Number, desk.Edit{Target: o.Target, Recipients: o.Recipients}, o.Uncertain, o.Reason); err != nil {
		return OrderAnswer{}, err
	}
	target := d.Target
	if o.Target != "" {
		target = o.Target
	}
	return OrderAnswer{Letters: []LetterResult{{Number: o.Number, Event: d.DeadLetter.Event, Target: target, Done: "published for " + target}}, Done: 1}, nil
}
