package broker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
	Since  time.Time `json:"since,omitzero"` // when its message was published; zero: not looked up
	Reason string    `json:"reason"`         // of its lane, if that delivers nothing, else the last failure
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

// ErrClaimLost says that another process changed the entry after it was read.
var ErrClaimLost = errors.New("the ledger's entry was changed by another process")

// ErrNoEntry says that the ledger has no entry of a delivery.
var ErrNoEntry = errors.New("delivery not found in the ledger")

// ErrUnreadableEntry says that the value at a delivery's key was not written by Certpost.
var ErrUnreadableEntry = errors.New("the ledger's entry cannot be read")

// Ledger is the bucket CERTPOST_LEDGER; all writes are compare-and-set on the revision
// read.
type Ledger struct {
	b      *Broker
	kv     jetstream.KeyValue
	groups *committer // nil: every entry is written singly
	// RestoredTo is the time of the newest message of the backup that was restored; zero if none
	// was.
	RestoredTo time.Time
}

func (b *Broker) OpenLedger(ctx context.Context) (Ledger, error) {
	kv, err := b.js.KeyValue(ctx, LedgerBucket)
	if err != nil {
		return Ledger{}, fmt.Errorf("ledger %s: %w", LedgerBucket, err)
	}
	s, err := b.js.Stream(ctx, "KV_"+LedgerBucket)
	if err != nil {
		return Ledger{}, fmt.Errorf("ledger %s: %w", LedgerBucket, err)
	}
	l := Ledger{b: b, kv: kv, RestoredTo: restoredTo(s.CachedInfo().Config)}
	if b.flushesEachWrite() {
		l.groups = &committer{writeSingle: l.write, writeGroup: b.writeEntries}
	}
	return l, nil
}

// stored encodes the entry for the bucket, readEntry decodes it.
func (e Entry) stored() ([]byte, error) {
	e.Wait = nil
	if e.State != StateWaiting {
		e.NextTry = time.Time{}
	}
	if e.Receipt != nil && e.Certificate != nil {
		receipt := *e.Receipt
		receipt.Certificate = nil
		e.Receipt = &receipt
	}
	return json.Marshal(e)
}

func readEntry(stored []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(stored, &e); err != nil {
		return Entry{}, err
	}
	if e.Receipt != nil {
		e.Certificate = cmp.Or(e.Certificate, e.Receipt.Certificate)
		e.Receipt.Certificate = e.Certificate
	}
	return e, nil
}

func LedgerKey(target, eventToken string) string { return target + "." + eventToken }

// Get returns the entry and its revision; ErrNoEntry and revision 0 if there is none. It may
// be answered by a replica that lags: a write by its revision is then refused.
func (l Ledger) Get(ctx context.Context, key string) (Entry, uint64, error) {
	ctx, cancel := within(ctx, apiTimeout)
	defer cancel()
	var kve jetstream.KeyValueEntry
	err := l.b.Persist(ctx, func(ctx context.Context) (err error) {
		kve, err = l.kv.Get(ctx, key)
		return err
	})
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Entry{}, 0, ErrNoEntry
	}
	if err != nil {
		return Entry{}, 0, fmt.Errorf("ledger entry %s: %w", key, err)
	}
	e, err := readEntry(kve.Value())
	if err != nil {
		return Entry{}, 0, fmt.Errorf("%w: entry %s (%v): inspect it with `nats kv get %s %s`", ErrUnreadableEntry, key, err, LedgerBucket, key)
	}
	e.Stored = kve.Created()
	e.was = e.outcome(kve.Revision())
	return e, kve.Revision(), nil
}

