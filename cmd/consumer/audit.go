package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
)

type auditCmd struct {
	List   auditListCmd   `cmd:"" help:"What was done, by whom and why, newest first."`
	Export auditExportCmd `cmd:"" help:"The audit as JSON, one record a line, oldest first: all of it, or what fits a filter."`
	Verify auditVerifyCmd `cmd:"" help:"Check that nothing in the audit was changed or left out."`
}

// recordFilter chooses records as the page of the audit does.
type recordFilter struct {
	Action string `help:"Only this action (replayed, discarded, ...)."`
	By     string `help:"Only by this one." placeholder:"NAME"`
	Target string `help:"Only about this target." placeholder:"ID"`
	Lane   string `help:"Only about this lane." placeholder:"LANE"`
	Event  string `help:"Only about this event." placeholder:"ID"`
	Letter uint64 `help:"Only about this dead letter." placeholder:"NUMBER"`
	Replay string `help:"Only about this replay run." placeholder:"ID"`
	From   string `help:"Only from this moment on (2026-01-31, 2026-01-31T15:04:05Z)." placeholder:"TIME"`
	To     string `help:"Only from before this moment." placeholder:"TIME"`
}

// Validate is called when the command line has been read.
func (f *recordFilter) Validate() error {
	_, err := f.query()
	return err
}

func (f *recordFilter) query() (desk.HistoryQuery, error) {
	times, err := timesOf(f.From, f.To)
	return desk.HistoryQuery{Action: broker.Action(f.Action), By: f.By, Target: f.Target, Lane: f.Lane, Event: f.Event, Letter: f.Letter, Run: f.Replay,
		From: times.From, To: times.To}, err
}

type auditListCmd struct {
	recordFilter
	Since  time.Duration `help:"Only of this time (24h)." placeholder:"DURATION"`
	Limit  int           `help:"At most so many; 0 for all." default:"100"`
	Output string        `help:"Format: table, json or csv." enum:"table,json,csv" default:"table" short:"o"`
}

func (c *auditListCmd) Run(a *app) error {
	counter, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	query, err := c.query()
	if err != nil {
		return usage("%w", err)
	}
	if since := time.Now().Add(-c.Since); c.Since > 0 && since.After(query.From) {
		query.From = since
	}
	all, unsearched, err := recordsOf(a, counter, service.NewHistoryRequest(query), c.Limit)
	if err != nil {
		return err
	}
	if unsearched != 0 {
		fmt.Fprintf(a.stderr, "records before %d were not searched: certpost audit export has the same filters, and searches all\n", unsearched)
	}
	return printList(a, c.Output, all, "no such records", recordHead, func(r service.NumberedRecord, _ bool) []string {
		r.AuditRecord.Sequence = r.Sequence
		return recordRow(r.AuditRecord)
	})
}

// recordsOf collects the pages of the history, at most limit records of it (0: all).
// unsearched is the oldest record that was looked at, where older ones were wanted.
func recordsOf(a *app, c *client, q service.HistoryRequest, limit int) (all []service.NumberedRecord, unsearched uint64, err error) {
	all = []service.NumberedRecord{}
	for {
		q.Size = service.MaxPage
		if limit > 0 {
			q.Size = min(service.MaxPage, limit-len(all))
		}
		page, err := ask[service.HistoryAnswer](a.ctx, c, "history.list", q)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, page.Records...)
		if q.After = page.Next; q.After == 0 {
			return all, page.Unsearched, nil
		}
		if len(all) == limit {
			return all, 0, nil
		}
	}
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
	recordFilter
	FromRecord uint64 `help:"From this record on." default:"1" placeholder:"RECORD"`
}

// Run reads the stream itself, which has what is too old for the lists. It writes the
// records as they stand there, which is what their hashes are over.
func (c *auditExportCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	query, err := c.query()
	if err != nil {
		return usage("%w", err)
	}
	fits := query.Filter()
	out := json.NewEncoder(a.stdout)
	out.SetEscapeHTML(false)
	for r, err := range b.ReadAudit(a.ctx, c.FromRecord) {
		if err != nil {
			return err
		}
		if !fits(&r) {
			continue
		}
		if err := out.Encode(service.NumberedRecord{Sequence: r.Sequence, Hash: r.Hash, AuditRecord: r}); err != nil {
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
