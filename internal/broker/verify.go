package broker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Anchor identifies one record of the audit: "sequence:hash". Stored outside NATS, it
// proves later that nothing up to this record was rewritten.
type Anchor struct {
	Sequence uint64
	Hash     string // SHA-256 of the stored record, hexadecimal
}

func (a Anchor) String() string { return strconv.FormatUint(a.Sequence, 10) + ":" + a.Hash }

// MarshalText writes the anchor as String does.
func (a Anchor) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (a *Anchor) UnmarshalText(text []byte) (err error) {
	*a, err = ParseAnchor(string(text))
	return err
}

// ParseAnchor reads "sequence:hash".
func ParseAnchor(s string) (Anchor, error) {
	number, hash, _ := strings.Cut(strings.TrimSpace(s), ":")
	seq, err := strconv.ParseUint(number, 10, 64)
	if sum, herr := hex.DecodeString(hash); err != nil || herr != nil || len(sum) != 32 || seq == 0 {
		return Anchor{}, fmt.Errorf("invalid anchor %q: want a record's number, a colon and its SHA-256 in hexadecimal, as printed by `certpost audit verify`", s)
	}
	return Anchor{seq, strings.ToLower(hash)}, nil
}

// BreakKind says what is wrong with the audit.
type BreakKind string

// The kinds.
const (
	BreakRemoved   BreakKind = "removed"   // records are missing between others
	BreakTruncated BreakKind = "truncated" // records are missing at the start or the end and cannot have aged out
	BreakChanged   BreakKind = "changed"   // a record does not hold the hash of the one before it
	BreakForeign   BreakKind = "foreign"   // a record was not written by Certpost
	BreakAnchor    BreakKind = "anchor"    // a record's hash differs from the anchor's
	BreakUnsigned  BreakKind = "unsigned"  // a record has no HMAC although earlier ones have
	BreakForged    BreakKind = "forged"    // a record's HMAC is wrong, or made with a key that is not in force
	BreakKey       BreakKind = "key"       // records are signed with a key that is not given
)

// AuditBreak is the first place where the audit is not what Certpost wrote.
type AuditBreak struct {
	Sequence uint64    `json:"sequence"` // of the record
	Kind     BreakKind `json:"kind"`
	What     string    `json:"what"`
	// To is the last record that is missing, Hash that of the record that is there.
	To   uint64 `json:"to,omitempty"`
	Hash string `json:"hash,omitempty"`
}

// AuditReport is the result of VerifyAudit.
type AuditReport struct {
	Head    Anchor `json:"head"` // the last record; to be stored outside NATS
	First   uint64 `json:"first"`
	Records uint64 `json:"records"`
	// AgedOut is the number of records that the stream removed at their maximum age;
	// Unchained is the number of records from before the chain existed. Neither can be
	// checked.
	AgedOut   uint64 `json:"aged_out"`
	Unchained uint64 `json:"unchained"`
	// SignedFrom is the record from which on all are signed, 0 if there is none. Signed is the
	// number of records with an HMAC that was checked; Unverified that of records signed with
	// a key that an operator declared lost. Without a key no HMAC is checked.
	SignedFrom uint64 `json:"signed_from,omitempty"`
	Signed     uint64 `json:"signed"`
	Unverified uint64 `json:"unverified,omitempty"`
	// Keyless says that no HMAC was checked, because there was no key: whoever can write to the
	// stream could have written all of the audit anew.
	Keyless bool `json:"keyless,omitempty"`
	// Unchecked are anchors whose records have aged out.
	Unchecked []Anchor    `json:"unchecked,omitempty"`
	Break     *AuditBreak `json:"break,omitempty"` // nil: the audit is intact
	// Closing is the record that says of the records before First that they expire; nil: none.
	Closing *Closing `json:"closing,omitempty"`
	// Accepted are the breaks that operators have accepted.
	Accepted []AcceptedBreak `json:"accepted,omitempty"`
}

// AuditHead returns the audit's last record; the zero Anchor if there is none.
func (b *Broker) AuditHead(ctx context.Context) (Anchor, error) {
	head, err := b.readHead(ctx)
	if err != nil || head.Hash == zeroHash {
		return Anchor{}, err
	}
	return head, nil
}

// VerifyAudit reads the audit from its oldest record and stops at the first one that is not
// what Certpost wrote. The chain cannot show that the last records were cut off and the
// stream was recreated; anchors can. An HMAC is checked if the configuration has the keys.
func (b *Broker) VerifyAudit(ctx context.Context, anchors ...Anchor) (AuditReport, error) {
	w, err := b.verifyAudit(ctx, anchors)
	return w.report, err
}

