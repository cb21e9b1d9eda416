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

	"github.com/certpost/certpost/internal/verdict"
)

// State is what became of a delivery so far.
type State string

// The states. A delivery without an entry was never attempted.
const (
	StateWaiting   State = "waiting"   // failed for now, comes back
	StateSending   State = "sending"   // claimed: content may be going out until Lease
	StateSent      State = "sent"      // the relay took it
	StateDead      State = "dead"      // there is a dead letter
	StateDiscarded State = "discarded" // a person gave it up
)

// Entry is the ledger's knowledge of one delivery: the value at key
// <target>.<event> of the bucket CERTPOST_LEDGER. It holds no secret.
type Entry struct {
	Event      string `json:"event"` // the event's own id
	Target     string `json:"target"`
	Lane       string `json:"lane"`
	Digest     string `json:"digest"` // of the event: the same id for other content is found out
	State      State  `json:"state"`
	Generation int    `json:"generation"`
	// Sequence is the delivery message (in CERTPOST_DELIVERIES) that brought the
	// entry to its state: the same message coming again is settled, a newer one
	// is a replay.
	Sequence uint64    `json:"sequence"`
	Attempts int       `json:"attempts"`
	First    time.Time `json:"first_attempt"`
	Last     time.Time `json:"last_attempt"`

	// Owner and Lease: who sends, and by when the outcome is known. The writer
	// of `sending` owns the entry until then.
	Owner string    `json:"owner,omitempty"`
	Lease time.Time `json:"lease,omitzero"`
	// Uncertain is set while the outcome of an earlier try is unknown;
	// PossibleDuplicates counts the mails sent in spite of it.
	Uncertain          bool `json:"uncertain,omitempty"`
	PossibleDuplicates int  `json:"possible_duplicates,omitempty"`
	// Consented says that this life began with a replay of a dead letter that is
	// Uncertain: somebody wants the mail sent in spite of that, however many tries it
	// takes. A new unknown outcome ends it.
	Consented bool `json:"consented,omitempty"`
	// Panics counts tries that ended in a defect of ours.
	Panics int `json:"panics,omitempty"`

	// Accepted have the mail; Refused never will, and end in one dead letter when
	// the fate of the others is decided; Owed are to be tried (again). With all
	// three empty the target says who is.
	Accepted []string          `json:"accepted,omitempty"`
	Refused  []verdict.Refusal `json:"refused,omitempty"`
	Owed     []string          `json:"owed,omitempty"`

	// Certificate is the one delivered, or to be; nil when the event says where it is
	// kept and it was never fetched. The stored receipt does not repeat it.
	Certificate *verdict.Certificate `json:"certificate,omitempty"`

	Failure *FailureRecord   `json:"failure,omitempty"` // of the last try that failed
	Tries   []Try            `json:"tries,omitempty"`   // that failed: the first and the last ones
	Receipt *verdict.Receipt `json:"receipt,omitempty"` // of the last mail taken
	// DeadLetter is the subject of the open dead letter.
	DeadLetter string `json:"dead_letter,omitempty"`
}

