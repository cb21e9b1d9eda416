// Package alert tells people by mail and webhook what needs them: new dead letters, certificates
// that expire undelivered, a process that does not work, a broken audit.
//
// Conditions are what a process sees now. The Board is what all processes know together:
// which alerts last, what each channel was told of them, what is silenced. It is one value in
// the store, and changes by compare-and-set. The Engine compares conditions with the board and
// sends messages; a Channel is one way on which they go.
package alert

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/duration"
	"github.com/certpost/certpost/internal/legible"
)

// Kind is what an alert is about.
type Kind string

// The kinds.
const (
	DeadLetters Kind = "dead_letters" // open dead letters of one cause
	LetterAge   Kind = "letter_age"   // an open dead letter is older than alerts.letter_age
	Expiry      Kind = "expiry"       // the certificate of an open dead letter expires within alerts.expiry
	Waiting     Kind = "waiting"      // deliveries of a lane have waited for alerts.waiting
	NotReady    Kind = "not_ready"    // a process has not been ready for alerts.not_ready
	Standstill  Kind = "standstill"   // events or deliveries have not moved for alerts.not_ready
	Audit       Kind = "audit"        // audit or ledger are not what Certpost wrote
	Unexplained Kind = "unexplained"  // dead letters are gone without a record
)

// Kinds are all kinds.
func Kinds() []Kind {
	return []Kind{DeadLetters, LetterAge, Expiry, Waiting, NotReady, Standstill, Audit, Unexplained}
}

// Severity says whether an alert wakes the operator on call. The words are those of deployments/prometheus.
type Severity string

// The severities.
const (
	Page   Severity = "page"   // wakes the operator on call
	Ticket Severity = "ticket" // waits for the morning
)

// Condition is what a process sees now and an operator has to know. Summary says what is wrong,
// Advice what to do: words of Certpost alone, with codes, lanes, numbers and times.
type Condition struct {
	Kind     Kind
	Name     string // tells conditions of one kind apart; may be empty
	Severity Severity
	Summary  string
	Advice   string
	Since    time.Time
	// For is how long it must last before it becomes an alert.
	For time.Duration
}

const (
	maxKey  = 200 // characters
	maxText = 500
)

// Key names the alert of a condition: dead_letters/FINGERPRINT, audit.
func (c Condition) Key() string {
	if c.Name == "" {
		return string(c.Kind)
	}
	return string(c.Kind) + "/" + strings.ReplaceAll(legible.Clean(c.Name, maxKey), " ", "_")
}

// Alert is a condition that the processes know of.
type Alert struct {
	Key      string    `json:"key"`
	Kind     Kind      `json:"kind"`
	Severity Severity  `json:"severity"`
	Summary  string    `json:"summary"`
	Advice   string    `json:"advice"`
	Since    time.Time `json:"since"`          // when the condition began
	Added    time.Time `json:"added"`          // to the board
	Seen     time.Time `json:"seen"`           // by any process, to refreshSeen
	Over     time.Time `json:"over,omitzero"`  // since when it is resolved; zero while it lasts
	Told     Told      `json:"told,omitempty"` // when each channel last heard of it
}

// Told is a time for each channel.
type Told map[string]time.Time

// Silence keeps channels from being told of alerts.
type Silence struct {
	Of     string    `json:"of"` // the key of an alert, a kind, or Everything
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
	By     string    `json:"by"` // as it is shown
	Since  time.Time `json:"since"`
}

// Everything silences all alerts.
const Everything = "all"

// MaxSilence is the longest silence: one without an end would be forgotten.
const MaxSilence = 31 * duration.Day

// CheckSilence returns what is wrong with the length of a silence.
func CheckSilence(last time.Duration) error {
	if last < time.Second || last > MaxSilence {
		return fmt.Errorf("a silence lasts 1s to %s, not %s", duration.Format(MaxSilence), duration.Format(last))
	}
	return nil
}

const (
	// maxAlerts bounds the alerts on the board. What does not fit is counted.
	maxAlerts = 50
	// maxSilences bounds the silences.
	maxSilences = 50
	// keepOver is how long an alert that is over waits for a channel that fails.
	keepOver = 7 * 24 * time.Hour
)

// Board is what all processes know of alerts.
type Board struct {
	// ID tells installations apart at a service that gets the messages of several.
	ID       string              `json:"id"`
	Alerts   []*Alert            `json:"alerts"`
	Silences []Silence           `json:"silences,omitempty"`
	Channels map[string]*Channel `json:"channels,omitempty"`
	// Omitted is the number of alerts for which there was no room.
	Omitted int `json:"omitted,omitempty"`
}