// verifyAudit is VerifyAudit; the walk can be continued with later records.
func (b *Broker) verifyAudit(ctx context.Context, anchors []Anchor) (*walk, error) {
	w := newWalk(nil, anchors)
	if b.cfg.AuditKeys != nil {
		w.read = func() (*AuditKeys, error) { return b.cfg.AuditKeys(ctx) }
		if err := w.readKeys(); err != nil {
			return w, fmt.Errorf("the audit's key cannot be read: %w", err)
		}
	}
	w.report.Keyless = w.keys == nil
	if memory := readMemory(b.cfg.AuditMemory); memory != nil && w.keys != nil {
		w.remembered = memory
		w.anchors = append(slices.Clip(anchors), memory.anchors()...)
	}
	s, err := b.js.Stream(ctx, AuditStream)
	if err != nil {
		return w, fmt.Errorf("stream %s: %w", AuditStream, err)
	}
	if w.accepted, err = b.readAccepted(ctx, w.keys); err != nil {
		return w, err
	}
	info := s.CachedInfo()
	w.created, w.young = info.Created, time.Since(info.Created) < auditAge
	for raw, err := range b.read(ctx, AuditStream, "", 1) {
		if err != nil {
			return w, err
		}
		if w.step(raw); w.report.Break != nil {
			return w, nil
		}
	}
	w.checkFront(time.Now())
	if w.report.Break == nil {
		w.end(info.State.LastSeq)
	}
	return w, nil
}

func newWalk(keys *AuditKeys, anchors []Anchor) *walk {
	return &walk{anchors: anchors, keys: keys, ledger: ledgerRules{keys: keys, replaced: map[string]time.Time{}, covered: map[uint64]cover{}}}
}

// walk checks the chain record by record.
type walk struct {
	anchors    []Anchor
	accepted   []AcceptedBreak // by operators
	keys       *AuditKeys      // nil: no HMAC is checked
	read       func() (*AuditKeys, error)
	readFor    string       // the id of the key for which they were read again
	remembered *auditMemory // nil: nothing is
	created    time.Time    // of the stream
	young      bool         // the stream is too young for records to have aged out
	chained    bool         // a record of the chain was seen
	inForce    string       // the id of the key in force; "" until a record says so
	strange    strange
	ledger     ledgerRules
	// firstPrevious is the hash of the record before the first one, according to that one;
	// closedTo the last record of which a record says that it expires; due is the newest missing
	// record of which one says when.
	firstPrevious string
	closedTo      uint64
	due           ClosingDay
	report        AuditReport
}

// strange are the records signed with a key that is not given, since the last one that is
// accepted.
type strange struct {
	first, count uint64
	key          string
}

// setBreak ends the walk.
func (w *walk) setBreak(sequence uint64, kind BreakKind, format string, args ...any) {
	w.report.Break = &AuditBreak{Sequence: sequence, Kind: kind, What: fmt.Sprintf(format, args...)}
}

// wrong is setBreak for the record that is read, unless an operator has accepted it.
func (w *walk) wrong(raw *jetstream.RawStreamMsg, kind BreakKind, format string, args ...any) {
	w.found(AuditBreak{Sequence: raw.Sequence, Kind: kind, What: fmt.Sprintf(format, args...), Hash: hashOf(raw.Data)})
}

// missing is setBreak for records that are not there, unless an operator has accepted that.
func (w *walk) missing(from, to uint64, kind BreakKind, format string, args ...any) {
	w.found(AuditBreak{Sequence: from, To: to, Kind: kind, What: fmt.Sprintf(format, args...)})
}

func (w *walk) found(found AuditBreak) {
	if !w.accepts(&found) {
		w.report.Break = &found
	}
}

func (w *walk) step(raw *jetstream.RawStreamMsg) {
	sequence := raw.Sequence
	var r AuditRecord
	readable := json.Unmarshal(raw.Data, &r) == nil
	before := w.report.Head
	switch {
	case w.report.Records == 0 && sequence > 1 && w.young:
		w.missing(1, sequence-1, BreakTruncated, "the oldest records, up to number %d, are missing, and the stream is too young for them to have aged out", sequence-1)
	case w.report.Records == 0 && sequence == 1 && r.Previous != "" && r.Previous != zeroHash:
		w.wrong(raw, BreakTruncated, "record 1 refers to an earlier record that does not exist: the stream was recreated from a part of the audit")
	case w.report.Records == 0:
	case sequence != before.Sequence+1:
		w.missing(before.Sequence+1, sequence-1, BreakRemoved, "%s missing between other records: removed after being recorded", numbers(before.Sequence+1, sequence-1))
	case readable && r.Previous == before.Hash: // as it should be
	case w.chained && (!readable || r.Previous == ""):
		w.wrong(raw, BreakForeign, "record %d is not part of the chain: it was not written by Certpost", sequence)
	case r.Previous != "":
		w.wrong(raw, BreakChanged, "record %d does not follow from record %d: one of the two was changed, or %d was not written by Certpost", sequence, before.Sequence, sequence)
	}
	if w.report.Break != nil {
		return
	}
	if w.report.Records == 0 {
		w.report.First, w.report.AgedOut, w.firstPrevious = sequence, sequence-1, r.Previous
	}
	if w.keys != nil {
		if w.stepHMAC(raw, &r); w.report.Break != nil {
			return
		}
	}
	if r.Previous == "" {
		w.report.Unchained++
	} else {
		w.chained = true
	}
	w.report.Head = Anchor{sequence, hashOf(raw.Data)}
	w.report.Records++
	for _, a := range w.anchors {
		if a.Sequence == sequence && a.Hash != w.report.Head.Hash {
			w.wrong(raw, BreakAnchor, "record %d differs from its anchor: the audit was rewritten up to this record", sequence)
		}
	}
}

