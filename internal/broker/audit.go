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

// Action is what happened to a dead letter, a lane, a replay run or a session.
type Action string

// The actions. Ends reports those that take a letter off the list.
const (
	ActionReplayed  Action = "replayed"  // published again
	ActionSent      Action = "sent"      // the mail of a replay: the relay has accepted it
	ActionDelivered Action = "delivered" // its delivery succeeded after all
	ActionDiscarded Action = "discarded" // by an operator, with a reason
	ActionExpired   Action = "expired"   // the stream removed it at the letters' maximum age
	ActionReplaced  Action = "replaced"  // by a newer letter of the same delivery
	ActionRemoved   Action = "removed"   // from the stream, not through Certpost

	ActionRecovered Action = "recovered" // a delivery or letter that the streams had lost is stored again

	ActionRestored  Action = "restored"  // a discarded letter is on the list again, under a new number
	ActionFailed    Action = "failed"    // an intended action failed; the letter is unchanged
	ActionHeld      Action = "held"      // may be neither replayed nor discarded
	ActionReleased  Action = "released"  // no longer held
	ActionSuspended Action = "suspended" // a lane, by an operator
	ActionResent    Action = "resent"    // what was delivered, once more or to another target
	ActionRetried   Action = "retried"   // a waiting delivery: an operator has ended its wait
	ActionWithdrawn Action = "withdrawn" // a waiting delivery: an operator has cancelled it
	ActionResumed   Action = "resumed"   // a lane, by an operator or because the suspension expired

	// Of deployments on mail hosts: the order, before the host has it, and how it ended.
	ActionRollback       Action = "rollback-ordered"
	ActionRolledBack     Action = "rolled-back"
	ActionRollbackFailed Action = "rollback-failed"

	ActionSilenced   Action = "silenced"   // alerts, by an operator
	ActionUnsilenced Action = "unsilenced" // alerts that were silenced

	// Of a group of dead letters, by an operator; the reason is the note, the name, or the address.
	ActionNoted    Action = "noted"
	ActionAssigned Action = "assigned"
	ActionTicketed Action = "ticketed"

	ActionStarted   Action = "started"   // a replay run
	ActionPaused    Action = "paused"    // a replay run
	ActionContinued Action = "continued" // a replay run that was paused
	ActionStopped   Action = "stopped"   // a replay run, because letters came back with the same cause
	ActionCancelled Action = "cancelled" // a replay run
	ActionDone      Action = "done"      // a replay run
	ActionSignedIn  Action = "signed-in" // on the dashboard
	ActionSignedOut Action = "signed-out"
	ActionRefused   Action = "refused" // a sign-in, or a request without the permission for it

	ActionSealed     Action = "sealed"     // from this record on, all are signed
	ActionRekeyed    Action = "rekeyed"    // the key with which they are signed was replaced
	ActionAccepted   Action = "accepted"   // a break of the audit or the ledger, by an operator
	ActionClosed     Action = "closed"     // records that will expire, by the program
	ActionCheckpoint Action = "checkpoint" // which receipts the ledger has; in exports only
)

// Actions are all actions, in the order of a letter's life, then those on lanes, runs and
// the dashboard.
func Actions() []Action {
	return []Action{
		ActionReplayed, ActionSent, ActionDelivered, ActionDiscarded, ActionRestored, ActionHeld, ActionReleased, ActionFailed,
		ActionExpired, ActionReplaced, ActionRemoved, ActionRecovered, ActionSuspended, ActionResumed, ActionResent, ActionRetried, ActionWithdrawn, ActionRollback, ActionRolledBack, ActionRollbackFailed,
		ActionNoted, ActionAssigned, ActionTicketed, ActionSilenced, ActionUnsilenced, ActionStarted, ActionPaused,
		ActionContinued, ActionStopped, ActionCancelled, ActionDone, ActionSignedIn, ActionSignedOut, ActionRefused,
		ActionSealed, ActionRekeyed, ActionAccepted, ActionClosed,
	}
}

// ending are the actions that take a letter off the list. No later record of the same
// letter undoes them.
var ending = []Action{ActionReplayed, ActionDelivered, ActionDiscarded, ActionExpired, ActionReplaced, ActionRemoved}

// Ends reports whether the action takes a letter off the list.
func (a Action) Ends() bool { return slices.Contains(ending, a) }

// Stage says whether a record announces an action or reports its outcome.
type Stage string

// The stages. A record without one is an outcome.
const (
	StageIntent  Stage = "intent" // under the subject certpost.audit.intent.<target>.<token>
	StageOutcome Stage = "outcome"
)

