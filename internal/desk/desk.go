// Package desk is where people work on what did not arrive: the dead letters
// grouped by cause, what is known of each, and everything that can be done about
// them. Pages, commands and the NATS service all act through it, so that an action
// means the same wherever it comes from, and is recorded once.
//
// A Desk follows the streams by sequence, never through a consumer, and keeps a
// bounded index in memory; JetStream has the truth, and two desks of two replicas
// come to the same view of it.
package desk

import (
	"context"
	"encoding/json"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// Surroundings is what the desk asks of the program around it. All of it may be
// shown. Examine looks at all that a delivery of the event to the target needs,
// without sending: the target, its secrets, its relay up to AUTH, whether the key
// matches and the certificate is valid. Check is the same for a target alone.
type Surroundings interface {
	Targets() []verdict.TargetView
	Relays() []verdict.RelayView
	Check(ctx context.Context, target string) []verdict.Finding
	Examine(ctx context.Context, target string, event []byte) []verdict.Finding
}

// MessageIDs is what Surroundings may know besides: the Message-ID of the mail for an
// event and a target, "" where there can be none.
type MessageIDs interface {
	MessageID(target, event string) string
}

// Letter is a dead letter as the index has it. Event, subject alternative names and
// texts come from outside and are shown escaped.
type Letter struct {
	broker.DeadLetter                      // without its body
	Fingerprint       string               `json:"fingerprint"` // of the cause: code, phase, relay, enhanced code
	Certificate       *verdict.Certificate `json:"certificate,omitempty"`
	Hold              *broker.Hold         `json:"hold,omitempty"`
	Superseded        *Superseded          `json:"superseded,omitempty"`
	Run               string               `json:"run,omitempty"` // the unfinished replay run it is part of
}

// Superseded says that the target has a newer certificate for that name.
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
	Relay         string        `json:"relay"` // the lane, "" for what never had one
	EnhancedCode  string        `json:"enhanced_code,omitempty"`
	Count         int           `json:"count"`
	Held          int           `json:"held"`
	Superseded    int           `json:"superseded"`
	Uncertain     int           `json:"may_have_been_sent"`
	First         time.Time     `json:"first_seen"`
	Last          time.Time     `json:"last_seen"`
	Hours         [24]int       `json:"last_24_hours"` // new letters by hour, the oldest first
	Targets       []string      `json:"targets"`       // at most 20, the most touched first
	TargetCount   int           `json:"target_count"`
	SoonestExpiry time.Time     `json:"soonest_expiry,omitzero"` // of a certificate not superseded
	Reason        string        `json:"reason"`                  // of the newest letter
	Cause         string        `json:"cause"`                   // in words, by code and phase
	Remedy        string        `json:"remedy"`                  // likewise
	Example       uint64        `json:"example"`                 // the newest letter
}

// Order is how a list is sorted.
type Order string

// The orders. Newest is the default.
const (
	Newest Order = "newest"
	Oldest Order = "oldest"
	Expiry Order = "expiry" // the certificate that expires first, first
)

// Query chooses open letters; the zero value chooses all. Its text form is the
// query of a page's address, so that every list has a permalink.
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
}

// Page is one page of a list.
type Page struct {
	After uint64 // the last letter of the page before, 0 for the first page
	Size  int    // 1 to 500; 0 is 50
}

// Listing is a page of letters.
type Listing struct {
	Letters []Letter `json:"letters"`
	Total   int      `json:"total"` // that fit the query
	Next    uint64   `json:"next"`  // for Page.After; 0: this is the last page
	AsOf    uint64   `json:"as_of"` // the newest letter the index knew of
	// Beyond are open letters that are too old to be among the 500,000 that are kept
	// in memory: counted in the balance, and shown in no list.
	Beyond int `json:"beyond,omitempty"`
}

