package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

type auditCmd struct {
	List   auditListCmd   `cmd:"" help:"What was done, by whom and why, newest first."`
	Export auditExportCmd `cmd:"" help:"The whole audit as JSON, one record a line, oldest first."`
	Verify auditVerifyCmd `cmd:"" help:"Check that nothing in the audit was changed or left out."`
}

type auditListCmd struct {
	Action string        `help:"Only this action (replayed, discarded, ...)."`
	By     string        `help:"Only by this one." placeholder:"NAME"`
	Target string        `help:"Only about this target." placeholder:"ID"`
	Event  string        `help:"Only about this event." placeholder:"ID"`
	Letter uint64        `help:"Only about this dead letter." placeholder:"NUMBER"`
	Replay string        `help:"Only about this replay run." placeholder:"ID"`
	Since  time.Duration `help:"Only of this time (24h)." placeholder:"DURATION"`
	Limit  int           `help:"At most so many; 0 for all." default:"100"`
	Output string        `help:"Format: table, json or csv." enum:"table,json,csv" default:"table" short:"o"`
}

func (c *auditListCmd) Run(a *app) error {
	counter, done, err := a.counter()
	if err != nil {
		return err
	}
	defer done()
	all := []numberedRecord{}
	q := historyRequest{Action: broker.Action(c.Action), Who: c.By, Target: c.Target, Event: c.Event, Letter: c.Letter, Run: c.Replay, Size: maxAnswered}
	for more := true; more; {
		page, err := ask[historyAnswer](a.ctx, counter, "history.list", q)
		if err != nil {
			return err
		}
		q.After, more = page.Next, page.Next != 0
		for _, r := range page.Records {
			if c.Since > 0 && time.Since(r.Time) > c.Since || c.Limit > 0 && len(all) == c.Limit {
				more = false
				break
			}
			all = append(all, r)
		}
	}
	return printList(a, c.Output, all, "no such records", recordHead, func(r numberedRecord, _ bool) []string {
		r.AuditRecord.Sequence = r.Sequence
		return recordRow(r.AuditRecord)
	})
}

var recordHead = []string{"RECORD", "TIME", "WHAT", "BY", "VIA", "LETTER", "EVENT", "TARGET", "REASON"}

func recordRow(r broker.AuditRecord) []string {
	what, letter, target := string(r.Action), "", r.Target
	if r.Stage == broker.StageIntent {
		what += " (intended)"
	}
	if r.Unreadable {
		what = "(not written by Certpost)"
	}
	if r.LetterNumber != 0 {
		letter = strconv.FormatUint(r.LetterNumber, 10)
	}
	if r.NewLetter != 0 {
		letter += " → " + strconv.FormatUint(r.NewLetter, 10)
	}
	if target == "" {
		target = r.Lane
	}
	return []string{fmt.Sprint(r.Sequence), when(r.Time), what, r.Name, string(r.Via), letter, r.Event, target, r.Reason}
}

type auditExportCmd struct {
	From uint64 `help:"From this record on." default:"1" placeholder:"RECORD"`
}

// Run writes the records as they stand in the stream, which is what their hashes
// are over.
func (c *auditExportCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	out := json.NewEncoder(a.stdout)
	out.SetEscapeHTML(false)
	for r, err := range b.ReadAudit(a.ctx, c.From) {
		if err != nil {
			return err
		}
		if err := out.Encode(numberedRecord{r.Sequence, r.Hash, r}); err != nil {
			return err
		}
	}
	return nil
}

type auditVerifyCmd struct {
	Anchor []string `help:"What an earlier verify printed, to prove that nothing up to there was rewritten (repeatable)." placeholder:"RECORD:SHA256"`
	Output string   `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read.
func (c *auditVerifyCmd) Validate() error {
	_, err := c.anchors()
	return err
}

func (c *auditVerifyCmd) anchors() (all []broker.Anchor, err error) {
	for _, text := range c.Anchor {
		anchor, err := broker.ParseAnchor(text)
		if err != nil {
			return nil, fmt.Errorf("--anchor: %w", err)
		}
		all = append(all, anchor)
	}
	return all, nil
}

// Run reads the whole audit; exit 1 when it is not as it was written.
func (c *auditVerifyCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	anchors, err := c.anchors()
	if err != nil {
		return usage("%w", err)
	}
	report, err := b.VerifyAudit(a.ctx, anchors...)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		err = a.json(report)
	} else {
		printVerification(a.stdout, report)
	}
	if err == nil && report.Break != nil {
		return &failure{exitFailed, fmt.Errorf("the audit is not as it was written: %s", report.Break.What)}
	}
	return err
}

func printVerification(w io.Writer, r broker.AuditReport) {
	fmt.Fprintf(w, "%s, from %d to %d", count(int(r.Records), "record"), r.First, r.Head.Sequence)
	if r.AgedOut > 0 {
		fmt.Fprintf(w, "; %d aged out", r.AgedOut)
	}
	if r.Unchained > 0 {
		fmt.Fprintf(w, "; %d from before there was a chain", r.Unchained)
	}
	fmt.Fprintln(w)
	for _, anchor := range r.Unchecked {
		fmt.Fprintf(w, "the record of anchor %s has aged out, and was not compared\n", anchor)
	}
	if r.Break == nil && r.Records > 0 {
		fmt.Fprintf(w, "The audit is as it was written. Keep this line elsewhere, to prove it later:\n  certpost audit verify --anchor %s\n", r.Head)
	}
}
