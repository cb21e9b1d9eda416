// Package outcome tells other systems what became of deliveries: as CloudEvents on certpost.outcome.<target> in the
// stream CERTPOST_OUTCOMES, and from there to webhooks. The Publisher (publisher.go) reads dead letters, audit and
// ledger behind the deliveries, so that none waits for it; a Webhook (webhook.go) reads the stream.
package outcome

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// Type is what became of a delivery.
type Type string

// The types. Failed is not an end: the delivery is tried again.
const (
	Delivered  Type = "delivered"   // the relay has accepted the mail for all recipients
	Deployed   Type = "deployed"    // the files are on the mail host, and it serves them
	Failed     Type = "failed"      // an attempt failed; another one follows
	Dead       Type = "dead"        // it became a dead letter
	Replayed   Type = "replayed"    // its dead letter was replayed
	Discarded  Type = "discarded"   // its dead letter was discarded
	Restored   Type = "restored"    // its dead letter was discarded, and is open again
	Skipped    Type = "skipped"     // the target has a newer certificate already
	RolledBack Type = "rolled-back" // an operator has put the former files back
)

// Types are all types.
func Types() []Type {
	return []Type{Delivered, Deployed, Failed, Dead, Replayed, Discarded, Restored, Skipped, RolledBack}
}

// TypePrefix begins the type of the CloudEvent.
const TypePrefix = "certpost.outcome."

// Source is the source of the CloudEvents.
const Source = "certpost"

// Event is a CloudEvent 1.0 in structured JSON.
type Event struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"` // the same for the same outcome, however often it is published
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject"` // the target; _ for an event that never got one
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	TraceParent     string    `json:"traceparent,omitempty"` // of the event that was published
	Data            Data      `json:"data"`
}

// Data is what an outcome says. It has no key, no secret, no address of a person and no words of relays.
type Data struct {
	Event      string `json:"event"` // its id
	Target     string `json:"target,omitempty"`
	Lane       string `json:"lane,omitempty"`
	Outcome    Type   `json:"outcome"`
	Attempts   int    `json:"attempts,omitempty"`
	Generation int    `json:"generation,omitempty"` // 1, and one more with each replay
	// Code and what follows it say why, for failed, dead and skipped.
	Code         verdict.Code      `json:"code,omitempty"`
	Class        verdict.Class     `json:"class,omitempty"`
	Phase        verdict.Phase     `json:"phase,omitempty"`
	ReplyCode    int               `json:"reply_code,omitempty"`
	EnhancedCode string            `json:"enhanced_code,omitempty"`
	Certainty    verdict.Certainty `json:"certainty,omitempty"`
	// Letter is the number of the dead letter; NewLetter that of a restored one.
	Letter    uint64 `json:"letter,omitempty"`
	NewLetter uint64 `json:"new_letter,omitempty"`
	// MessageID is that of the mail, Host the mail host.
	MessageID   string       `json:"message_id,omitempty"`
	Host        string       `json:"host,omitempty"`
	State       string       `json:"state,omitempty"` // of a deployment: deployed or unchanged
	Certificate *Certificate `json:"certificate,omitempty"`
}

// Certificate is the one that was delivered, or should have been.
type Certificate struct {
	CommonName  string    `json:"cn,omitempty"`
	DNSNames    []string  `json:"dns_names,omitempty"`
	Serial      string    `json:"serial"`
	Fingerprint string    `json:"fingerprint"` // SHA-256, hexadecimal
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
}

func certificateOf(c *verdict.Certificate) *Certificate {
	if c == nil {
		return nil
	}
	return &Certificate{CommonName: c.CommonName, DNSNames: c.DNSNames, Serial: c.Serial, Fingerprint: c.Fingerprint, NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC()}
}

// of returns the outcome that an item is; nil if it is none.
func of(i broker.OutcomeItem) *Event {
	switch {
	case i.Letter != nil:
		return ofLetter(i.Letter)
	case i.Record != nil:
		return ofRecord(i.Record)
	case i.Past != nil:
		return ofPast(i.Change, i.Past)
	}
	return ofEntry(i.Change)
}

// event makes the event of a delivery. part names what of the delivery has this outcome.
func event(at time.Time, token, part string, d Data) *Event {
	target := d.Target
	if !events.IsToken(target) {
		target = broker.NoToken
	}
	return &Event{SpecVersion: "1.0", ID: fmt.Sprintf("%s/%s/%s/%s", token, target, part, d.Outcome), Source: Source, Type: TypePrefix + string(d.Outcome), Subject: target,
		Time: at.UTC(), DataContentType: "application/json", Data: d}
}

// ofLetter is the outcome of a dead letter. That of a restored one is in the audit.
func ofLetter(l *broker.DeadLetter) *Event {
	if l.RestoredFrom != 0 {
		return nil
	}
	d := aboutLetter(l)
	d.Outcome = Dead
	e := event(l.Time, l.Token, "letter."+strconv.FormatUint(l.Sequence, 10), d)
	e.TraceParent = l.TraceParent
	return e
}