// Learn takes in what an attempt found out about the recipients.
func (e *Entry) Learn(receipt *verdict.Receipt, failure *verdict.Failure) {
	if receipt != nil {
		e.Receipt, e.Uncertain = receipt, false
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

func (e *Entry) isRefused(recipient string) bool {
	return slices.ContainsFunc(e.Refused, func(r verdict.Refusal) bool { return r.Recipient == recipient })
}

// Decided reports that nobody is left to be tried, and some were refused.
func (e *Entry) Decided() bool { return len(e.Owed) == 0 && len(e.Refused) > 0 }

// Missing are all who do not have the mail: for a dead letter. None: all of the
// target's.
func (e *Entry) Missing() []string {
	missing := slices.Clone(e.Owed)
	for _, r := range e.Refused {
		missing = union(missing, []string{r.Recipient})
	}
	return missing
}

// Try is an attempt that failed, kept so that it can be compared with the others.
// Attempts that the relay's absence cut short are none (they are not counted).
type Try struct {
	Generation int       `json:"generation"` // the life of the delivery
	Number     int       `json:"number"`     // within it
	At         time.Time `json:"at"`
	FailureRecord
	Transcript *verdict.Transcript `json:"course"`
}

// maxTries are as many as are kept: the first of all, and the last ones.
const maxTries = 6

// Failed is the entry with a failure on record. One that no attempt led to says
// nothing of its own course.
func (e Entry) Failed(f *verdict.Failure) Entry {
	e.Failure = record(f)
	if f.Transcript == nil {
		return e
	}
	// What is recorded twice, as a try that is the last one, has one place.
	e.Tries = slices.DeleteFunc(slices.Clone(e.Tries), func(t Try) bool { return t.Generation == e.Generation && t.Number == e.Attempts })
	e.Tries = append(e.Tries, Try{Generation: e.Generation, Number: e.Attempts, At: e.Last, FailureRecord: *e.Failure, Transcript: f.Transcript})
	if len(e.Tries) > maxTries {
		e.Tries = slices.Delete(e.Tries, 1, 2)
	}
	return e
}

// Waiting is the entry after a try that failed for now.
func (e Entry) Waiting(f *verdict.Failure) Entry {
	e = e.Failed(f)
	e.State, e.Owner, e.Lease = StateWaiting, "", time.Time{}
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

// ErrClaimLost says that somebody else changed the entry since we read it.
var ErrClaimLost = errors.New("the ledger's entry was changed by another process")

// ErrNoEntry says that the ledger knows nothing of a delivery.
var ErrNoEntry = errors.New("no such delivery in the ledger")

// ErrUnreadableEntry says that the ledger has something at a delivery's key that Certpost
// has not written.
var ErrUnreadableEntry = errors.New("the ledger's entry cannot be read")

// Ledger is the bucket; all writes are compare-and-set on the revision read.
type Ledger struct {
	kv     jetstream.KeyValue
	groups *committer // nil: every entry is written alone
}

func (b *Broker) OpenLedger(ctx context.Context) (Ledger, error) {
	kv, err := b.js.KeyValue(ctx, LedgerBucket)
	if err != nil {
		return Ledger{}, fmt.Errorf("ledger %s: %w", LedgerBucket, err)
	}
	l := Ledger{kv: kv}
	if b.flushesEachWrite() {
		l.groups = &committer{writeSingle: l.write, writeGroup: b.writeEntries}
	}
	return l, nil
}

// stored is the entry as the bucket keeps it, readEntry what it was.
func (e Entry) stored() ([]byte, error) {
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

// Get returns the entry and its revision; ErrNoEntry with revision 0 when there
// is none.
func (l Ledger) Get(ctx context.Context, key string) (Entry, uint64, error) {
	kve, err := l.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Entry{}, 0, ErrNoEntry
	}
	if err != nil {
		return Entry{}, 0, fmt.Errorf("ledger entry %s: %w", key, err)
	}
	e, err := readEntry(kve.Value())
	if err != nil {
		return Entry{}, 0, fmt.Errorf("ledger entry %s is not readable (%w): look at it with `nats kv get %s %s`", key, err, LedgerBucket, key)
	}
	return e, kve.Revision(), nil
}

// Put writes the entry if its revision is still the one given (0: none yet) and
// returns the new one; errClaimLost if it is not.
func (l Ledger) Put(ctx context.Context, key string, e Entry, revision uint64) (uint64, error) {
	value, err := e.stored()
	if err != nil {
		return 0, fmt.Errorf("ledger entry %s: %w", key, err)
	}
	write := l.write
	if l.groups != nil {
		write = l.groups.put
	}
	rev, err := write(ctx, entryWrite{key, value, revision})
	switch {
	case err == nil:
		return rev, nil
	case errors.Is(err, jetstream.ErrKeyExists), WrongSequence(err):
		// Our own write may have been stored and its acknowledgement lost.
		if kve, gerr := l.kv.Get(ctx, key); gerr == nil && bytes.Equal(kve.Value(), value) {
			return kve.Revision(), nil
		}
		return 0, fmt.Errorf("ledger entry %s: %w", key, ErrClaimLost)
	default:
		return 0, fmt.Errorf("ledger entry %s: %w", key, err)
	}
}

func (l Ledger) write(ctx context.Context, e entryWrite) (uint64, error) {
	if e.revision == 0 {
		return l.kv.Create(ctx, e.key, e.value)
	}
	return l.kv.Update(ctx, e.key, e.value, e.revision)
}

// writeEntries writes entries of different keys in one atomic batch. The server
// checks each member's revision; if one does not fit it refuses all and does not
// say which.
func (b *Broker) writeEntries(entries []entryWrite) (last uint64, err error) {
	msgs := make([]*nats.Msg, len(entries))
	for i, e := range entries {
		msgs[i] = nats.NewMsg("$KV." + LedgerBucket + "." + e.key)
		msgs[i].Data = e.value
		msgs[i].Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(e.revision, 10))
	}
	return b.PublishBatch(context.Background(), msgs)
}

// WrongSequence recognizes the two codes of a failed compare-and-set: plain and
// replicated streams differ.
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
