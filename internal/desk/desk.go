// Package desk manages dead letters: lists, groups by cause, details, and all actions on
// them. Pages, commands and the NATS service all use it, so that an action has the same
// effect and the same record, whichever of them requests it.
//
// A Desk reads the streams by sequence, never through a consumer, and keeps a bounded index
// in memory. The state is in JetStream, so the desks of all replicas show the same.
package desk

import (
	"context"
	"encoding/json"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// Deliverer is what the desk needs to know of targets and relays. All results may be
// shown. Examine checks everything that a delivery of the event to the target needs, and
// sends nothing: the target, its secrets, its relays up to AUTH, the key and the
// certificate. Check does the same for a target without an event.
type Deliverer interface {
	Targets() []verdict.TargetView
	// Target returns the target that has an id, or had it before; false if there is none.
	Target(id string) (verdict.TargetView, bool)
	Relays() []verdict.RelayView
	Check(ctx context.Context, target string) []verdict.Finding
	Examine(ctx context.Context, trial verdict.Trial) []verdict.Finding
}

// MessageIDs may be implemented by a Deliverer: the Message-ID of the mail for an event and
// a target, "" if there can be none.
type MessageIDs interface {
	MessageID(target, event string) string
}

// Addressees may be implemented by a Deliverer: all recipients that a target's definition names.
type Addressees interface {
	Recipients(target string) []string
}

// Previewer may be implemented by a Deliverer: the mail of a target for a sample certificate.
type Previewer interface {
	Preview(target string) (*verdict.MailView, *verdict.Failure)
}

// Letter is a dead letter in the index. Event, subject alternative names and texts come from
// outside: escape them.
type Letter struct {
	broker.DeadLetter                      // without the body
	Fingerprint       string               `json:"fingerprint"` // of the cause, see fingerprintOf
	Certificate       *verdict.Certificate `json:"certificate,omitempty"`
	Hold              *broker.Hold         `json:"hold,omitempty"`
	Superseded        *Superseded          `json:"superseded,omitempty"`
	Run               string               `json:"run,omitempty"` // the unfinished replay run it is part of
	Discard           *Discard             `json:"discard,omitempty"`
}

// Superseded describes the newer certificate with the same names that the target has.
type Superseded struct {
	Event    string    `json:"event"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	At       time.Time `json:"delivered_at"`
}

// Group is the open letters of one cause.
type Group struct {
	Fingerprint   string        `json:"fingerprint"`
	Code          verdict.Code  `json:"code"`
	Class         verdict.Class `json:"class"`
	Phase         verdict.Phase `json:"phase"`
	Lane          string        `json:"lane,omitempty"`
	EnhancedCode  string        `json:"enhanced_code,omitempty"`
	ToFix         string        `json:"to_fix,omitempty"` // target, reference of a secret, domain or source; "": the lane, or all
	Count         int           `json:"count"`
	Held          int           `json:"held"`
	Superseded    int           `json:"superseded"`
	Uncertain     int           `json:"may_have_been_sent"`
	First         time.Time     `json:"first_seen"`
	Last          time.Time     `json:"last_seen"`
	Hours         [24]int       `json:"last_24_hours"` // new letters by hour, the oldest first
	Targets       []string      `json:"targets"`       // at most 20, those with the most letters first
	TargetCount   int           `json:"target_count"`
	SoonestExpiry time.Time     `json:"soonest_expiry,omitzero"` // of a certificate not superseded
	Reason        string        `json:"reason"`                  // of the newest letter
	Cause         string        `json:"cause"`                   // a text for the code and phase
	Remedy        string        `json:"remedy"`                  // what to do: the advice of the reasons if they agree, else a text for the code and phase
	Example       uint64        `json:"example"`                 // the newest letter
	Handling      *Handling     `json:"handling,omitempty"`
}

// Order is how a list is sorted.
type Order string

// The orders. Newest is the default.
const (
	Newest Order = "newest"
	Oldest Order = "oldest"
	Expiry Order = "expiry" // by the expiry of the certificate, the earliest first
)

// Query selects open letters, or with State discarded ones; the zero value selects all open ones. Its text form is the query of a
// page's address, so every list has a permalink.
type Query struct {
	Fingerprint   string
	Code          verdict.Code
	Class         verdict.Class
	Phase         verdict.Phase
	Lane          string
	Target        string
	Event         string
	Certainty     verdict.Certainty
	Name          string // a name of the certificate, exactly
	Text          string // free text over the fields that are safe to search
	Held          *bool
	Superseded    *bool
	Since         time.Duration // of the letter, before now
	From, To      time.Time     // of the letter
	ExpiresBefore time.Time     // of the certificate
	Above         uint64        // none with this number or a lower one
	AsOf          uint64        // none with a higher number
	Order         Order
	State         Status // Open ("" is the same) or Discarded
	Act           string // the act on many letters that discarded them
}

// Page is one page of a list.
type Page struct {
	After uint64 // the last letter of the page before, 0 for the first page
	Size  int    // 1 to 500; 0 is 50
}

// Listing is a page of letters.
type Listing struct {
	Letters []Letter `json:"letters"`
	Total   int      `json:"total"` // that match the query
	Next    uint64   `json:"next"`  // for Page.After; 0: this is the last page
	AsOf    uint64   `json:"as_of"` // the newest letter in the index
	// Beyond is the number of open letters that are older than the 500,000 in the index:
	// they are counted in the balance, but not listed.
	Beyond int `json:"beyond,omitempty"`
}

// Frozen is a fixed selection of letters: those that matched a query when it was shown.
type Frozen struct {
	Query Query  `json:"query"`
	AsOf  uint64 `json:"as_of"`
	Count int    `json:"count"`
	Hash  string `json:"hash"` // SHA-256 over the numbers, hexadecimal
	// Letters that match the query and are skipped, by reason.
	Held       int `json:"held"`
	Superseded int `json:"superseded"`
	Withheld   int `json:"withheld"` // without an event to replay
	InRuns     int `json:"in_runs"`
	// Uncertain is how many of Count may have been sent.
	Uncertain int `json:"may_have_been_sent"`
	// Numbers are the first letters, at most 20, for display.
	Numbers []uint64 `json:"numbers"`

	// Purpose is the action; Only are the requested numbers, nil for all that match the
	// query. Named reports that Only was set: a run does not store Only, and its query does
	// not describe its letters then; its Results do.
	Purpose        Purpose  `json:"purpose,omitempty"`
	Only           []uint64 `json:"only,omitempty"`
	Named          bool     `json:"named,omitempty"`
	WithSuperseded bool     `json:"with_superseded,omitempty"`
	// Act is the id under which the audit records the action on these letters as one; "" for a
	// new one if there are several.
	Act string `json:"act,omitempty"`
}

// Purpose is the action for which letters are selected. It decides which are skipped.
type Purpose string

// The purposes. All but ForRelease and ForRestore skip letters in unfinished runs.
const (
	ForReplay  Purpose = "replay"  // skips letters that are held, withheld or, by default, superseded
	ForDiscard Purpose = "discard" // skips held letters
	ForHold    Purpose = "hold"    // skips held letters
	ForRelease Purpose = "release" // selects only held letters
	ForRestore Purpose = "restore" // selects discarded letters, and skips those whose event was not kept
)

// Status is the outcome of a letter: whether it is open, or how it left the list.
type Status string

// The outcomes. Every letter has one of them.
const (
	Open      Status = "open"
	Replayed  Status = "replayed"  // published again, or delivered
	Discarded Status = "discarded" // by an operator
	Expired   Status = "expired"   // reached the maximum age of the stream
	Replaced  Status = "replaced"  // by a newer letter of the same delivery
	Removed   Status = "removed"   // from the stream, outside Certpost (nats stream rmm)
)

// Balance accounts for all letters: Total = Open + the sum of Ended + Unexplained, the
// letters that are gone without a record. If Unexplained stays above 0, pages show it in red.
type Balance struct {
	Total       uint64         `json:"dead_lettered"`
	Open        int            `json:"open"`
	Ended       map[Status]int `json:"ended"`
	Restored    int            `json:"restored"` // letters of Total that are restored ones
	Unexplained int            `json:"unexplained"`
	Since       time.Time      `json:"since,omitzero"` // of the first letter
	AsOf        time.Time      `json:"as_of"`
}

// Detail is one letter with its delivery and history.
type Detail struct {
	Letter
	Status        Status              `json:"fate"`
	End           *broker.AuditRecord `json:"end,omitempty"`      // the record of its end
	Event         []byte              `json:"-"`                  // the body; nil if it is gone
	Delivery      *broker.Entry       `json:"delivery,omitempty"` // the ledger's entry
	History       []Record            `json:"history"`            // of this letter and its delivery, oldest first
	Cause         string              `json:"cause"`
	Remedy        string              `json:"remedy"`
	Expires       time.Time           `json:"expires,omitzero"`             // when it expires; for a discarded letter, until when it can be restored
	Siblings      int                 `json:"siblings"`                     // other open letters of its group
	RedirectedTo  string              `json:"redirected_to,omitempty"`      // the target to which its replay goes, because its own is a former id of that
	NotReplayable string              `json:"cannot_be_replayed,omitempty"` // the reason; "" if it can be replayed
	MessageID     string              `json:"message_id,omitempty"`
	Has           []string            `json:"has_the_mail,omitempty"` // recipients to whom it was sent; Recipients have not got it
	Reach         string              `json:"reach,omitempty"`        // sent to 1 of 2; "" if none or all have the mail
}

// WholeLetter is a letter with its event, which contains no secret.
type WholeLetter struct {
	Detail
	Body string `json:"body,omitempty"`
}

// Whole returns the letter with its event.
func (d Detail) Whole() WholeLetter { return WholeLetter{d, string(d.Event)} }

// RunState is the state of a replay run.
type RunState string

// The states. Letters that a cancelled or stopped run has not replayed stay on the list.
const (
	RunRunning   RunState = "running"
	RunWatching  RunState = "watching" // waits for the results of published letters
	RunPaused    RunState = "paused"
	RunStopped   RunState = "stopped" // a letter came back with the same cause
	RunCancelled RunState = "cancelled"
	RunDone      RunState = "done"
)

// RunSpec is the request for a replay run.
type RunSpec struct {
	Frozen    Frozen       `json:"frozen"`                       // as shown to the operator
	Rate      verdict.Rate `json:"rate,omitzero"`                // zero: no limit
	Canary    bool         `json:"canary,omitempty"`             // 1, then 10, then the rest, each step after the one before was delivered
	Uncertain bool         `json:"may_have_been_sent,omitempty"` // include letters that may have been sent
	Force     bool         `json:"force,omitempty"`              // Certpost-Force: send again even if already delivered
	Reason    string       `json:"reason,omitempty"`
}

// UnmarshalJSON also reads what earlier versions stored: the fields with their Go names.
func (s *RunSpec) UnmarshalJSON(text []byte) error {
	type plain RunSpec
	var stored struct {
		plain
		OldUncertain bool `json:"Uncertain"`
	}
	if err := json.Unmarshal(text, &stored); err != nil {
		return err
	}
	*s = RunSpec(stored.plain)
	s.Uncertain = s.Uncertain || stored.OldUncertain
	return nil
}

// Run is a replay of many letters. It is kept for 90 days after its end.
type Run struct {
	ID      string       `json:"id"`
	Spec    RunSpec      `json:"spec"`
	State   RunState     `json:"state"`
	Why     string       `json:"why,omitempty"` // of pause, stop and cancel
	By      broker.Actor `json:"by"`
	Started time.Time    `json:"started"`
	Ended   time.Time    `json:"ended,omitzero"`
	// Counts of the Frozen.Count letters. Of the Published ones, Delivered were accepted by
	// the relay, DeadAgain are dead letters again, and the others are under way. Gone were
	// taken off the list by another action; Failed could not be published.
	Published int    `json:"published"`
	Delivered int    `json:"delivered"`
	DeadAgain int    `json:"dead_again"`
	Gone      int    `json:"gone"`
	Failed    int    `json:"failed"`
	Worker    string `json:"worker,omitempty"` // the process that works on it
}

// UnderWay is how many of the published letters have no result yet.
func (r *Run) UnderWay() int { return max(0, r.Published-r.Delivered-r.DeadAgain) }

// RunResult is the result of one letter of a run.
type RunResult struct {
	Number uint64    `json:"number"`
	Target string    `json:"target"`
	Event  string    `json:"event"`
	Result string    `json:"result"` // waiting, published, delivered, dead again, gone, failed
	Note   string    `json:"note,omitempty"`
	At     time.Time `json:"at,omitzero"`
	Letter uint64    `json:"new_letter,omitempty"` // of a delivery that became a dead letter again
}

// RunPage is a run with a page of its results.
type RunPage struct {
	Run
	Results []RunResult `json:"results,omitempty"`
	Next    uint64      `json:"next,omitempty"` // for after; 0: this is the last page
}

// Over reports whether the run has ended or waits for an operator.
func (r *RunPage) Over() bool { return r.State != RunRunning && r.State != RunWatching }

// DeliveryDetail is one delivery with its history.
type DeliveryDetail struct {
	broker.Entry
	History []Record `json:"history"` // of its dead letters, oldest first
	// WaitingSince is when a delivery was stored that waits for its first attempt, so that the
	// ledger does not know it yet; zero for all others.
	WaitingSince time.Time `json:"waiting_since,omitzero"`
	// RollbackAvailable says that the deployment can be rolled back. For a mail, and for a
	// deployment that cannot, RollbackRemedy says what to do instead.
	RollbackAvailable bool   `json:"rollback_available"`
	RollbackRemedy    string `json:"rollback_remedy,omitempty"`
}

// DeliveryListing is a page of entries, newest first.
type DeliveryListing struct {
	Entries []broker.Entry `json:"entries"`
	Total   int            `json:"total"`
	Next    uint64         `json:"next"`
	// Unlisted are the older deliveries in the queue that are not listed unless they were attempted
	// before: the first page has the newest of those that were not. The list of what waits has all.
	Unlisted uint64 `json:"unlisted,omitempty"`
	// Read and Of are the entries that the index has read, and all in the ledger. Read is
	// lower in the first seconds after the start, or if the index is full.
	Read uint64 `json:"read"`
	Of   uint64 `json:"of"`
}

// Overview is the data of the first page.
type Overview struct {
	Balance     Balance           `json:"balance"`
	Lanes       []broker.LaneInfo `json:"lanes"`
	Backlog     broker.Backlog    `json:"backlog"`
	LastSuccess time.Time         `json:"last_success,omitzero"`
	Sent24h     [24]int           `json:"sent_last_24_hours"`
	Dead24h     [24]int           `json:"dead_last_24_hours"`
	Groups      []Group           `json:"groups"`
	Runs        []Run             `json:"runs"` // unfinished
	// Standstills are what keeps events or deliveries from moving in a running process.
	Standstills []broker.Standstill `json:"standstills,omitempty"`
	// Recovered24h counts deliveries and letters that the streams had lost.
	Recovered24h int    `json:"recovered_last_24_hours,omitempty"`
	Reading      string `json:"reading,omitempty"`
}

// Change reports what has changed of what the pages show.
type Change struct {
	Letters, Runs, Lanes, Audit bool
	Newer                       int // letters since the last change
}