// Actor is the person or program that acts, and its way of access.
type Actor struct {
	Name    string `json:"by"` // user@host in a shell, the signed-in name on a page, certpost@host for the program itself
	Role    string `json:"role,omitempty"`
	Via     Via    `json:"via,omitempty"`
	Address string `json:"address,omitempty"` // of the browser or the NATS client
	// Proved says whether Name was proved, NATSUser which NATS user sent the request, as
	// ACCOUNT/USER with the user's public key, or only as ACCOUNT if the server has proved no more.
	Proved   Proof  `json:"proved,omitzero"`
	NATSUser string `json:"nats_user,omitempty"`
	// Act is the id of an act on many letters, in the record of each and in that of the whole.
	Act string `json:"act,omitempty"`
}

// Via is the way of access by which an action was requested.
type Via string

// The ways of access.
const (
	ViaPage    Via = "page"    // the dashboard
	ViaShell   Via = "shell"   // Certpost's commands
	ViaService Via = "service" // the NATS micro service
	ViaNATS    Via = "nats"    // directly in NATS, not through Certpost
	ViaItself  Via = "certpost"
)

// Hold keeps a dead letter from being replayed and discarded while an operator works on it.
type Hold struct {
	Letter uint64    `json:"letter"` // its number
	Event  string    `json:"event"`
	Target string    `json:"target"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	Since  time.Time `json:"since"`
	// Proved and NATSUser are those of the Actor.
	Proved   Proof  `json:"proved,omitzero"`
	NATSUser string `json:"nats_user,omitempty"`
}

// Shown is who holds the letter, in the words of Actor.Shown.
func (h Hold) Shown() string {
	return Actor{Name: h.By, Proved: h.Proved, NATSUser: h.NATSUser}.Shown()
}

// AuditRecord is one entry of CERTPOST_AUDIT. The record of a discard holds the whole
// letter, so that discarding destroys nothing.
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
	// Generation is that of the delivery in the records `sent` and `resent`, OrderedBy who ordered the replay, if
	// that is known.
	Generation int    `json:"generation,omitempty"`
	OrderedBy  *Actor `json:"ordered_by,omitempty"`
	// NewTarget and NewRecipients are what the operator changed for a replay.
	NewTarget     string    `json:"new_target,omitempty"`
	NewRecipients []string  `json:"new_recipients,omitempty"`
	Group         string    `json:"group,omitempty"` // the fingerprint of a group that was noted, assigned or ticketed
	Until         time.Time `json:"until,omitzero"`  // of a suspension or silence
	Alert         string    `json:"alert,omitempty"` // what was silenced: the key of an alert, a kind, or all
	// Many describes an act on many letters, in the one record that stands for the whole.
	Many   *Many       `json:"many,omitempty"`
	Letter *DeadLetter `json:"letter,omitempty"`
	Body   []byte      `json:"body,omitempty"` // the discarded letter's event
	// TooLarge says that the letter's event did not fit into the record.
	TooLarge   bool        `json:"too_large,omitempty"`
	Sealing    *Sealing    `json:"sealing,omitempty"`    // of sealed and rekeyed
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"` // of a checkpoint
	Closing    *Closing    `json:"closing,omitempty"`    // of closed
	Accepted   *Acceptance `json:"accepted,omitempty"`   // of accepted
	// Previous is the SHA-256, hexadecimal, of the record before this one, over its
	// stored bytes; 64 zeros in the first, "" in records from before the chain existed.
	Previous string `json:"previous,omitempty"`

	// Set when a record is read: its sequence, when the server stored it (Time is by the
	// writer's clock), its own SHA-256, and whether it cannot be read because Certpost did
	// not write it.
	Sequence   uint64    `json:"-"`
	Stored     time.Time `json:"-"`
	Hash       string    `json:"-"`
	Unreadable bool      `json:"-"`
}

// Many is what an act on many letters acted on. Each letter has a record of its own besides.
type Many struct {
	Letters int               `json:"letters"`
	Filter  map[string]string `json:"filter,omitempty"`  // that selected them; empty for letters named by number
	Numbers []uint64          `json:"numbers,omitempty"` // the first ones, at most MaxMany
}

// MaxMany is how many numbers the record of an act on many letters has.
const MaxMany = 20

// ReadAudit yields the audit's records from a sequence on, in order.
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
		r.LetterNumber = r.Letter.Sequence // written before the field existed
	}
	r.Sequence, r.Stored, r.Hash = raw.Sequence, raw.Time, hashOf(raw.Data)
	return r
}

// ProcessActor returns the program itself as an actor.
func ProcessActor(name string) Actor { return Actor{Name: name, Via: ViaItself} }

func hashOf(stored []byte) string {
	sum := sha256.Sum256(stored)
	return hex.EncodeToString(sum[:])
}
