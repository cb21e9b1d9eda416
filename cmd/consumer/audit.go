package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/service"
)

type auditCmd struct {
	List   auditListCmd   `cmd:"" help:"List audit records, newest first."`
	Export auditExportCmd `cmd:"" help:"Print audit records as JSON, one per line, oldest first: all, or those that match a filter."`
	Verify auditVerifyCmd `cmd:"" help:"Check that no audit record and no receipt was forged, changed or removed."`
	Accept auditAcceptCmd `cmd:"" help:"Record that you have looked into a break: it no longer counts."`
	Rotate auditRotateCmd `cmd:"" help:"Put a new key in force for the records to come."`
	Key    auditKeyCmd    `cmd:"" help:"Print a new key, for audit.key."`
}

// recordFilter selects records by the same conditions as the page.
type recordFilter struct{ filterFlags }

// Validate is called when the command line has been read.
func (f *recordFilter) Validate() error {
	_, err := f.query()
	return err
}

func (f *recordFilter) query() (desk.HistoryQuery, error) {
	return parseFlags(desk.HistoryConditions, &f.filterFlags)
}

type auditListCmd struct {
	recordFilter
	Limit  uint   `help:"Maximum number of records; 0: all." default:"100"`
	Output string `help:"Format: table, wide (all columns, nothing shortened), json or csv." enum:"table,wide,json,csv" default:"table" short:"o"`
}

func (c *auditListCmd) Run(a *app) error {
	client, done, err := a.client()
	if err != nil {
		return err
	}
	defer done()
	filter := c.values()
	if q, err := c.query(); err == nil && c.Output == "table" && q.Folds() {
		filter["each"] = "no" // one line for an act on many; json and csv have every record
	}
	all, unsearched, err := recordsOf(a, client, filter, int(c.Limit))
	if err != nil {
		return err
	}
	if unsearched != 0 {
		fmt.Fprintf(a.stderr, "records before %d were not searched: certpost audit export searches all, with the same filters\n", unsearched)
	}
	return printList(a, c.Output, all, "no matching records", recordHead, func(r desk.Record, _ bool) []string { return recordRow(r, filter["each"] == "no") }, desk.RecordTable)
}

// recordsOf requests the pages of the list, at most limit records (0: all). unsearched is the
// oldest record that was searched, if older ones may match.
func recordsOf(a *app, c *client, filter map[string]string, limit int) (all []desk.Record, unsearched uint64, err error) {
	all = []desk.Record{}
	for q := (service.ListRequest{Filtered: service.Filtered{Filter: filter}}); ; {
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
			a.cutOff(true, limit)
			return all, 0, nil
		}
	}
}

var recordHead = []string{"RECORD", "TIME", "WHAT", "BY", "VIA", "LETTER", "EVENT", "TARGET", "REASON"}

// recordRow is a line of the list. In a folded one, a letter's record that is part of an act has
// the act's id: the act was broken off before it was recorded as a whole.
func recordRow(r desk.Record, folded bool) []string {
	what, letter, target := string(r.Action), "", r.Target
	if r.Stage == broker.StageIntent {
		what += " (intended)"
	}
	if r.Unreadable {
		what = "(not written by Certpost)"
	}
	if r.Many != nil {
		letter = many(r)
	}
	if r.LetterNumber != 0 {
		letter = strconv.FormatUint(r.LetterNumber, 10)
	}
	if r.NewLetter != 0 {
		letter += " → " + strconv.FormatUint(r.NewLetter, 10)
	}
	if folded && r.Many == nil && r.Act != "" {
		letter += " (--act=" + r.Act + ")"
	}
	if target == "" {
		target = r.Lane
	}
	return []string{fmt.Sprint(r.Sequence), when(r.Time), what, r.Shown(), string(r.Via), letter, r.Event, target, r.Reason}
}

// many is what an act on many letters was on, and how to list each.
func many(r desk.Record) string {
	each := "--act=" + r.Act
	if r.Run != "" {
		each = "--run=" + r.Run
	}
	return count(r.Many.Letters, "letter") + " (" + each + ")"
}

type auditExportCmd struct {
	recordFilter
	FromRecord uint64 `help:"First record to print." default:"1" placeholder:"RECORD"`
	Signed     bool   `help:"Print the records as they are stored, with their HMAC: audit verify --file checks them elsewhere, without NATS."`
}

// Validate is called when the command line has been read.
func (c *auditExportCmd) Validate() error {
	if c.Signed && len(c.values()) > 0 {
		return errors.New("--signed exports all records: a part cannot be verified, so it takes no filter but --from-record")
	}
	return c.recordFilter.Validate()
}

// Run reads the stream directly, because it has records that are too old for the lists.
func (c *auditExportCmd) Run(a *app) error {
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	if c.Signed {
		return b.ExportAudit(a.ctx, c.FromRecord, a.stdout)
	}
	query, err := c.query()
	if err != nil {
		return usage("%w", err)
	}
	fits := query.Matcher()
	out := json.NewEncoder(a.stdout)
	out.SetEscapeHTML(false)
	for r, err := range b.ReadAudit(a.ctx, c.FromRecord) {
		if err != nil {
			return err
		}
		if !fits(&r) {
			continue
		}
		if err := out.Encode(desk.NewRecord(r)); err != nil {
			return err
		}
	}
	return nil
}

