package broker

import (
	"fmt"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// State is the state of a delivery.
type State string

// The states. A delivery without an entry was never attempted.
const (
	StateWaiting   State = "waiting"   // failed temporarily, is retried
	StateSending   State = "sending"   // claimed: content may be going out until Lease
	StateSent      State = "sent"      // accepted by the relay
	StateDead      State = "dead"      // became a dead letter
	StateDiscarded State = "discarded" // its dead letter was discarded
	StateSkipped   State = "skipped"   // the target has a newer certificate, and wants only the newest; or its host has one of a later event
)

// Final reports whether the state is an outcome: no message of the delivery has to be in
// the stream.
func (s State) Final() bool {
	return s == StateSent || s == StateDead || s == StateDiscarded || s == StateSkipped
}

// Entry is what the ledger stores of one delivery: the value at key <target>.<event> of the
// bucket CERTPOST_LEDGER. It holds no secret.
type Entry struct {
	Event      string `json:"event"` // the event's own id
	Target     string `json:"target"`
	Lane       string `json:"lane"`
	Digest     string `json:"digest"` // of the event: reveals another event with the same id
	State      State  `json:"state"`
	Generation int    `json:"generation"`
	// Sequence is that of the delivery message (in CERTPOST_DELIVERIES) that brought the
	// entry to its state: the same message again is already settled, a newer one is a
	// replay.
	Sequence uint64 `json:"sequence"`
	// EventSequence is that of the newest event (in CERTPOST_EVENTS) whose delivery was
	// attempted; 0 if none is known.
	EventSequence uint64 `json:"event_sequence,omitempty"`
	// EventSubject is the subject that this event was published on, for a replay without
	// headers; "" if it is not known.
	EventSubject string `json:"event_subject,omitempty"`
	// Attempts and First are of this generation; AllAttempts and FirstOfAll are of the whole life.
	Attempts int       `json:"attempts"`
	First    time.Time `json:"first_attempt,omitzero"`
	Last     time.Time `json:"last_attempt,omitzero"`
	// EarlierAttempts are those before the last replay, Began is the first of them.
	EarlierAttempts int       `json:"earlier_attempts,omitempty"`
	Began           time.Time `json:"began,omitzero"`
	// FailedReplays counts the replays that ended in a dead letter; LastDead is when the delivery
	// became one last.
	FailedReplays int       `json:"failed_replays,omitempty"`
	LastDead      time.Time `json:"last_dead,omitzero"`

	// NextTry is when a waiting delivery is tried again, unless its lane delivers nothing then;
	// zero: as soon as the lane takes it, or not known.
	NextTry time.Time `json:"next_try,omitzero"`
	// Wait is what a listed delivery waits for. The ledger does not store it.
	Wait *Wait `json:"wait,omitempty"`

	// Owner is the process that sends, Lease the time by which the outcome is known. The
	// writer of `sending`, at the time Claimed, owns the entry until then. Both times are by
	// the writer's clock, so others use the time between them (Ledger.LeaseLeft).
	Owner   string    `json:"owner,omitempty"`
	Claimed time.Time `json:"claimed,omitzero"`
	Lease   time.Time `json:"lease,omitzero"`
	// Uncertain is set while the outcome of an earlier attempt is unknown;
	// PossibleDuplicates counts the mails sent in spite of it.
	Uncertain          bool `json:"uncertain,omitempty"`
	PossibleDuplicates int  `json:"possible_duplicates,omitempty"`
	// MayHave are the recipients of the mail of an Uncertain delivery that became a dead letter.
	MayHave []string `json:"may_have,omitempty"`
	// Consented says that this generation began with the replay of a dead letter that is
	// Uncertain: the operator wants the mail sent in spite of that, however many attempts
	// it takes. A new unknown outcome ends it.
	Consented bool `json:"consented,omitempty"`
	// Panics counts attempts that ended in a panic.
	Panics int `json:"panics,omitempty"`

	// Accepted recipients have the mail; Refused ones will never get it, and end in one
	// dead letter when the outcome of the others is known; Owed are to be tried (again). If
	// all three are empty, the target's recipients are owed.
	Accepted []string          `json:"accepted,omitempty"`
	Refused  []verdict.Refusal `json:"refused,omitempty"`
	Owed     []string          `json:"owed,omitempty"`

	// Certificate is the one delivered, or to be delivered; nil if the event refers to a
	// secret that was never fetched. The stored receipt does not repeat it.
	Certificate *verdict.Certificate `json:"certificate,omitempty"`

	Failure *FailureRecord   `json:"failure,omitempty"` // of the last failed attempt
	Tries   []Try            `json:"tries,omitempty"`   // failed attempts: the first and the last ones
	Receipt *verdict.Receipt `json:"receipt,omitempty"` // of the last mail accepted
	// Earlier are the receipts before it, in short, the oldest first: of other recipients, or of a
	// replay that sent the mail again. Only the last ones are kept; EarlierDropped are not.
	Earlier        []verdict.Receipt `json:"earlier_receipts,omitempty"`
	EarlierDropped int               `json:"earlier_receipts_dropped,omitempty"`
	// Hold is what the deployment waits for, or waited for when it was held last; nil if it was not.
	Hold *verdict.Hold `json:"hold,omitempty"`
	// Cancel is the order that ended the wait of the delivery, or is about to; nil: none.
	Cancel *Cancel `json:"cancel,omitempty"`
	// DeadLetter is the subject of the open dead letter.
	DeadLetter string `json:"dead_letter,omitempty"`

	// Past are outcomes that later revisions have replaced, the oldest first.
	Past []PastOutcome `json:"past_outcomes,omitempty"`

	// Stored is when the server stored this revision, by its clock; set when it is read.
	Stored time.Time    `json:"-"`
	was    *PastOutcome // the outcome of the revision that was read
}

// Wait is what a delivery in the queue waits for.
type Wait struct {
	Since time.Time `json:"since,omitzero"` // when its message was published; zero: not looked up
	// Replay is which replay of the delivery waits, 0 if none does; Letter the number of the dead
	// letter that it replays, 0 if there is none, or it was not looked up.
	Replay int    `json:"replay,omitempty"`
	Letter uint64 `json:"letter,omitempty"`
	Reason string `json:"reason"` // of its lane, if that delivers nothing, else the last failure
	// Next is when it is tried again; zero: not known. Then says what happens first.
	Next time.Time `json:"next_try,omitzero"`
	Then string    `json:"then,omitempty"`
}

// Refuses returns the failure of a delivery of an event whose id was used for another
// certificate, nil if the entry is about this one.
func (e Entry) Refuses(ev *events.Event) *verdict.Failure {
	if e.Digest == ev.Digest() {
		return nil
	}
	return verdict.Fail(verdict.EventInvalid, verdict.PhaseResolve,
		fmt.Sprintf("the event id is already used for another certificate (that delivery is %q); publish this event with a new id", e.State))
}

// StateWord is the state for people: of a deployment that ended well it also says what became of the files.
func (e Entry) StateWord() string {
	r := e.Receipt
	switch {
	case e.State != StateSent || r == nil || !r.OnHost():
		return string(e.State)
	case r.RolledBack != nil:
		return "sent (rolled back)"
	case r.State == "unchanged":
		return "sent (unchanged)"
	}
	return "sent (deployed)"
}

// HeldBack reports whether the delivery waits for something outside, see Hold.
func (e Entry) HeldBack() bool {
	return e.State == StateWaiting && e.Hold != nil && e.Failure != nil && e.Failure.Code == verdict.DeployHeld
}

// LastAct returns when the delivery was last tried or, if it never was, when it was cancelled.
func (e Entry) LastAct() time.Time {
	if e.Last.IsZero() && e.Cancel != nil {
		return e.Cancel.At
	}
	return e.Last
}

// Untried reports whether the delivery waits for its first attempt, so that the ledger has no
// entry of it.
func (e Entry) Untried() bool {
	return e.State == StateWaiting && e.Attempts == 0 && e.Last.IsZero() && e.Failure == nil
}

// AllAttempts returns the number of attempts, those before replays included.
func (e Entry) AllAttempts() int { return e.EarlierAttempts + e.Attempts }

// FirstOfAll returns the time of the first attempt, before any replay.
func (e Entry) FirstOfAll() time.Time {
	if e.Began.IsZero() {
		return e.First
	}
	return e.Began
}

// Renew begins a new generation at a time: a replay. What was before stays part of its life.
func (e *Entry) Renew(now time.Time) {
	e.EarlierAttempts, e.Began = e.AllAttempts(), e.FirstOfAll()
	e.Attempts, e.Panics, e.First = 0, 0, now
}

// Release ends the lease.
func (e *Entry) Release() { e.Owner, e.Claimed, e.Lease = "", time.Time{}, time.Time{} }

// TriedAgain returns the waiting entry with the time of its next attempt.
func (e Entry) TriedAgain(at time.Time) Entry {
	e.NextTry = at.UTC().Truncate(time.Second)
	return e
}

// Learn records what an attempt found out about the recipients.
func (e *Entry) Learn(receipt *verdict.Receipt, failure *verdict.Failure) {
	if receipt != nil {
		e.supersede()
		// Recipients that this mail did not reach may have an earlier one.
		e.Receipt, e.Uncertain = receipt, e.Uncertain && failure != nil
		if !e.Uncertain {
			e.MayHave = nil
		}
		if receipt.Certificate != nil {
			e.Certificate = receipt.Certificate
		}
		e.Accepted = union(e.Accepted, receipt.Recipients)
	}
	if failure == nil {
		e.Owed = nil
		return
	}
	e.Refused = append(slices.Clip(e.Refused), failure.Refused...)
	if failure.Recipients != nil {
		e.Owed = slices.DeleteFunc(slices.Clone(failure.Recipients), e.isRefused)
	}
}

// maxEarlier is how many earlier receipts an entry keeps.
const maxEarlier = 20

// supersede moves the receipt to the earlier ones.
func (e *Entry) supersede() {
	if e.Receipt == nil {
		return
	}
	e.Earlier = append(slices.Clip(e.Earlier), e.Receipt.Brief())
	if more := len(e.Earlier) - maxEarlier; more > 0 {
		e.Earlier = slices.Clone(e.Earlier[more:])
		e.EarlierDropped += more
	}
}

// Receipts are all receipts of the delivery that are kept, the oldest first.
func (e *Entry) Receipts() []verdict.Receipt {
	if e.Receipt == nil {
		return e.Earlier
	}
	return append(slices.Clip(e.Earlier), *e.Receipt)
}

func (e *Entry) isRefused(recipient string) bool {
	return slices.ContainsFunc(e.Refused, func(r verdict.Refusal) bool { return r.Recipient == recipient })
}

// Decided reports that no recipient is left to be tried, and some were refused.
func (e *Entry) Decided() bool { return len(e.Owed) == 0 && len(e.Refused) > 0 }

// Missing returns the recipients that do not have the mail, for a dead letter; none means
// all of the target's.
func (e *Entry) Missing() []string {
	missing := slices.Clone(e.Owed)
	for _, r := range e.Refused {
		missing = union(missing, []string{r.Recipient})
	}
	return missing
}

// MaybeHave returns the recipients that may have the mail of an Uncertain delivery; none: it is not
// recorded which of the target's. A refused recipient never gets it.
func (e *Entry) MaybeHave() []string {
	all := e.MayHave
	if len(all) == 0 {
		all = e.Owed
	}
	return slices.DeleteFunc(slices.Clone(all), func(r string) bool {
		return slices.ContainsFunc(e.Refused, func(refusal verdict.Refusal) bool { return refusal.Recipient == r })
	})
}

// Try is a failed attempt, kept for comparison with others. Attempts that failed because no
// relay was available are not counted and not kept.
type Try struct {
	Generation int       `json:"generation"` // of the delivery; a replay increments it
	Number     int       `json:"number"`     // within it
	At         time.Time `json:"at"`
	FailureRecord
	Transcript *verdict.Transcript `json:"course"`
}

// maxTries is the number of attempts kept: the first of all, and the last ones.
const maxTries = 6

// Failed returns the entry with a failure recorded. A failure without a transcript is not
// added to Tries, because no attempt led to it.
func (e Entry) Failed(f *verdict.Failure) Entry {
	e.Failure = record(f)
	if f.Transcript == nil {
		return e
	}
	// The last attempt may be recorded twice: replace it.
	e.Tries = slices.DeleteFunc(slices.Clone(e.Tries), func(t Try) bool { return t.Generation == e.Generation && t.Number == e.Attempts })
	e.Tries = append(e.Tries, Try{Generation: e.Generation, Number: e.Attempts, At: e.Last, FailureRecord: *e.Failure, Transcript: f.Transcript})
	if len(e.Tries) > maxTries {
		e.Tries = slices.Delete(e.Tries, 1, 2)
	}
	return e
}

// Waiting returns the entry after an attempt that failed temporarily.
func (e Entry) Waiting(f *verdict.Failure) Entry {
	e = e.Failed(f)
	e.State, e.NextTry = StateWaiting, time.Time{}
	e.Release()
	e.Uncertain = e.Uncertain || f.Certainty == verdict.MaybeSent
	return e
}

// FailureRecord is the part of a verdict.Failure that is stored.
type FailureRecord struct {
	verdict.Outcome
	Secrets map[string]string `json:"secrets,omitempty"` // reference -> version
}

func record(f *verdict.Failure) *FailureRecord {
	return &FailureRecord{Outcome: f.Definite(), Secrets: f.Secrets}
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