// Channel is what the processes know of one way of telling.
type Channel struct {
	Sent    time.Time `json:"sent,omitzero"` // the last message
	Sending *Sending  `json:"sending,omitempty"`
	Tries   int       `json:"tries,omitempty"` // that have failed since the last success
	Error   string    `json:"error,omitempty"` // of the last try
	// Refusals counts messages in a row that the channel did not take because of what they say.
	Refusals int `json:"refusals,omitempty"`
}

// Sending is a message until its channel has it.
type Sending struct {
	Message Message   `json:"message"`
	By      string    `json:"by"` // the process that sends it
	Until   time.Time `json:"until"`
	// Next is when it is tried again.
	Next time.Time `json:"next,omitzero"`
	// Refused says that the channel does not take it: the next try is with a new one, in which later alerts are, too.
	Refused bool `json:"refused,omitempty"`
}

// Message is what a channel gets: all that lasts, and what is over since the last one.
type Message struct {
	ID       string    `json:"id"`    // the same for each try
	Group    string    `json:"group"` // the installation, so that a service can tell which incident it is
	Made     time.Time `json:"made"`
	Firing   []Line    `json:"firing,omitempty"` // the most urgent first
	Resolved []Line    `json:"resolved,omitempty"`
	Omitted  int       `json:"omitted,omitempty"` // alerts for which there was no room
	Link     string    `json:"link,omitempty"`    // of the page with the alerts
}

// Line is one alert in a message.
type Line struct {
	Key      string    `json:"key"`
	Kind     Kind      `json:"kind"`
	Severity Severity  `json:"severity"`
	Summary  string    `json:"summary"`
	Advice   string    `json:"advice,omitempty"`
	Since    time.Time `json:"since"`
	Over     time.Time `json:"over,omitzero"`
	New      bool      `json:"new,omitempty"` // not in an earlier message
}

// Summary is the message in one line.
func (m Message) Summary() string {
	if len(m.Firing) == 0 {
		return "all alerts are resolved"
	}
	text := m.Firing[0].Summary
	if more := len(m.Firing) - 1 + m.Omitted; more > 0 {
		text = strings.TrimSuffix(text, ".") + fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// Severity is that of the most urgent alert; Ticket if all are resolved.
func (m Message) Severity() Severity {
	if len(m.Firing) == 0 {
		return Ticket
	}
	return m.Firing[0].Severity
}

// Find returns the alert with a key, nil if there is none.
func (b *Board) Find(key string) *Alert {
	for _, a := range b.Alerts {
		if a.Key == key {
			return a
		}
	}
	return nil
}

// Silenced returns the silence of an alert that ends last, nil if it is not silenced.
func (b *Board) Silenced(a *Alert, now time.Time) (found *Silence) {
	for i, s := range b.Silences {
		fits := s.Of == Everything || s.Of == a.Key || s.Of == string(a.Kind)
		if fits && s.Until.After(now) && (found == nil || s.Until.After(found.Until)) {
			found = &b.Silences[i]
		}
	}
	return found
}

// CanSilence reports whether there may be a silence of this: everything, a kind, or an alert
// on the board.
func (b *Board) CanSilence(of string) bool {
	return of == Everything || slices.Contains(Kinds(), Kind(of)) || b.Find(of) != nil
}

// Silence adds a silence, in place of one of the same alerts; false if there are too many.
func (b *Board) Silence(s Silence, now time.Time) bool {
	b.Silences = slices.DeleteFunc(b.Silences, func(old Silence) bool { return old.Of == s.Of || !old.Until.After(now) })
	if len(b.Silences) >= maxSilences {
		return false
	}
	b.Silences = append(b.Silences, s)
	return true
}

// Unsilence ends a silence; false if there is none.
func (b *Board) Unsilence(of string, now time.Time) bool {
	found := false
	b.Silences = slices.DeleteFunc(b.Silences, func(s Silence) bool {
		found = found || s.Of == of && s.Until.After(now)
		return s.Of == of || !s.Until.After(now)
	})
	return found
}

// urgency sorts alerts: those to page first, then the oldest.
func urgency(a, b *Alert) int {
	if a.Severity != b.Severity {
		if a.Severity == Page {
			return -1
		}
		return 1
	}
	if c := a.Since.Compare(b.Since); c != 0 {
		return c
	}
	return strings.Compare(a.Key, b.Key)
}

// Sorted returns the alerts, the most urgent first.
func (b *Board) Sorted() []*Alert { return slices.SortedFunc(slices.Values(b.Alerts), urgency) }
