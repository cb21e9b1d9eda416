package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
)

// Auditor verifies the audit and the ledger while the program runs. It verifies all of both at
// the start and again from time to time, new records every few seconds, and the HMAC of each
// entry of the ledger that this process reads for its index (ReadEntries).
type Auditor struct {
	b     *Broker
	pace  auditorPace
	found func(AuditFinding) // called for each new break

	mu       sync.Mutex
	report   AuditReport
	receipts *ReceiptReport
	at       time.Time // of the last complete verification; zero: none yet
	broken   map[string]AuditFinding
	fault    error // why it cannot be verified now

	rules   *ledgerRules      // without leaves; nil until the first complete verification
	created time.Time         // of the ledger's stream
	last    uint64            // the ledger's revision up to which receipts were compared
	waiting map[uint64]waiter // receipts later than that, not covered yet, by revision
	suspect bool              // entries seem to be gone: verify all

	// Used by Run only.
	closed   time.Time   // when it last looked for records that expire
	ledger   StreamState // as last seen
	accepted uint64      // the last record `accepted` that was seen
	urgent   bool        // an operator has accepted a break: verify all now
}

// waiter is a receipt that no checkpoint covers yet.
type waiter struct {
	leaf  leaf
	since time.Time
}

// auditorPace are the intervals of the verification. Tests make them shorter.
type auditorPace struct {
	look time.Duration // between looks at new records
	// full is the shortest time between two complete verifications, which is also at least
	// share times as long as one takes.
	full    time.Duration
	share   time.Duration
	recover time.Duration // after which a receipt that no checkpoint covers is covered by this process
}

var usualPace = auditorPace{look: 5 * time.Second, full: 15 * time.Second, share: 100, recover: 3 * time.Minute}

// AuditFinding is a break of the audit or the ledger.
type AuditFinding struct {
	Where string    `json:"where"` // audit or ledger
	Kind  BreakKind `json:"kind"`
	What  string    `json:"what"`
	Since time.Time `json:"since"` // when this process found it
	// Record is its number in the audit, Revision that in the ledger.
	Record   uint64 `json:"record,omitempty"`
	Revision uint64 `json:"revision,omitempty"`
}

// AuditState is what this process knows of the integrity of audit and ledger.
type AuditState struct {
	Verified time.Time      `json:"verified,omitzero"` // the last complete verification
	Report   AuditReport    `json:"audit"`
	Receipts *ReceiptReport `json:"receipts,omitempty"` // nil: receipts are not signed
	Findings []AuditFinding `json:"findings,omitempty"`
	// Waiting is the number of receipts that no checkpoint covers yet.
	Waiting int `json:"not_covered"`
}

// NewAuditor returns an Auditor; Run starts it. found is called for each new break.
func (b *Broker) NewAuditor(found func(AuditFinding)) *Auditor {
	return &Auditor{b: b, pace: usualPace, found: found, broken: map[string]AuditFinding{}, waiting: map[uint64]waiter{}}
}

// Run verifies until the context ends.
func (a *Auditor) Run(ctx context.Context) {
	a.b.auditor.Store(a)
	defer a.b.auditor.Store(nil)
	var w *walk
	var due time.Time
	for ctx.Err() == nil {
		err := a.seal(ctx)
		if now := time.Now(); err == nil && (w == nil || a.urgent || a.doubts() && !now.Before(due)) {
			if w, err = a.verifyAll(ctx); err == nil {
				a.urgent = false
				due = time.Now().Add(max(a.pace.full, a.pace.share*time.Since(now)))
			}
		}
		if err == nil {
			err = a.look(ctx, w)
		}
		a.setFault(err)
		backoff.Sleep(ctx, a.pace.look)
	}
}

// State returns what is known now.
func (a *Auditor) State() AuditState {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := AuditState{Verified: a.at, Report: a.report, Receipts: a.receipts, Waiting: len(a.waiting)}
	for _, f := range a.broken {
		s.Findings = append(s.Findings, f)
	}
	slices.SortFunc(s.Findings, func(a, b AuditFinding) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.What, b.What)) })
	return s
}

