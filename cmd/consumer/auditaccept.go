package main

import (
	"errors"
	"fmt"

	"github.com/certpost/certpost/internal/broker"
)

type auditAcceptCmd struct {
	Record   uint64 `help:"The record at which audit verify found the break." placeholder:"RECORD" xor:"what"`
	Revision uint64 `help:"The revision of the ledger at which it found one." placeholder:"REVISION" xor:"what"`
	Reason   string `help:"What you found; the audit keeps it." placeholder:"TEXT"`
}

// Validate is called when the command line has been read.
func (c *auditAcceptCmd) Validate() error {
	if c.Record == 0 && c.Revision == 0 {
		return errors.New("--record or --revision is required: the number at which audit verify found a break")
	}
	return reasoned(c.Reason, true)
}

// Run records that a break was looked into; exit 1 if another one is left.
func (c *auditAcceptCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	left, err := b.AcceptBreak(a.ctx, broker.Actor{Name: actor(), Via: broker.ViaShell}, c.Record, c.Revision, c.Reason)
	if errors.Is(err, broker.ErrNoBreak) {
		return usage("%w", err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, "Accepted, and recorded. The running program verifies everything again and takes it over.")
	if left != nil {
		return &failure{exitFailed, fmt.Errorf("there is another break at record %d: %s", left.Sequence, left.What)}
	}
	return nil
}