// Frozen is a query nailed down: exactly these letters, whatever arrives meanwhile.
type Frozen struct {
	Query Query  `json:"query"`
	AsOf  uint64 `json:"as_of"`
	Count int    `json:"count"`
	Hash  string `json:"hash"` // SHA-256 over the numbers, hexadecimal
	// What of the query was left out, and why.
	Held       int `json:"held"`
	Superseded int `json:"superseded"`
	Withheld   int `json:"withheld"` // without an event to replay
	InRuns     int `json:"in_runs"`
	// Uncertain of the Count may have been sent before.
	Uncertain int `json:"may_have_been_sent"`
	// Numbers are the first of them, for showing, at most 20.
	Numbers []uint64 `json:"numbers"`

	// Purpose is what the letters are chosen for; Only are the numbers that were asked
	// for, nil for all that fit the query; WithSuperseded is as asked for. Named says
	// that there was an Only, which a run does not keep: its query then says nothing of
	// which letters it is about, its Results do.
	Purpose        Purpose  `json:"purpose,omitempty"`
	Only           []uint64 `json:"only,omitempty"`
	Named          bool     `json:"named,omitempty"`
	WithSuperseded bool     `json:"with_superseded,omitempty"`
}

// Purpose says what letters are chosen for, and so which are left out.
type Purpose string

// The purposes. Letters in unfinished runs are left out of all but Release.
const (
	ForReplay  Purpose = "replay"  // without what is held, withheld, and superseded unless asked for
	ForDiscard Purpose = "discard" // without what is held
	ForHold    Purpose = "hold"    // without what is held
	ForRelease Purpose = "release" // what is held, and nothing else
)

// Fate is how a letter left the list.
type Fate string

// The fates. Every letter there ever was is open or has one.
const (
	Open      Fate = "open"
	Replayed  Fate = "replayed"  // published again, by whatever way
	Discarded Fate = "discarded" // given up by somebody
	Expired   Fate = "expired"   // kept for as long as letters are kept
	Replaced  Fate = "replaced"  // by a newer letter of the same delivery
	Removed   Fate = "removed"   // from the stream, past Certpost (nats stream rmm)
)

// Balance is the honest-loss strip: Total = Open + the sum of Ended, or something
// is wrong. Unexplained is the difference; it is shown in red once it has lasted.
type Balance struct {
	Total       uint64       `json:"dead_lettered"`
	Open        int          `json:"open"`
	Ended       map[Fate]int `json:"ended"`
	Restored    int          `json:"restored"` // letters of the Total that are a discarded one again
	Unexplained int          `json:"unexplained"`
	Since       time.Time    `json:"since,omitzero"` // of the first letter
	AsOf        time.Time    `json:"as_of"`
}

// Detail is all that is known of one letter.
type Detail struct {
	Letter
	Fate          Fate                `json:"fate"`
	End           *broker.AuditRecord `json:"end,omitempty"`      // what ended it
	Event         []byte              `json:"-"`                  // the body, "" when it is gone or withheld
	Delivery      *broker.Entry       `json:"delivery,omitempty"` // the ledger's entry
	History       []Record            `json:"history"`            // of this letter and its delivery, oldest first
	Cause         string              `json:"cause"`
	Remedy        string              `json:"remedy"`
	Expires       time.Time           `json:"expires,omitzero"`             // when the stream drops it; of a discarded letter: until when it can be restored
	Siblings      int                 `json:"siblings"`                     // other open letters of its group
	NotReplayable string              `json:"cannot_be_replayed,omitempty"` // why it cannot be replayed, "" if it can
	MessageID     string              `json:"message_id,omitempty"`
}

// WholeLetter is a letter with its event, which holds no secret, as every door shows it.
type WholeLetter struct {
	Detail
	Body string `json:"body,omitempty"`
}

// Whole is the letter with its event.
func (d Detail) Whole() WholeLetter { return WholeLetter{d, string(d.Event)} }

// RunState is where a replay run stands.
type RunState string

