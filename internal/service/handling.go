package service

import (
	"context"

	"github.com/certpost/certpost/internal/desk"
)

// HandlingOrder changes who works on a group, its ticket, or adds a note. What is absent stays; an
// empty assignee or ticket removes it.
type HandlingOrder struct {
	Caller
	Group    string  `json:"group"` // its fingerprint
	Assignee *string `json:"assignee,omitempty"`
	Ticket   *string `json:"ticket,omitempty"`
	Note     string  `json:"note,omitempty"`
	Revision *uint64 `json:"revision,omitempty"` // refuse if assignee or ticket were changed since
}

func (c *API) handling(ctx context.Context, o HandlingOrder) (desk.Handling, error) {
	if err := o.check(); err != nil {
		return desk.Handling{}, err
	}
	if err := c.current(ctx); err != nil {
		return desk.Handling{}, err
	}
	return c.desk.Handle(ctx, o.actor(), o.Group, desk.HandlingChange{Assignee: o.Assignee, Ticket: o.Ticket, Note: o.Note, Revision: o.Revision})
}