// Problem returns the first break, nil if none was found.
func (a *Auditor) Problem() error {
	s := a.State()
	if len(s.Findings) == 0 {
		return nil
	}
	f, more := s.Findings[0], ""
	if n := len(s.Findings) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	return fmt.Errorf("the %s is not as Certpost wrote it: %s%s: run `certpost audit verify`", f.Where, f.What, more)
}

// Broken returns what is not as Certpost wrote it: audit, ledger.
func (a *Auditor) Broken() (where []string) {
	for _, f := range a.State().Findings {
		if !slices.Contains(where, f.Where) {
			where = append(where, f.Where)
		}
	}
	return where
}

// AuditProblem returns what the running Auditor has found; nil if that is nothing, or if none
// runs.
func (b *Broker) AuditProblem() error {
	if a := b.auditor.Load(); a != nil {
		return a.Problem()
	}
	return nil
}

// Unsigned says why no record is signed, "" if they are, or if that is not known yet. It is no
// break: without a key nothing can be signed.
func (a *Auditor) Unsigned() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.at.IsZero():
		return ""
	case a.b.cfg.AuditKeys == nil:
		return UnsignedWithoutKey
	case a.report.SignedFrom == 0 && a.report.Break == nil:
		return "audit and receipts are not signed yet: some running processes do not have the audit's key"
	}
	return ""
}

// UnsignedWithoutKey says what it means that the configuration has no key.
const UnsignedWithoutKey = "audit.key is not set, so audit and receipts are not signed, and every client that may write to NATS can forge them: store a key (`certpost audit key`) where all processes can read it"

// Unsigned returns what the running Auditor says; "" if none runs.
func (b *Broker) Unsigned() string {
	if a := b.auditor.Load(); a != nil {
		return a.Unsigned()
	}
	return ""
}

// seal records that everything is signed from now on, when every running process has the key.
func (a *Auditor) seal(ctx context.Context) error {
	key, err := a.b.signer(ctx)
	if err != nil || key == nil {
		return err
	}
	if sealed, _ := a.b.Sealed(); sealed {
		return nil
	}
	kv, err := a.b.OpenRelays(ctx)
	if err != nil {
		return err
	}
	var without []string
	err = readBeats(ctx, kv, []string{ReplicaPrefix + "*"}, func(e jetstream.KeyValueEntry) {
		if beat, ok := heartbeatOf(e); ok && beat.AuditKey != key.id {
			without = append(without, beat.Process)
		}
	})
	if err != nil {
		return err
	}
	if len(without) > 0 {
		a.b.log.Info().Strs("processes", without).Msg("records are not signed yet: these processes do not have the audit's key")
		return nil
	}
	return a.b.Seal(ctx, ProcessActor(a.b.nc.Opts.Name))
}

// verifyAll verifies the whole audit and the whole ledger.
func (a *Auditor) verifyAll(ctx context.Context) (*walk, error) {
	w, err := a.b.verifyAudit(ctx, nil)
	if err != nil {
		return nil, err
	}
	stream, err := a.b.js.Stream(ctx, "KV_"+LedgerBucket)
	if err != nil {
		return nil, fmt.Errorf("stream KV_%s: %w", LedgerBucket, err)
	}
	ledger := stateOf(stream.CachedInfo())
	a.ledger = ledger // from here on entries that disappear are noticed
	var receipts *ReceiptReport
	var notCovered []leaf
	if w.report.SignedFrom != 0 && w.report.Break == nil {
		if receipts, notCovered, err = a.b.verifyLedger(ctx, &w.ledger, w.accepted); err != nil {
			return nil, err
		}
	}
	w.ledger.covered = map[uint64]cover{} // large, and no longer needed
	a.mu.Lock()
	a.report, a.receipts, a.at, a.suspect = w.report, receipts, time.Now(), false
	if receipts != nil {
		a.setRules(w)
		a.created, a.last = ledger.Created, ledger.Last
	}
	a.settleAccepted(w.accepted)
	a.mu.Unlock()
	for _, l := range notCovered {
		a.wait(l)
	}
	if a.noteBreak(w.report.Break); w.report.Break == nil {
		a.forgetLackOfKey()
	}
	if receipts != nil {
		for _, b := range receipts.Breaks {
			a.note("ledger", b.Kind, b.Revision, entryName(b)+": "+b.What)
		}
	}
	ReturnMemory(ledger.Messages)
	return w, a.remember(w)
}

