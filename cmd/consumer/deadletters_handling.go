package main

import (
	"errors"
	"fmt"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
)

type lettersNoteCmd struct {
	Group string `arg:"" help:"The group (see certpost dead-letters groups)."`
	Text  string `arg:"" help:"The note; all who may read see it."`
}

func (c *lettersNoteCmd) Run(a *app) error {
	return a.handle(service.HandlingOrder{Group: c.Group, Note: c.Text})
}

type lettersAssignCmd struct {
	Group  string `arg:"" help:"The group (see certpost dead-letters groups)."`
	Name   string `arg:"" optional:"" help:"Who works on it."`
	Remove bool   `help:"Assign it to no one."`
}

// Validate is called when the command line has been read.
func (c *lettersAssignCmd) Validate() error { return oneOrRemove("a name", c.Name, c.Remove) }

func (c *lettersAssignCmd) Run(a *app) error {
	return a.handle(service.HandlingOrder{Group: c.Group, Assignee: &c.Name})
}

type lettersTicketCmd struct {
	Group  string `arg:"" help:"The group (see certpost dead-letters groups)."`
	URL    string `arg:"" optional:"" name:"url" help:"Address of the ticket, http or https."`
	Remove bool   `help:"Remove the ticket."`
}

// Validate is called when the command line has been read.
func (c *lettersTicketCmd) Validate() error { return oneOrRemove("an address", c.URL, c.Remove) }

func (c *lettersTicketCmd) Run(a *app) error {
	return a.handle(service.HandlingOrder{Group: c.Group, Ticket: &c.URL})
}

func oneOrRemove(what, value string, remove bool) error {
	if (value == "") != remove {
		return errors.New("give " + what + ", or --remove")
	}
	return nil
}

// handle sends the order, and prints how the group is handled now.
func (a *app) handle(order service.HandlingOrder) error {
	c, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	order.Caller = me()
	h, err := give[desk.Handling](a, c, "dead.handling", order)
	if err != nil {
		return err
	}
	fields := [][2]string{{"Group", order.Group}, {"Assignee", h.Assignee}, {"Ticket", h.Ticket}}
	for _, n := range h.Notes {
		fields = append(fields, [2]string{"Note", fmt.Sprintf("%s, %s: %s", when(n.At), n.By, n.Text)})
	}
	return pairs(a.stdout, fields...)
}
