package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Acceptance is what a record `accepted` says: an operator has looked into a break, and it no
// longer counts. It is bound to what was found there, so that it does not cover anything else.
type Acceptance struct {
	Record uint64    `json:"record,omitempty"` // where the break is
	To     uint64    `json:"to,omitempty"`     // the last one that is missing
	Hash   string    `json:"hash,omitempty"`   // of the record that is there; "" if it is missing
	Kind   BreakKind `json:"kind"`
	What   string    `json:"what"`
	// Revision is that of an entry of the ledger instead.
	Revision uint64 `json:"revision,omitempty"`
}

// AcceptedBreak is a break that an operator has accepted.
type AcceptedBreak struct {
	Acceptance
	By       string    `json:"by"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
	Sequence uint64    `json:"accepted_in"` // the record that accepts it
}

// acceptedIn returns what a record accepts; nil if it is no signed record that accepts a break.
// Without keys no record is signed.
func acceptedIn(keys *AuditKeys, raw *jetstream.RawStreamMsg) *AcceptedBreak {
	if keys != nil {
		if result, _ := keys.checkRecord(raw); result != authentic {
			return nil
		}
	}
	r := readRecord(raw)
	if r.Action != ActionAccepted || r.Accepted == nil {
		return nil
	}
	return &AcceptedBreak{*r.Accepted, r.Shown(), r.Reason, r.Time, r.Sequence}
}

// readAccepted reads what operators have accepted.
func (b *Broker) readAccepted(ctx context.Context, keys *AuditKeys) (all []AcceptedBreak, err error) {
	for raw, err := range b.read(ctx, AuditStream, auditPrefix+string(ActionAccepted)+".>", 1) {
		if err != nil {
			return nil, err
		}
		if a := acceptedIn(keys, raw); a != nil {
			all = append(all, *a)
		}
	}
	return all, nil
}

// accepts reports whether an operator has accepted a break, and adds it to the report then. A
// record that was accepted is accepted whatever is wrong with it.
func (w *walk) accepts(found *AuditBreak) bool {
	i := slices.IndexFunc(w.accepted, func(a AcceptedBreak) bool {
		return a.Record == found.Sequence && a.To == found.To && a.Hash == found.Hash && a.Record != 0
	})
	if i < 0 || found.Kind == BreakKey {
		return false
	}
	if !slices.ContainsFunc(w.report.Accepted, func(a AcceptedBreak) bool { return a.Record == found.Sequence && a.Hash == found.Hash }) {
		w.report.Accepted = append(slices.Clip(w.report.Accepted), w.accepted[i])
	}
	return true
}

// AcceptBreak records that an operator has looked into the break at a record, or at a revision of
// the ledger if that is not 0. It returns the first break that is left, nil if there is none.
func (b *Broker) AcceptBreak(ctx context.Context, by Actor, record, revision uint64, reason string) (left *AuditBreak, err error) {
	reason, err = CheckReason(reason, true)
	if err != nil {
		return nil, err
	}
	report, receipts, err := b.VerifyReceipts(ctx)
	if err != nil {
		return nil, err
	}
	what, err := report.acceptable(receipts, record, revision)
	if err != nil {
		return nil, err
	}
	if err := b.Append(ctx, AuditRecord{Action: ActionAccepted, Actor: by, Reason: reason, Accepted: what}); err != nil {
		return nil, err
	}
	report, err = b.VerifyAudit(ctx)
	return report.Break, err
}

// ErrNoBreak is returned for a record or revision to accept where verifying finds no break.
var ErrNoBreak = errors.New("is not a break")

// acceptable returns what is to be recorded for the break at a record, or at a revision.
func (r *AuditReport) acceptable(receipts *ReceiptReport, record, revision uint64) (*Acceptance, error) {
	if revision != 0 {
		if receipts != nil {
			for _, e := range receipts.Breaks {
				if e.Revision == revision {
					return &Acceptance{Revision: revision, Kind: e.Kind, What: entryName(e) + ": " + e.What}, nil
				}
			}
		}
		if r.Break != nil {
			return nil, fmt.Errorf("the ledger is verified when the audit is intact: accept the break at record %d first", r.Break.Sequence)
		}
		return nil, fmt.Errorf("revision %d of the ledger %w that verifying finds", revision, ErrNoBreak)
	}
	switch found := r.Break; {
	case found == nil:
		return nil, fmt.Errorf("record %d %w: the audit is as it was written", record, ErrNoBreak)
	case found.Sequence != record:
		return nil, fmt.Errorf("record %d %w: the first one is at record %d (%s)", record, ErrNoBreak, found.Sequence, found.What)
	case found.Kind == BreakKey:
		return nil, errors.New("this process lacks the key of these records: provide it, or run `certpost audit rotate --lost-key`")
	default:
		return &Acceptance{Record: record, To: found.To, Hash: found.Hash, Kind: found.Kind, What: found.What}, nil
	}
}

// settleAccepted removes what operators have accepted from the breaks that are known. The lock is
// held.
func (a *Auditor) settleAccepted(accepted []AcceptedBreak) {
	for key, f := range a.broken {
		if slices.ContainsFunc(accepted, func(one AcceptedBreak) bool {
			return f.Record != 0 && one.Record == f.Record || f.Revision != 0 && one.Revision == f.Revision
		}) {
			delete(a.broken, key)
			a.b.log.Info().Str("where", f.Where).Str("what", f.What).Msg("an operator has accepted this break of the audit")
		}
	}
}

// lookForAccepted has all verified again, at once, when an operator has accepted a break. A record
// that claims it without a valid HMAC has no effect.
func (a *Auditor) lookForAccepted(ctx context.Context) error {
	a.mu.Lock()
	broken := len(a.broken) > 0
	a.mu.Unlock()
	if !broken {
		return nil
	}
	var keys *AuditKeys
	if a.b.cfg.AuditKeys != nil {
		var err error
		if keys, err = a.b.cfg.AuditKeys(ctx); err != nil {
			return fmt.Errorf("the audit's key cannot be read: %w", err)
		}
	}
	for raw, err := range a.b.read(ctx, AuditStream, auditPrefix+string(ActionAccepted)+".>", a.accepted+1) {
		if err != nil {
			return err
		}
		a.accepted = raw.Sequence
		a.urgent = a.urgent || acceptedIn(keys, raw) != nil
	}
	return nil
}
