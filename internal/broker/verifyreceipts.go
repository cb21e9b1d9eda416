package broker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// More kinds of breaks: those of the ledger.
const (
	BreakDeleted    BreakKind = "deleted"     // a covered entry is gone before its time
	BreakRolledBack BreakKind = "rolled-back" // an old value of an entry was written again
)

// EntryBreak is an entry of the ledger that is not what Certpost wrote.
type EntryBreak struct {
	Key      string    `json:"key,omitempty"` // "" if the entry is gone: only its revision is known
	Revision uint64    `json:"revision"`
	Kind     BreakKind `json:"kind"`
	What     string    `json:"what"`
}

// ReceiptReport is what the comparison of the ledger with the audit's checkpoints found.
type ReceiptReport struct {
	// Covered entries are as a checkpoint says, or were changed by Certpost since. NotCovered
	// have a receipt and a right HMAC, but no checkpoint yet.
	Covered    uint64 `json:"covered"`
	NotCovered uint64 `json:"not_covered"`
	// Unsigned are from before entries were signed; Unverified are signed with a key that an
	// operator declared lost; Expired were covered, and the ledger removed them at their age.
	Unsigned   uint64 `json:"unsigned,omitempty"`
	Unverified uint64 `json:"unverified,omitempty"`
	Expired    uint64 `json:"expired,omitempty"`
	Accepted   uint64 `json:"accepted,omitempty"` // breaks that an operator has accepted
	// Breaks are the first entries that are not what Certpost wrote, Broken is their number.
	Breaks []EntryBreak `json:"breaks,omitempty"`
	Broken uint64       `json:"broken"`
}

// mostBreaks is how many breaks a report lists.
const mostBreaks = 20

// ledgerBreaks are the entries that are not what Certpost wrote, by the key's hash. If a key is
// lost, that is all of them: only the first ones of the reading, which the report is about, are
// kept with their words.
type ledgerBreaks struct {
	all   map[uint64]breakAt
	words map[uint64]EntryBreak
}

type breakAt struct {
	revision uint64
	kind     BreakKind
}

// mostWords is how many breaks are kept with their words: more than are listed, because some are
// found to be right later in the reading, or accepted.
const mostWords = 50 * mostBreaks

const wordsOfDeleted = "a checkpoint covers this revision, and the ledger has no entry of that delivery any more: it was removed, not by Certpost"

func newLedgerBreaks() ledgerBreaks {
	return ledgerBreaks{map[uint64]breakAt{}, map[uint64]EntryBreak{}}
}

// add notes a break; what is called only if its words are kept.
func (l ledgerBreaks) add(key uint64, entry string, at breakAt, what func() string) {
	l.all[key] = at
	if len(l.words) < mostWords {
		l.words[key] = EntryBreak{strings.Clone(entry), at.revision, at.kind, what()} // of a message's headers
	}
}

func (l ledgerBreaks) remove(key uint64) {
	delete(l.all, key)
	delete(l.words, key)
}

// accept removes the breaks that an operator has accepted, and returns how many they are.
func (l ledgerBreaks) accept(accepted []AcceptedBreak) (n uint64) {
	for key, at := range l.all {
		if slices.ContainsFunc(accepted, func(a AcceptedBreak) bool { return a.Revision == at.revision && a.Kind == at.kind }) {
			l.remove(key)
			n++
		}
	}
	return n
}

// first returns the first breaks by revision.
func (l ledgerBreaks) first() []EntryBreak {
	keys := slices.SortedFunc(maps.Keys(l.all), func(a, b uint64) int { return cmp.Compare(l.all[a].revision, l.all[b].revision) })
	var first []EntryBreak
	for _, key := range keys[:min(len(keys), mostBreaks)] {
		e, known := l.words[key]
		if !known {
			e = EntryBreak{Revision: l.all[key].revision, Kind: l.all[key].kind, What: "one of many: look into those with more words first"}
			if e.Kind == BreakDeleted {
				e.What = wordsOfDeleted
			}
		}
		first = append(first, e)
	}
	return first
}

// ledgerRules says which entries of the ledger are right. The audit's records, as they are read
// in order, tell it.
type ledgerRules struct {
	keys       *AuditKeys
	unsignedTo revisionLimit        // entries up to it may be unsigned
	lostTo     revisionLimit        // entries up to it may be signed with a key that is not given
	replaced   map[string]time.Time // old keys, and when they were replaced
	covered    map[uint64]cover     // by the key's hash: the newest leaf
}

// revisionLimit is a revision of a ledger. Its zero value is before all.
type revisionLimit struct {
	revision uint64
	created  time.Time
}

func (l revisionLimit) includes(revision uint64, created time.Time) bool {
	return revision <= l.revision && created.Equal(l.created)
}

// cover is the newest leaf of a key: 28 bytes.
type cover struct {
	revision uint64
	hash     [16]byte
	at       uint32 // when the checkpoint was stored, Unix seconds
}

// graceAfterRotation is how long another process may still sign entries with the old key.
const graceAfterRotation = time.Minute

