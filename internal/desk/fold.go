package desk

import (
	"unique"

	"github.com/certpost/certpost/internal/broker"
)

// HistoryLine is a line of the history: a record, or all that a replay run wrote of
// its letters by one action, which are a thousand.
type HistoryLine struct {
	broker.AuditRecord // the newest of them
	Records            int
	Letters            int // that the action was done to; 0: it was announced alone
}

// Folded reports whether the line stands for more than its record.
func (l *HistoryLine) Folded() bool { return l.Records > 1 }

// fold is what one line stands for.
type fold struct {
	newest           uint64 // the sequence of its last record, where it stands in a list
	records, letters int
}

type foldKey struct{ run, action unique.Handle[string] }

func (f *fold) add(r *record) {
	f.newest = max(f.newest, r.sequence)
	f.records++
	if r.outcome() {
		f.letters++
	}
}

func (r *record) outcome() bool { return r.stage.Value() != string(broker.StageIntent) }

// fold adds a record to those of its run that tell the same of other letters.
func (h *history) fold(r *record) {
	if r.number == 0 || r.run.Value() == "" {
		return
	}
	key := foldKey{r.run, r.action}
	if h.folds[key] == nil {
		h.folds[key] = &fold{}
	}
	r.fold = h.folds[key]
	r.fold.add(r)
}

func (h *history) unfold(r *record) {
	if r.fold == nil {
		return
	}
	if r.outcome() {
		r.fold.letters--
	}
	if r.fold.records--; r.fold.records == 0 {
		delete(h.folds, foldKey{r.run, r.action})
	}
}

// lines are a page of the history with the records of runs folded. A line stands where
// the newest of its records does that the query chooses, so a page goes on from a
// sequence as list does. What is asked for by its run, letter or event is not folded.
func (h *history) lines(q HistoryQuery, after uint64, size int) (page []HistoryLine, next uint64) {
	f := q.ready()
	foldOf := func(r *record) *fold { return r.fold }
	switch {
	case q.Run != "" || q.Letter != 0 || q.Event != "":
		foldOf = func(*record) *fold { return nil }
	case q != HistoryQuery{}:
		chosen := h.chosen(f)
		foldOf = func(r *record) *fold { return chosen[r.fold] }
	}
	for i := h.before(after) - 1; i >= 0; i-- {
		r := &h.records[i]
		if !f.fits(r) {
			continue
		}
		line := HistoryLine{Records: 1}
		if all := foldOf(r); all != nil {
			if all.newest != r.sequence {
				continue
			}
			line.Records, line.Letters = all.records, all.letters
		}
		if len(page) == size {
			return page, page[size-1].Sequence
		}
		line.AuditRecord = r.record()
		page = append(page, line)
	}
	return page, 0
}

// chosen are the folds with those of their records alone that a query chooses.
func (h *history) chosen(f *historyFilter) map[*fold]*fold {
	chosen := map[*fold]*fold{}
	for i := range h.records {
		r := &h.records[i]
		if r.fold == nil || !f.fits(r) {
			continue
		}
		part := chosen[r.fold]
		if part == nil {
			part = &fold{}
			chosen[r.fold] = part
		}
		part.add(r)
	}
	return chosen
}
