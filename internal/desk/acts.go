package desk

import (
	"cmp"
	"context"
	"slices"
	"time"
	"unique"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// NewAct returns the id of an act on many letters, for broker.Actor or Frozen.
func NewAct() string { return events.NewID() }

// CheckAct checks an id of an act that a client sends: its own, or that of an earlier answer.
func CheckAct(act string) error {
	if act != "" && !events.IsToken(act) {
		return invalid("invalid act: want at most 64 letters, digits, hyphens and underscores")
	}
	return nil
}

// recordTime bounds the writing of the record of a whole act.
const recordTime = 10 * time.Second

// RecordAct writes the one record that stands for an act on many letters (by.Act), besides those
// of the letters. Without it the act is complete all the same: lists then show each letter's.
func (d *Desk) RecordAct(ctx context.Context, by broker.Actor, purpose Purpose, reason string, q Query, named bool, letters []uint64) {
	if len(letters) == 0 {
		return
	}
	action := map[Purpose]broker.Action{ForDiscard: broker.ActionDiscarded, ForHold: broker.ActionHeld, ForRelease: broker.ActionReleased, ForRestore: broker.ActionRestored}[purpose]
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	if err := d.b.Append(ctx, broker.AuditRecord{Action: action, Stage: broker.StageOutcome, Actor: by, Reason: reason, Many: manyOf(q, named, letters)}); err != nil {
		d.log.Warn().Err(err).Str("act", by.Act).Msg("the audit has each letter of an action on many, but no record of the whole")
	}
}

// manyOf describes letters that an act is on. named says that the filter does not describe them.
func manyOf(q Query, named bool, letters []uint64) *broker.Many {
	many := &broker.Many{Letters: len(letters), Numbers: slices.Clone(letters[:min(len(letters), broker.MaxMany)])}
	if !named {
		many.Filter = LetterConditions.Filter(q)
		delete(many.Filter, "state")
		delete(many.Filter, "as_of") // it says when the letters were shown, not which
	}
	return many
}

// actKey identifies an act: one id, of one kind of action and one actor, so that no other client
// can hide its records among those of an act.
type actKey struct{ act, action, by, user unique.Handle[string] }

// key returns the act that a record is part of, or describes as a whole.
func (r *record) key() (key actKey, ok bool) {
	if r.run.Value() != "" { // ids of runs are made here, and one run is one act
		return actKey{act: r.run}, true
	}
	return actKey{r.act, r.action, r.by, r.user}, r.act.Value() != ""
}

// whole is the records that describe an act as a whole: several if it was done in parts.
type whole struct {
	newest  uint64       // sequence
	letters int          // in all parts
	first   *broker.Many // of the first part: the filters of the others say where they go on
}

// putWhole notes a record that describes an act as a whole.
func (h *history) putWhole(r *record) {
	key, ok := r.key()
	if r.many == nil || !ok {
		return
	}
	w := h.acts[key]
	h.acts[key] = whole{r.sequence, w.letters + r.many.Letters, cmp.Or(w.first, r.many)}
}

// folded reports whether a list leaves a record out because the list has the record of the act
// that it is part of.
func (h *history) folded(f *historyFilter, r *record) bool {
	key, ok := r.key()
	if !ok || f.Each == nil || *f.Each || r.many == nil && r.number == 0 {
		return false
	}
	w, ok := h.acts[key]
	if !ok || w.newest == r.sequence {
		return false
	}
	at := h.before(w.newest)
	return at < len(h.records) && h.records[at].sequence == w.newest && f.fits(&h.records[at])
}

// Folds reports whether the page of the audit shows an act on many letters as one record: not
// where the records of one act, run or letter are asked for, or of how letters ended.
func (q HistoryQuery) Folds() bool {
	return q.Each == nil && q.Act == "" && q.Run == ""
}
