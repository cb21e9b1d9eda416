package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Action is what happened to a dead letter, or to a lane.
type Action string

// The actions. Those that end a letter are told apart by Ends.
const (
	ActionReplayed  Action = "replayed"  // published again by somebody
	ActionDelivered Action = "delivered" // its delivery succeeded after all
	ActionDiscarded Action = "discarded" // given up by somebody, with a reason
	ActionExpired   Action = "expired"   // the stream dropped it, having kept it for as long as letters are kept
	ActionReplaced  Action = "replaced"  // by a newer letter of the same delivery
	ActionRemoved   Action = "removed"   // from the stream, past Certpost

	ActionRestored  Action = "restored"  // a discarded letter is on the list again, under a new number
	ActionFailed    Action = "failed"    // what somebody intended could not be done; the letter is as it was
	ActionHeld      Action = "held"      // kept from being replayed and discarded
	ActionReleased  Action = "released"  // held no more
	ActionSuspended Action = "suspended" // a lane, by an operator
	ActionResumed   Action = "resumed"   // a lane, by an operator or because its time was over

	ActionStarted   Action = "started"   // a replay run
	ActionPaused    Action = "paused"    // a replay run
	ActionContinued Action = "continued" // a replay run that was paused
	ActionStopped   Action = "stopped"   // a replay run, because the same came back
	ActionCancelled Action = "cancelled" // a replay run
	ActionDone      Action = "done"      // a replay run
	ActionSignedIn  Action = "signed-in" // on the page
	ActionSignedOut Action = "signed-out"
	ActionRefused   Action = "refused" // somebody was not let in, or may not do what was asked for
)

// ending are the actions that take a letter off the list, the one that is never
// undone by a later record of the same letter.
var ending = []Action{ActionReplayed, ActionDelivered, ActionDiscarded, ActionExpired, ActionReplaced, ActionRemoved}

// Ends reports whether the action takes a letter off the list.
func (a Action) Ends() bool { return slices.Contains(ending, a) }

// Stage says whether a record announces an action or tells what came of it.
type Stage string

// The stages. A record without one is an outcome.
const (
	StageIntent  Stage = "intent" // under the subject certpost.audit.intent.<target>.<token>
	StageOutcome Stage = "outcome"
)

// Actor is who does something, and by what way.
type Actor struct {
	Name    string `json:"by"` // user@host in a shell, the signed-in name on a page, certpost@host for the program itself
	Role    string `json:"role,omitempty"`
	Via     Via    `json:"via,omitempty"`
	Address string `json:"address,omitempty"` // of the browser or the NATS client
}

// Via is the way by which something was done.
type Via string

// The ways.
const (
	ViaPage    Via = "page"    // the dashboard
	ViaShell   Via = "shell"   // our commands
	ViaService Via = "service" // the NATS micro service
	ViaNATS    Via = "nats"    // past Certpost, with the means of NATS
	ViaItself  Via = "certpost"
)

// Hold keeps a dead letter from being replayed and discarded while somebody works
// on it.
type Hold struct {
	Letter uint64    `json:"letter"` // its number
	Event  string    `json:"event"`
	Target string    `json:"target"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	Since  time.Time `json:"since"`
}

// AuditRecord is one entry of CERTPOST_AUDIT. A discarded letter is kept whole in
// its record, so that giving up destroys nothing.
type AuditRecord struct {
	Time   time.Time `json:"time"`
	Action Action    `json:"action"`
	Stage  Stage     `json:"stage,omitempty"`
	Actor
	Reason string `json:"reason,omitempty"`
	Event  string `json:"event,omitempty"`
	Target string `json:"target,omitempty"`
	Lane   string `json:"lane,omitempty"`
	Run    string `json:"run,omitempty"` // the replay run it is part of
	// LetterNumber is the letter's sequence; NewLetter the one that a restored letter
	// has now; Delivery the sequence in CERTPOST_DELIVERIES of a replay.
	LetterNumber uint64 `json:"letter_number,omitempty"`
	NewLetter    uint64 `json:"new_letter,omitempty"`
	Delivery     uint64 `json:"delivery,omitempty"`
	// NewTarget and NewRecipients are what somebody changed for a replay.
	NewTarget     string      `json:"new_target,omitempty"`
	NewRecipients []string    `json:"new_recipients,omitempty"`
	Until         time.Time   `json:"until,omitzero"` // of a suspension
	Letter        *DeadLetter `json:"letter,omitempty"`
	Body          []byte      `json:"body,omitempty"` // the discarded letter's event
	// TooLarge says that the letter's event did not fit into the record.
	TooLarge bool `json:"too_large,omitempty"`
	// Previous is the SHA-256, hexadecimal, of the record before this one, over its
	// stored bytes; "" in the first, and in those from before there was a chain.
	Previous string `json:"previous,omitempty"`

	// What is known of a record that was read: its place, when the server stored it (Time
	// is by the clock of who wrote it), its own SHA-256, and whether it was not written by
	// Certpost and cannot be read.
	Sequence   uint64    `json:"-"`
	Stored     time.Time `json:"-"`
	Hash       string    `json:"-"`
	Unreadable bool      `json:"-"`
}

// ReadAudit yields the records from a sequence on, in order.
func (b *Broker) ReadAudit(ctx context.Context, from uint64) iter.Seq2[AuditRecord, error] {
	return func(yield func(AuditRecord, error) bool) {
		for raw, err := range b.read(ctx, AuditStream, "", from) {
			if err != nil {
				yield(AuditRecord{}, err)
				return
			}
			if !yield(readRecord(raw), nil) {
				return
			}
		}
	}
}

func readRecord(raw *jetstream.RawStreamMsg) AuditRecord {
	var r AuditRecord
	if json.Unmarshal(raw.Data, &r) != nil {
		r = AuditRecord{Unreadable: true}
	}
	if r.Time.IsZero() {
		r.Time = raw.Time
	}
	if r.LetterNumber == 0 && r.Letter != nil {
		r.LetterNumber = r.Letter.Sequence // from before it had a field of its own
	}
	r.Sequence, r.Stored, r.Hash = raw.Sequence, raw.Time, hashOf(raw.Data)
	return r
}

// ProcessActor is the program as an actor.
func ProcessActor(name string) Actor { return Actor{Name: name, Via: ViaItself} }

func hashOf(stored []byte) string {
	sum := sha256.Sum256(stored)
	return hex.EncodeToString(sum[:])
}