// learn takes in an authentic record of the audit.
func (rules *ledgerRules) learn(raw *jetstream.RawStreamMsg, r *AuditRecord, first bool) error {
	switch {
	case r.Action == ActionSealed && r.Sealing != nil:
		limit := revisionLimit{r.Sealing.LedgerRevision, r.Sealing.LedgerCreated}
		if first {
			rules.unsignedTo = limit
		}
		if r.Sealing.Lost {
			rules.lostTo = limit
		}
	case r.Action == ActionCheckpoint && r.Checkpoint != nil:
		leaves, err := r.Checkpoint.leaves()
		if err != nil {
			return err
		}
		for _, l := range leaves {
			if l.revision >= rules.covered[l.key].revision {
				rules.covered[l.key] = cover{l.revision, [16]byte(l.hash[:16]), uint32(min(raw.Time.Unix(), math.MaxUint32))}
			}
		}
	}
	return nil
}

// judge returns what is wrong with the seal of an entry, "" if nothing is.
func (rules *ledgerRules) judge(seal entrySeal, revision uint64, stored, created time.Time) (kind BreakKind, what string) {
	switch seal.result {
	case unsigned:
		if !rules.unsignedTo.includes(revision, created) {
			return BreakUnsigned, fmt.Sprintf("it has no HMAC, although all entries after revision %d have: it was not written by a Certpost with the key", rules.unsignedTo.revision)
		}
	case unknownKey:
		if !rules.lostTo.includes(revision, created) {
			return BreakForged, "it is signed with a key that is not given: the key is missing, or the entry was not written by Certpost"
		}
	case forged:
		return BreakForged, "its HMAC is wrong: it was changed, or not written by Certpost"
	case authentic:
		if at, old := rules.replaced[seal.key]; old && stored.After(at.Add(graceAfterRotation)) {
			return BreakForged, "it is signed with a key that was replaced before"
		}
	}
	return "", ""
}

// VerifyReceipts verifies the audit and then compares the ledger with its checkpoints. The
// second report is nil if no key is configured, nothing is signed yet, or the audit is broken.
func (b *Broker) VerifyReceipts(ctx context.Context, anchors ...Anchor) (AuditReport, *ReceiptReport, error) {
	w, err := b.verifyAudit(ctx, anchors)
	if err != nil || w.report.Break != nil || w.report.SignedFrom == 0 {
		return w.report, nil, err
	}
	receipts, _, err := b.verifyLedger(ctx, &w.ledger, w.accepted)
	return w.report, receipts, err
}

// verifyLedger reads the ledger and compares each entry with the rules. It also returns the
// leaves of the entries that are right and not covered yet, at most mostPending.
func (b *Broker) verifyLedger(ctx context.Context, rules *ledgerRules, accepted []AcceptedBreak) (report *ReceiptReport, notCovered []leaf, err error) {
	s, err := b.js.Stream(ctx, "KV_"+LedgerBucket)
	if err != nil {
		return nil, nil, fmt.Errorf("stream KV_%s: %w", LedgerBucket, err)
	}
	info, report := s.CachedInfo(), &ReceiptReport{}
	seen := make(map[uint64]struct{}, len(rules.covered))
	// A replica that lags may return an old value; the newest of the key, which comes later in
	// the same read, replaces what was found there.
	broken := newLedgerBreaks()
	for raw, err := range b.read(ctx, "KV_"+LedgerBucket, "", 1) {
		if err != nil {
			return nil, nil, err
		}
		c := ledgerChange(raw)
		if c.Deleted {
			continue
		}
		key, seal := leafKey(c.Key), rules.keys.checkEntry(c.Key, raw.Data)
		cover, covered := rules.covered[key]
		seen[key] = struct{}{}
		broken.remove(key)
		kind, what := rules.judge(seal, raw.Sequence, raw.Time, info.Created)
		full := leafOf(c.Key, raw.Data, raw.Sequence)
		switch {
		case kind != "":
			broken.add(key, c.Key, breakAt{raw.Sequence, kind}, func() string { return what })
		case covered && raw.Sequence == cover.revision && [16]byte(full.hash[:16]) != cover.hash:
			broken.add(key, c.Key, breakAt{raw.Sequence, BreakChanged}, func() string { return "it is another one than the checkpoint says: the ledger was recreated" })
		case covered && (raw.Sequence < cover.revision || raw.Sequence > cover.revision && seal.after < cover.revision):
			broken.add(key, c.Key, breakAt{raw.Sequence, BreakRolledBack}, func() string {
				return fmt.Sprintf("it is an old value: a checkpoint covers revision %d, which it does not follow", cover.revision)
			})
		case seal.result == unsigned:
			report.Unsigned++
		case seal.result == unknownKey:
			report.Unverified++
		case covered && (raw.Sequence == cover.revision || c.Entry.Receipt == nil):
			report.Covered++
		case c.Entry.Receipt != nil:
			report.NotCovered++
			if len(notCovered) < mostPending {
				notCovered = append(notCovered, full)
			}
		}
	}
	for key, cover := range rules.covered {
		if _, there := seen[key]; there {
			continue
		}
		if age := time.Since(time.Unix(int64(cover.at), 0)); info.Config.MaxAge > 0 && age > info.Config.MaxAge-time.Hour {
			report.Expired++
			continue
		}
		broken.add(key, "", breakAt{cover.revision, BreakDeleted}, func() string { return wordsOfDeleted })
	}
	report.Accepted = broken.accept(accepted)
	report.Broken, report.Breaks = uint64(len(broken.all)), broken.first()
	return report, notCovered, nil
}