// readKeys reads the keys anew.
func (w *walk) readKeys() error {
	keys, err := w.read()
	if err == nil {
		w.keys, w.ledger.keys = keys, keys
	}
	return err
}

// check checks the HMAC of a record. Its key may have been made after the keys were read: an
// operator replaces the key while this walk goes on, or between two parts of it.
func (w *walk) check(raw *jetstream.RawStreamMsg) (result checked, key string) {
	result, key = w.keys.checkRecord(raw)
	if result != unknownKey || w.read == nil || key == w.readFor {
		return result, key
	}
	w.readFor = key
	if w.readKeys() != nil {
		return result, key // it stays unknown, and the next walk reads them again
	}
	return w.keys.checkRecord(raw)
}

// stepHMAC checks the HMAC of one record. From the record `sealed` on, each has one, made with
// the key in force.
func (w *walk) stepHMAC(raw *jetstream.RawStreamMsg, r *AuditRecord) {
	n, rep := raw.Sequence, &w.report
	result, key := w.check(raw)
	if rep.Records == 0 && n > 1 && result == authentic { // the record `sealed` has aged out
		rep.SignedFrom, w.inForce = n, key
	}
	anew := result == authentic && r.Action == ActionSealed && r.Sealing != nil && (rep.SignedFrom == 0 || r.Sealing.Lost)
	switch {
	case result == forged:
		w.wrong(raw, BreakForged, "the HMAC of record %d is wrong: the record was changed, or it was not written by Certpost", n)
	case result == unsigned && (rep.SignedFrom != 0 || w.strange.count > 0):
		w.wrong(raw, BreakUnsigned, "record %d has no HMAC, although earlier ones have: it was not written by a Certpost with the key", n)
	case result == unsigned:
	case anew:
		first := rep.SignedFrom == 0
		rep.Unverified += w.strange.count
		w.strange = strange{}
		if first {
			rep.SignedFrom = n
		}
		w.inForce = r.Sealing.Key
		rep.Signed++
		_ = w.ledger.learn(raw, r, first) // never fails for this action
	case result == unknownKey && (rep.SignedFrom == 0 || key == w.inForce):
		if w.strange.count == 0 {
			w.strange = strange{first: n, key: key}
		}
		w.strange.count++
	case result == unknownKey, rep.SignedFrom != 0 && key != w.inForce:
		w.wrong(raw, BreakForged, "record %d is signed with key %s, which is not in force there", n, key)
	default:
		rep.Signed++
		w.noteClosing(r, n)
		if r.Action == ActionRekeyed && r.Sealing != nil && rep.SignedFrom != 0 {
			w.ledger.replaced[w.inForce] = raw.Time
			w.inForce = r.Sealing.Key
			delete(w.ledger.replaced, w.inForce) // used again
		}
		if err := w.ledger.learn(raw, r, false); err != nil {
			w.wrong(raw, BreakForged, "record %d is no checkpoint: %v", n, err)
		}
	}
}

// end checks what follows the last record; last is the stream's last sequence.
func (w *walk) end(last uint64) {
	head := w.report.Head.Sequence
	switch {
	case w.report.Records == 0 && last > 0 && w.young:
		w.missing(1, last, BreakTruncated, "%s missing: the audit is empty, and the stream is too young for them to have aged out", numbers(1, last))
		return
	case w.report.Records == 0:
		w.report.AgedOut, head = last, last
	case head < last:
		w.missing(head+1, last, BreakTruncated, "%s missing at the end: removed after being recorded", numbers(head+1, last))
		return
	case w.strange.count > 0:
		w.setBreak(w.strange.first, BreakKey, "records from %d on are signed with key %s, which is not among the keys that are given: the key is missing, or the records were not written by Certpost", w.strange.first, w.strange.key)
		return
	}
	for _, a := range w.anchors {
		switch {
		case a.Sequence > head:
			w.missing(a.Sequence, a.Sequence, BreakTruncated, "the audit ends with record %d, but the anchor is of a later record: the stream was cut off or recreated", head)
			if w.report.Break != nil {
				return
			}
		case a.Sequence < w.report.First || w.report.Records == 0:
			w.report.Unchecked = append(slices.Clip(w.report.Unchecked), a)
		}
	}
	if w.remembered != nil && w.remembered.Sealed && w.report.SignedFrom == 0 && w.report.Records > 0 {
		w.missing(w.report.First, 0, BreakUnsigned, "no record has an HMAC any more, but this process has seen them signed: the audit was rewritten")
	}
}

func numbers(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("record %d is", from)
	}
	return fmt.Sprintf("records %d to %d are", from, to)
}