// The states. A run that was cancelled or stopped has lost nothing: what it had not
// replayed is still on the list.
const (
	RunRunning   RunState = "running"
	RunWatching  RunState = "watching" // waits for what its canary comes to
	RunPaused    RunState = "paused"
	RunStopped   RunState = "stopped" // the same fingerprint came back
	RunCancelled RunState = "cancelled"
	RunDone      RunState = "done"
)

// RunSpec is what an operator asks for.
type RunSpec struct {
	Frozen    Frozen       `json:"frozen"`                       // as shown on the page that asked
	Rate      verdict.Rate `json:"rate,omitzero"`                // zero: as fast as the lanes take it
	Canary    bool         `json:"canary,omitempty"`             // 1, then 10, then the rest, each when those before have arrived
	Uncertain bool         `json:"may_have_been_sent,omitempty"` // also what may have been sent
	Force     bool         `json:"force,omitempty"`              // Certpost-Force: also what was already delivered
	Reason    string       `json:"reason,omitempty"`
}

// UnmarshalJSON also reads what earlier versions stored, the fields by their names in Go.
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

// Run is a replay of many letters: an object of its own, kept for 90 days.
type Run struct {
	ID      string       `json:"id"`
	Spec    RunSpec      `json:"spec"`
	State   RunState     `json:"state"`
	Why     string       `json:"why,omitempty"` // of pause, stop and cancel
	By      broker.Actor `json:"by"`
	Started time.Time    `json:"started"`
	Ended   time.Time    `json:"ended,omitzero"`
	// Of Frozen.Count letters: Published were replayed; of those Delivered have
	// arrived, DeadAgain are letters again, and the others are under way. Gone were
	// taken off the list by somebody else; Failed could not be published.
	Published int    `json:"published"`
	Delivered int    `json:"delivered"`
	DeadAgain int    `json:"dead_again"`
	Gone      int    `json:"gone"`
	Failed    int    `json:"failed"`
	Worker    string `json:"worker,omitempty"` // the process that works on it
}

// RunResult is what became of one letter of a run.
type RunResult struct {
	Number uint64    `json:"number"`
	Target string    `json:"target"`
	Event  string    `json:"event"`
	Result string    `json:"result"` // waiting, published, delivered, dead again, gone, failed
	Note   string    `json:"note,omitempty"`
	At     time.Time `json:"at,omitzero"`
	Letter uint64    `json:"new_letter,omitempty"` // of a delivery that died again
}

// RunPage is a run with a page of its results, as every door shows it.
type RunPage struct {
	Run
	Results []RunResult `json:"results,omitempty"`
	Next    uint64      `json:"next,omitempty"` // for after; 0: this is the last page
}

// Over reports whether the run will not go on by itself.
func (r *RunPage) Over() bool { return r.State != RunRunning && r.State != RunWatching }

// DeliveryDetail is all that is known of one delivery.
type DeliveryDetail struct {
	broker.Entry
	History []Record `json:"history"` // of its dead letters, oldest first
}

// DeliveryListing is a page of entries, newest first.
type DeliveryListing struct {
	Entries []broker.Entry `json:"entries"`
	Total   int            `json:"total"`
	Next    uint64         `json:"next"`
	// Read and Of say how much of the ledger the index has read; less than all only
	// in the first moments after the start, or beyond Kept entries.
	Read uint64 `json:"read"`
	Of   uint64 `json:"of"`
}

// Overview is the first page at a glance.
type Overview struct {
	Balance     Balance           `json:"balance"`
	Lanes       []broker.LaneInfo `json:"lanes"`
	Backlog     broker.Backlog    `json:"backlog"`
	LastSuccess time.Time         `json:"last_success,omitzero"`
	Sent24h     [24]int           `json:"sent_last_24_hours"`
	Dead24h     [24]int           `json:"dead_last_24_hours"`
	Groups      []Group           `json:"groups"`
	Runs        []Run             `json:"runs"` // unfinished
	Reading     string            `json:"reading,omitempty"`
}

// Change says that something the pages show is different now.
type Change struct {
	Letters, Runs, Lanes, Audit bool
	Newer                       int // letters since the last change
}