// look verifies the records that are new, and looks whether entries of the ledger are gone.
func (a *Auditor) look(ctx context.Context, w *walk) error {
	_, audit, ledger, err := a.b.StreamStates(ctx)
	if err != nil {
		return err
	}
	switch {
	case w.report.Break == nil:
		if err := a.lookAtRecords(ctx, w, audit); err != nil {
			return err
		}
	case w.report.Break.Kind == BreakKey:
		a.doubt()
	}
	before := a.ledger
	a.ledger = ledger
	a.mu.Lock()
	if !ledger.Created.Equal(before.Created) || ledger.Messages < before.Messages || ledger.Last < before.Last {
		a.suspect = true
	}
	a.mu.Unlock()
	a.recover()
	if now := time.Now(); w.report.Break == nil && w.report.SignedFrom != 0 && now.Sub(a.closed) > closingEvery {
		if err := a.b.closeOld(ctx, now); err != nil {
			return err
		}
		a.closed = now
	}
	return a.lookForAccepted(ctx)
}

func (a *Auditor) lookAtRecords(ctx context.Context, w *walk, audit StreamState) error {
	head := w.report.Head.Sequence
	if !audit.Created.Equal(w.created) || audit.Last < head {
		a.note("audit", BreakTruncated, head, fmt.Sprintf("the stream was recreated or cut off: record %d was verified, and the last one is %d", head, audit.Last))
		w.setBreak(head, BreakTruncated, "the stream was recreated or cut off")
		return nil
	}
	if audit.Last == head {
		return nil
	}
	for raw, err := range a.b.read(ctx, AuditStream, "", head+1) {
		if err != nil {
			return err
		}
		w.step(raw)
		if w.report.Break != nil {
			break
		}
		a.covered(readRecord(raw).Checkpoint)
	}
	if w.report.Break == nil {
		w.end(w.report.Head.Sequence)
	}
	a.mu.Lock()
	a.report = w.report
	if a.rules != nil {
		a.setRules(w)
	}
	a.mu.Unlock()
	a.noteBreak(w.report.Break)
	return a.remember(w)
}

// forgetLackOfKey removes the finding that a key is missing, when it no longer is: it may come to this process later
// than to the one that signs with it.
func (a *Auditor) forgetLackOfKey() {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.broken, func(_ string, f AuditFinding) bool { return f.Where == "audit" && f.Kind == BreakKey })
}

// setRules takes a copy of the rules that the walk has learned. The lock is held.
func (a *Auditor) setRules(w *walk) {
	rules := w.ledger
	rules.replaced, rules.covered = maps.Clone(rules.replaced), nil
	a.rules = &rules
}