type auditVerifyCmd struct {
	Anchor  []string `help:"Anchor that an earlier verify printed: proves that no record up to it was rewritten (repeatable)." placeholder:"RECORD:SHA256"`
	File    string   `help:"Verify this export (audit export --signed) instead of the running audit, without NATS; -: standard input." placeholder:"FILE"`
	KeyFile string   `help:"File with the keys for --file, instead of the configuration's." placeholder:"FILE"`
	Output  string   `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Validate is called when the command line has been read.
func (c *auditVerifyCmd) Validate() error {
	if c.KeyFile != "" && c.File == "" {
		return errors.New("--key-file goes with --file")
	}
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

// Run checks the whole audit; exit 1 if it is not as it was written.
func (c *auditVerifyCmd) Run(a *app) error {
	if c.File != "" {
		return c.verifyFile(a)
	}
	b, done, err := a.dial(a.ctx)
	if err != nil {
		return err
	}
	defer done()
	anchors, err := c.anchors()
	if err != nil {
		return usage("%w", err)
	}
	report, receipts, err := b.VerifyReceipts(a.ctx, anchors...)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		err = a.json(verification{AuditReport: report, Receipts: receipts})
	} else {
		printVerification(a.stdout, report, receipts)
	}
	switch {
	case err != nil:
		return err
	case report.Break != nil:
		return &failure{exitFailed, fmt.Errorf("the audit is not as it was written: %s", report.Break.What)}
	case receipts != nil && receipts.Broken > 0:
		return &failure{exitFailed, fmt.Errorf("the ledger is not as it was written: %s", count(int(receipts.Broken), "entry"))}
	}
	return nil
}

// verification is the result of audit verify as JSON.
type verification struct {
	broker.AuditReport
	Receipts *broker.ReceiptReport `json:"receipts,omitempty"`
	Export   *broker.ExportEnd     `json:"export,omitempty"` // of a file: its end
}

func printReceipts(w io.Writer, r *broker.ReceiptReport) {
	if r == nil {
		return
	}
	fmt.Fprintf(w, "%s covered by checkpoints, %d not yet", count(int(r.Covered), "receipt"), r.NotCovered)
	for _, more := range []struct {
		n    uint64
		what string
	}{{r.Expired, "expired"}, {r.Unsigned, "older than the key"}, {r.Unverified, "signed with a lost key"}, {r.Accepted, "accepted by an operator"}} {
		if more.n > 0 {
			fmt.Fprintf(w, "; %d %s", more.n, more.what)
		}
	}
	fmt.Fprintln(w)
	for _, b := range r.Breaks {
		fmt.Fprintf(w, "revision %d %s: %s: %s\n", b.Revision, b.Key, b.Kind, b.What)
	}
}

func printVerification(w io.Writer, r broker.AuditReport, receipts *broker.ReceiptReport) {
	fmt.Fprintf(w, "%s, from %d to %d", count(int(r.Records), "record"), r.First, r.Head.Sequence)
	if r.AgedOut > 0 {
		fmt.Fprintf(w, "; %d expired", r.AgedOut)
	}
	if r.Unchained > 0 {
		fmt.Fprintf(w, "; %d older than the chain", r.Unchained)
	}
	if r.Signed > 0 {
		fmt.Fprintf(w, "; %d signed, all from %d on", r.Signed, r.SignedFrom)
	}
	if r.Unverified > 0 {
		fmt.Fprintf(w, "; %d signed with a lost key", r.Unverified)
	}
	fmt.Fprintln(w)
	if c := r.Closing; c != nil {
		fmt.Fprintf(w, "records 1 to %d ended by retention: record %d says so of the records up to %d, until %s\n", r.First-1, c.Record, c.To, c.Expires.Format(time.DateOnly))
	}
	for _, a := range r.Accepted {
		fmt.Fprintf(w, "record %d: %s; accepted in record %d by %s: %s\n", a.Record, a.What, a.Sequence, a.By, a.Reason)
	}
	printReceipts(w, receipts)
	for _, anchor := range r.Unchecked {
		fmt.Fprintf(w, "the record of anchor %s has expired, and was not compared\n", anchor)
	}
	if r.Break != nil || r.Records == 0 {
		return
	}
	said := "The audit is as it was written."
	switch {
	case r.Keyless:
		said = "The chain of the records is unbroken. No HMAC was checked, because audit.key is not set here: whoever can write to NATS may have written all of them anew, except up to an --anchor."
	case r.SignedFrom == 0:
		said = "The chain of the records is unbroken. None is signed yet: whoever can write to NATS may have written all of them anew, except up to an --anchor."
	}
	fmt.Fprintf(w, "%s Keep this line elsewhere, to prove it later:\n  certpost audit verify --anchor %s\n", said, r.Head)
}