// Put writes the entry if its revision is still the one given (0: no entry yet) and returns
// the new one; ErrClaimLost if it is not. After another error the entry may be stored all
// the same; the same Put then says so.
func (l Ledger) Put(ctx context.Context, key string, e Entry, revision uint64) (uint64, error) {
	e.keepOutcome()
	value, err := e.stored()
	if err != nil {
		return 0, fmt.Errorf("ledger entry %s: %w", key, err)
	}
	signing := l.b.sealer()
	if signing != nil {
		value = signing.sealEntry(key, value, revision)
	}
	write := l.write
	if l.groups != nil {
		write = l.groups.put
	}
	ctx, cancel := within(ctx, apiTimeout)
	defer cancel()
	var rev uint64
	err = l.b.Persist(ctx, func(ctx context.Context) (err error) {
		rev, err = write(ctx, entryWrite{key, value, revision})
		return err
	})
	if errors.Is(err, jetstream.ErrKeyExists) || WrongSequence(err) {
		rev, err = l.storedBefore(ctx, key, value)
		if err != nil {
			return 0, err
		}
	}
	if err != nil {
		return 0, fmt.Errorf("ledger entry %s: %w", key, err)
	}
	if signing != nil && e.Receipt != nil {
		l.b.noteReceipt(leafOf(key, value, rev))
	}
	return rev, nil
}

// storedBefore returns the revision of a value that a refused write wanted to store:
// the write may have been stored before and its acknowledgement lost. It asks the leader,
// because another replica may not have the value yet; ErrClaimLost if there is another.
func (l Ledger) storedBefore(ctx context.Context, key string, value []byte) (uint64, error) {
	raw, err := l.b.leaderGet(ctx, "KV_"+LedgerBucket, getRequest{Last: "$KV." + LedgerBucket + "." + key})
	switch {
	case err == nil && bytes.Equal(raw.Data, value):
		return raw.Sequence, nil
	case err == nil || errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, fmt.Errorf("ledger entry %s: %w", key, ErrClaimLost)
	default:
		return 0, fmt.Errorf("ledger entry %s: %w", key, err)
	}
}

// longestLease is longer than any send takes. A longer lease is an error, and counts as
// expired.
const longestLease = 24 * time.Hour

// LeaseLeft returns how long the lease of an entry that Get has returned still lasts; zero or
// less if it has ended. The server's clock says how long ago the entry was written, because
// the clocks of writer and reader may differ by any amount.
func (l Ledger) LeaseLeft(ctx context.Context, e Entry) (time.Duration, error) {
	begun := e.Claimed
	if begun.IsZero() {
		begun = e.Last // written by a version that did not store Claimed: earlier by some seconds at most
	}
	length := e.Lease.Sub(begun)
	if length <= 0 || length > longestLease {
		return 0, nil
	}
	var stream jetstream.Stream
	err := l.b.Persist(ctx, func(ctx context.Context) (err error) {
		stream, err = l.b.js.Stream(ctx, "KV_"+LedgerBucket)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("stream KV_%s: %w", LedgerBucket, err)
	}
	return length - stream.CachedInfo().TimeStamp.Sub(e.Stored), nil
}

func (l Ledger) write(ctx context.Context, e entryWrite) (revision uint64, err error) {
	if e.revision == 0 {
		revision, err = l.kv.Create(ctx, e.key, e.value)
	} else {
		revision, err = l.kv.Update(ctx, e.key, e.value, e.revision)
	}
	return revision, Explain(err, "KV_"+LedgerBucket)
}

// writeEntries writes entries of different keys in one atomic batch. The server checks the
// revision of each; if one differs it refuses all and does not say which.
func (b *Broker) writeEntries(entries []entryWrite) (last uint64, err error) {
	msgs := make([]*nats.Msg, len(entries))
	for i, e := range entries {
		msgs[i] = nats.NewMsg(b.ledgerSubject(e.key))
		msgs[i].Data = e.value
		msgs[i].Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(e.revision, 10))
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.RequestTimeout())
	defer cancel()
	return b.PublishBatch(ctx, msgs)
}

// WrongSequence reports whether err is a failed compare-and-set. Plain and replicated
// streams use different codes.
func WrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
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