// covered removes what a checkpoint covers from the receipts that wait for one.
func (a *Auditor) covered(c *Checkpoint) {
	if c == nil {
		return
	}
	leaves, err := c.leaves()
	if err != nil {
		return // the walk has noticed
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range leaves {
		delete(a.waiting, l.revision)
	}
	if a.receipts != nil {
		a.receipts.Covered += uint64(len(leaves))
	}
}

// remember keeps the last verified record out of reach of NATS clients.
func (a *Auditor) remember(w *walk) error {
	if a.b.cfg.AuditMemory == "" || w.keys == nil || w.report.Break != nil || w.report.Records == 0 {
		return nil
	}
	m := auditMemory{Head: w.report.Head, Sealed: w.report.SignedFrom != 0, Closed: w.closedTo}
	if w.remembered != nil && *w.remembered == m {
		return nil
	}
	w.remembered = &m
	return m.write(a.b.cfg.AuditMemory)
}

// examine checks an entry that was read for the index.
func (a *Auditor) examine(raw *jetstream.RawStreamMsg, c *LedgerChange) {
	a.mu.Lock()
	rules, created, last := a.rules, a.created, a.last
	a.mu.Unlock()
	if rules == nil || raw.Sequence <= last {
		return // the complete verification sees it
	}
	if c.Deleted {
		a.doubt()
		return
	}
	seal := rules.keys.checkEntry(c.Key, raw.Data)
	c.Sealed, c.After = seal.result == authentic, seal.after
	if seal.result == unknownKey {
		a.doubt() // it may have been rotated
		return
	}
	if kind, what := rules.judge(seal, raw.Sequence, raw.Time, created); kind != "" {
		b := EntryBreak{c.Key, raw.Sequence, kind, what}
		a.note("ledger", kind, raw.Sequence, entryName(b)+": "+what)
		return
	}
	if c.Entry.Receipt != nil && seal.result == authentic {
		a.wait(leafOf(c.Key, raw.Data, raw.Sequence))
	}
}

// wait remembers a receipt that no checkpoint covers yet.
func (a *Auditor) wait(l leaf) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.waiting[l.revision]; !known && len(a.waiting) < mostPending {
		a.waiting[l.revision] = waiter{l, time.Now()}
	}
}

// recover covers the receipts that no checkpoint covers: the process that wrote them has ended.
func (a *Auditor) recover() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for revision, r := range a.waiting {
		if time.Since(r.since) < a.pace.recover {
			continue
		}
		r.leaf.recovered = true
		a.b.noteReceipt(r.leaf)
		r.since = time.Now()
		a.waiting[revision] = r
	}
}

// RolledBack tells the running Auditor, if there is one, that a signed entry replaces an older
// revision than one that this process has read of the same key.
func (b *Broker) RolledBack(c *LedgerChange, known uint64) {
	if a := b.auditor.Load(); a != nil {
		e := EntryBreak{Key: c.Key, Revision: c.Revision}
		a.note("ledger", BreakRolledBack, c.Revision, fmt.Sprintf("%s: it is an old value: it does not follow revision %d", entryName(e), known))
	}
}

func (a *Auditor) doubt() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.suspect = true
}

// doubts reports whether all is to be verified again: entries seem to be gone, or it was not
// done for a day.
func (a *Auditor) doubts() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.suspect || time.Since(a.at) > 24*time.Hour
}

func entryName(b EntryBreak) string {
	if b.Key == "" {
		return fmt.Sprintf("revision %d", b.Revision)
	}
	target, token, _ := strings.Cut(b.Key, ".")
	return fmt.Sprintf("delivery of event %s to %s (revision %d)", token, target, b.Revision)
}

func (a *Auditor) noteBreak(b *AuditBreak) {
	if b != nil {
		a.note("audit", b.Kind, b.Sequence, b.What)
	}
}

// note keeps a break until an operator accepts it, or the process ends, and tells of it once.
func (a *Auditor) note(where string, kind BreakKind, number uint64, what string) {
	f := AuditFinding{Where: where, Kind: kind, What: what, Since: time.Now().UTC()}
	if where == "audit" {
		f.Record = number
	} else {
		f.Revision = number
	}
	a.mu.Lock()
	_, known := a.broken[where+what]
	if known || len(a.broken) >= 10*mostBreaks {
		a.mu.Unlock()
		return
	}
	a.broken[where+what] = f
	a.mu.Unlock()
	a.b.log.Error().Str("where", where).Str("kind", string(kind)).Msg("not as Certpost wrote it: " + what)
	if a.found != nil {
		a.found(f)
	}
}

// setFault logs when verifying begins to fail, and when it works again.
func (a *Auditor) setFault(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	a.mu.Lock()
	before := a.fault
	a.fault = err
	a.mu.Unlock()
	switch {
	case err != nil && before == nil:
		a.b.log.Warn().Err(err).Msg("the audit cannot be verified now; trying again")
	case err == nil && before != nil:
		a.b.log.Info().Msg("the audit is verified again")
	}
}