func aboutLetter(l *broker.DeadLetter) Data {
	d := Data{Event: l.Event, Target: l.Target, Lane: l.Lane, Attempts: l.Attempts, Generation: l.Generation, Letter: l.Sequence,
		Code: l.Code, Class: l.Class, Phase: l.Phase, ReplyCode: l.ReplyCode, EnhancedCode: l.EnhancedCode, Certainty: l.Certainty}
	if ev, err := events.Decode(nil, l.Body); err == nil {
		if leaf, err := ev.Leaf(); err == nil {
			d.Certificate = certificateOf(verdict.CertificateOf(leaf))
		}
	}
	return d
}

// ofRecord is the outcome of an action on a dead letter.
func ofRecord(r *broker.AuditRecord) *Event {
	types := map[broker.Action]Type{broker.ActionReplayed: Replayed, broker.ActionDiscarded: Discarded, broker.ActionRestored: Restored}
	kind, known := types[r.Action]
	if !known || r.Unreadable || r.Stage == broker.StageIntent || r.LetterNumber == 0 {
		return nil
	}
	d := Data{Event: r.Event, Target: r.Target, Letter: r.LetterNumber}
	if r.Letter != nil {
		l := *r.Letter
		l.Body = r.Body
		d = aboutLetter(&l)
		d.Letter = r.LetterNumber
	}
	d.Outcome, d.NewLetter = kind, r.NewLetter
	return event(r.Time, events.Token(r.Event), "letter."+strconv.FormatUint(r.LetterNumber, 10), d)
}

// ofEntry is the outcome of a revision of the ledger. Dead and discarded deliveries are told by their letter
// and the audit.
func ofEntry(c *broker.LedgerChange) *Event {
	e := &c.Entry
	if c.Deleted || c.Unreadable || e.Cancel != nil { // the order changes nothing of the revision before
		return nil
	}
	d := Data{Event: e.Event, Target: e.Target, Lane: e.Lane, Attempts: e.Attempts, Generation: max(e.Generation, 1), Certificate: certificateOf(e.Certificate)}
	switch {
	case e.State == broker.StateSent:
		return ofReceipt(c.Time, e.Sequence, e.Receipt, d)
	case e.State == broker.StateSkipped:
		d.Outcome = Skipped
		d.because(e.Failure)
		return event(c.Time, events.Token(e.Event), settledBy(d.Generation, e.Sequence), d)
	case e.State == broker.StateWaiting && e.Failure != nil && e.Attempts > 0 && !e.HeldBack():
		d.Outcome = Failed
		d.because(e.Failure)
		return event(c.Time, events.Token(e.Event), settledBy(d.Generation, e.Sequence)+"."+strconv.Itoa(e.Attempts), d)
	}
	return nil
}

// ofPast is an outcome that a later revision has replaced before it was read.
func ofPast(c *broker.LedgerChange, p *broker.PastOutcome) *Event {
	e := &c.Entry
	d := Data{Event: e.Event, Target: e.Target, Lane: e.Lane, Attempts: p.Attempts, Generation: max(p.Generation, 1), Certificate: certificateOf(e.Certificate)}
	if p.State == broker.StateSkipped {
		d.Outcome = Skipped
		return event(p.At, events.Token(e.Event), settledBy(d.Generation, p.Sequence), d)
	}
	return ofReceipt(p.At, p.Sequence, p.Receipt, d)
}

// ofReceipt is the outcome of a delivery that succeeded, or was rolled back.
func ofReceipt(at time.Time, sequence uint64, r *verdict.Receipt, d Data) *Event {
	d.Outcome = Delivered
	if r != nil {
		d.MessageID, d.Host, d.State = r.MessageID, r.Host, r.State
		if !r.At.IsZero() {
			at = r.At
		}
		if r.OnHost() {
			d.Outcome, d.MessageID = Deployed, ""
		}
		if r.RolledBack != nil {
			d.Outcome, at, d.State = RolledBack, r.RolledBack.At, ""
		}
	}
	return event(at, events.Token(d.Event), settledBy(d.Generation, sequence), d)
}

// settledBy names the message of the delivery that brought an outcome.
func settledBy(generation int, sequence uint64) string {
	return fmt.Sprintf("%d.%d", generation, sequence)
}

func (d *Data) because(f *broker.FailureRecord) {
	if f == nil {
		return
	}
	d.Code, d.Class, d.Phase, d.ReplyCode, d.EnhancedCode, d.Certainty = f.Code, f.Code.Class(), f.Phase, f.ReplyCode, f.EnhancedCode, f.Certainty
}

// Read reads an event that Certpost has published.
func Read(data []byte) (*Event, error) {
	var e Event
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, err
	}
	if e.SpecVersion != "1.0" || e.ID == "" || !slices.Contains(Types(), e.Data.Outcome) {
		return nil, errors.New("not an outcome of Certpost")
	}
	return &e, nil
}

// Summary is the outcome in one line.
func (e *Event) Summary() string {
	d := &e.Data
	what := "event " + d.Event
	if c := d.Certificate; c != nil {
		switch {
		case c.CommonName != "":
			what = "certificate for " + c.CommonName
		case len(c.DNSNames) > 0:
			what = "certificate for " + c.DNSNames[0]
		}
	}
	text := fmt.Sprintf("%s: %s to %s", d.Outcome, what, e.Subject)
	if d.Code != "" {
		text += " (" + string(d.Code) + ")"
	}
	return text
}
