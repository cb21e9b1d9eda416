package broker

import (
	"slices"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// PastOutcome is an outcome that a later revision of the ledger's entry has replaced: a replay that was
// forced, or a rollback. Without it a reader of the ledger that is behind would never see it, because the
// bucket keeps only the newest revision.
type PastOutcome struct {
	Revision   uint64           `json:"revision"` // that had it
	At         time.Time        `json:"at"`       // when it was stored, by the server's clock
	State      State            `json:"state"`    // sent or skipped
	Generation int              `json:"generation"`
	Sequence   uint64           `json:"sequence"`
	Attempts   int              `json:"attempts"`
	Receipt    *verdict.Receipt `json:"receipt,omitempty"` // in short
}

// maxPast is how many past outcomes an entry keeps, the newest.
const maxPast = 8

// outcome is the entry's outcome as it is kept when the entry changes; nil if it has none that only
// the ledger knows. That of dead and discarded deliveries is known from the letter and the audit.
func (e *Entry) outcome(revision uint64) *PastOutcome {
	if e.State != StateSent && e.State != StateSkipped {
		return nil
	}
	past := &PastOutcome{Revision: revision, At: e.Stored, State: e.State, Generation: e.Generation, Sequence: e.Sequence, Attempts: e.Attempts}
	if e.Receipt != nil && e.State == StateSent {
		brief := e.Receipt.Brief()
		past.Receipt = &brief
	}
	return past
}

// keepOutcome adds the outcome that the entry had when it was read. A writer that writes several times
// after one read adds the same one each time.
func (e *Entry) keepOutcome() {
	known := func(p PastOutcome) bool { return p.Revision == e.was.Revision }
	if e.was == nil || slices.ContainsFunc(e.Past, known) {
		return
	}
	e.Past = append(slices.Clip(e.Past), *e.was)
	e.Past = e.Past[max(len(e.Past)-maxPast, 0):]
}
