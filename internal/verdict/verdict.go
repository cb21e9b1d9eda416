// Package verdict holds what can be said about one delivery: the code of a
// failure, what the code implies, and the receipt of a success. It is a leaf:
// delivery writes verdicts, the broker acts on them, pages show them, and none
// of the three has to know another for it.
package verdict

import (
	"fmt"
	"time"
)

// Code names why a delivery did not succeed. A code is set where the fact is
// known and implies the class and whether to try again; nothing else decides.
type Code string

// The codes. Which reply in which phase gives which one stands beside the
// table in internal/delivery.
const (
	SMTPConnect    Code = "SMTP_CONNECT"
	SMTPTLS        Code = "SMTP_TLS"
	SMTPAuth       Code = "SMTP_AUTH"
	SMTPTransient  Code = "SMTP_TRANSIENT"
	SMTPPermanent  Code = "SMTP_PERMANENT"
	SMTPValidation Code = "SMTP_VALIDATION"
	SMTPPayload    Code = "SMTP_PAYLOAD"

	EventInvalid  Code = "EVENT_INVALID"
	TargetUnknown Code = "TARGET_UNKNOWN"
	TargetInvalid Code = "TARGET_INVALID"

	SecretUnavailable Code = "SECRET_UNAVAILABLE"
	SecretDenied      Code = "SECRET_DENIED"
	SecretNotFound    Code = "SECRET_NOT_FOUND"

	DeliveryExpired   Code = "DELIVERY_EXPIRED"
	DeliveryUncertain Code = "DELIVERY_UNCERTAIN"
)

// Class groups codes by what a person has to look at.
type Class string

// The classes.
const (
	Network     Class = "network"
	Auth        Class = "auth"
	IOTransient Class = "io_transient"
	IOPermanent Class = "io_permanent"
	Validation  Class = "validation"
)

var codes = map[Code]struct {
	class   Class
	retried bool
}{
	SMTPConnect:       {Network, true},
	SMTPTLS:           {Auth, false},
	SMTPAuth:          {Auth, false},
	SMTPTransient:     {IOTransient, true},
	SMTPPermanent:     {IOPermanent, false},
	SMTPValidation:    {Validation, false},
	SMTPPayload:       {Validation, false},
	EventInvalid:      {Validation, false},
	TargetUnknown:     {Validation, false},
	TargetInvalid:     {Validation, false},
	SecretUnavailable: {Network, true},
	SecretDenied:      {Auth, false},
	SecretNotFound:    {Validation, false},
	DeliveryExpired:   {IOTransient, false},
	DeliveryUncertain: {IOTransient, false},
}

// Class returns the class of the code; a code this build does not know is
// io_transient, because unknown means retry.
func (c Code) Class() Class {
	if k, ok := codes[c]; ok {
		return k.class
	}
	return IOTransient
}

// Retried reports whether a delivery that failed with this code is tried
// again; an unknown code is.
func (c Code) Retried() bool {
	k, ok := codes[c]
	return !ok || k.retried
}

// Phase is the step of a delivery in which something happened. The SMTP phases
// follow RFC 5321 section 4.5.3.2.
type Phase string

// The phases, in the order in which a delivery goes through them.
const (
	PhaseDecode   Phase = "decode"   // reading the event
	PhaseResolve  Phase = "resolve"  // finding the target
	PhaseSecrets  Phase = "secrets"  // fetching secrets
	PhasePayload  Phase = "payload"  // certificate, key, PKCS#12
	PhaseRender   Phase = "render"   // the mail as bytes
	PhaseConnect  Phase = "connect"  // DNS, TCP
	PhaseBanner   Phase = "banner"   // the relay's 220
	PhaseEHLO     Phase = "ehlo"     //
	PhaseSTARTTLS Phase = "starttls" // the command and its reply
	PhaseTLS      Phase = "tls"      // the handshake, implicit or after STARTTLS
	PhaseAuth     Phase = "auth"     //
	PhaseMail     Phase = "mail"     // MAIL FROM
	PhaseRcpt     Phase = "rcpt"     // RCPT TO
	PhaseClaim    Phase = "claim"    // the ledger's lease, just before DATA
	PhaseData     Phase = "data"     // the DATA command
	PhaseContent  Phase = "content"  // the bytes and the reply to the final dot
	PhaseSettle   Phase = "settle"   // ledger and acknowledgement
)

// Certainty is what is known about whether a mail went out.
type Certainty string

// The certainties. May is the one a person has to think about: the final dot
// was sent and no reply was read.
const (
	NotSent  Certainty = "not-sent"
	May      Certainty = "may-have-been-sent"
	Accepted Certainty = "accepted"
)

// Failure says why an attempt at a delivery failed. Its texts are our own or
// cleaned; it never holds a secret, so all of it may be stored and shown.
type Failure struct {
	Code   Code
	Phase  Phase
	Reason string // our words: what happened, where, what to do

	ReplyCode    int    // the relay's, 0 when there was none
	EnhancedCode string // RFC 3463, "" when there was none
	Reply        string // the relay's text, cleaned and cut

	// Relay is set when the relay as a whole failed (no connection, 421
	// greeting). Such an attempt is not held against the delivery.
	Relay bool
	// Untried is set when no relay was asked to take the mail, because all are left
	// alone at present or have as much as they may be given: the delivery comes back
	// as it was.
	Untried bool
	// After is how long a delivery should stay away that Relay or Untried gives
	// back; 0 leaves it to the broker.
	After time.Duration
	// RetryAnyway is set when the target turns this code, which is otherwise
	// final, into a retried one.
	RetryAnyway bool
	// Certainty is NotSent unless the content may have been taken.
	Certainty Certainty
	// Recipients are the addresses still owed; nil means all that were tried.
	Recipients []string
	// Refused are those of the Recipients that the relay refused for good, one by
	// one. They are not tried again, also when the failure is because of the
	// others: once the fate of these is decided, the refused end in one dead letter.
	Refused []Refusal
	// Secrets are the versions of what the attempt used, by reference.
	Secrets map[string]string
	// Course is how the attempt went; nil when none was made.
	Course *Course
	// Cause is for errors.Is and errors.As alone: its text may quote input.
	Cause error
}

// Retry reports whether the delivery should be tried again.
func (f *Failure) Retry() bool { return f.RetryAnyway || f.Code.Retried() }

// Error gives code, phase, reply code and reason on one line.
func (f *Failure) Error() string {
	reply := ""
	if f.ReplyCode != 0 {
		reply = fmt.Sprintf(" (reply %d %s)", f.ReplyCode, f.EnhancedCode)
	}
	return fmt.Sprintf("%s in %s%s: %s", f.Code, f.Phase, reply, f.Reason)
}

func (f *Failure) Unwrap() error { return f.Cause }

// Refusal is a relay's final no to one recipient. It may be stored and shown.
type Refusal struct {
	Recipient    string `json:"recipient"`
	Code         Code   `json:"code"`
	Reason       string `json:"reason"` // our words
	ReplyCode    int    `json:"reply_code"`
	EnhancedCode string `json:"enhanced_code,omitempty"`
	Reply        string `json:"reply,omitempty"` // cleaned and cut
}

// RefusedAll is the verdict when recipients were refused for good and nobody
// else is owed the mail: that of the first one, about all of them.
func RefusedAll(refusals []Refusal) *Failure {
	first := refusals[0]
	f := &Failure{
		Code: first.Code, Phase: PhaseRcpt, Reason: first.Reason, ReplyCode: first.ReplyCode,
		EnhancedCode: first.EnhancedCode, Reply: first.Reply, Certainty: NotSent, Refused: refusals,
	}
	for _, r := range refusals {
		f.Recipients = append(f.Recipients, r.Recipient)
	}
	if len(refusals) > 1 {
		f.Reason = fmt.Sprintf("%d recipients were refused; %s", len(refusals), first.Reason)
	}
	return f
}

// Receipt is what the relay gave for a mail it took.
type Receipt struct {
	Relay       string            `json:"relay"` // host:port
	ReplyCode   int               `json:"reply_code"`
	Reply       string            `json:"reply"` // cleaned and cut
	QueueID     string            `json:"queue_id,omitempty"`
	MessageID   string            `json:"message_id"`
	TLS         string            `json:"tls,omitempty"`        // "TLS 1.3 TLS_AES_128_GCM_SHA256"; "" in plaintext
	Peer        string            `json:"peer,omitempty"`       // the address that answered, IP:port
	Definition  string            `json:"definition,omitempty"` // of the target: see Course
	Recipients  []string          `json:"recipients"`
	Certificate *Certificate      `json:"certificate,omitempty"`
	Secrets     map[string]string `json:"secrets,omitempty"` // reference -> version, never the value
	Size        int               `json:"size"`              // of the mail, bytes
	Timings     Timings           `json:"timings"`
}

// Timings says where the time of an attempt went.
type Timings struct {
	Secrets time.Duration `json:"secrets_ns"`
	Render  time.Duration `json:"render_ns"`
	Dial    time.Duration `json:"dial_ns"` // TCP, TLS and AUTH; 0 on a warm connection
	Send    time.Duration `json:"send_ns"` // MAIL to the reply to the final dot
	Total   time.Duration `json:"total_ns"`
}

// Attempt is what the broker asks of a courier: one try at one delivery.
type Attempt struct {
	Target string // the id of the target
	Lane   string
	Number int // 1 for the first
	// Recipients, when not nil, are the only ones still owed.
	Recipients []string
	// Accepted have the mail already and do not get it again, whatever the target
	// says by now.
	Accepted []string
	// Override, when not empty, are the recipients that a replay names in place of
	// the target's. One that the target does not name and the configuration does not
	// allow ends the delivery.
	Override []string
	// PossibleDuplicate marks a mail whose earlier outcome is unknown: same
	// Message-ID, and a header that says so.
	PossibleDuplicate bool
	// Claim is called once, after the relay has taken the envelope and before
	// any content goes out; when it fails nothing may be sent. until is the
	// moment by which the outcome will be known.
	Claim func(until time.Time) error
	// Limits is asked for relays that have limits; nil knows of none.
	Limits Limits
}

// Route is one answer to "who gets this event": a delivery to a target, or, with
// Failure set, why there can be none.
type Route struct {
	Target  string
	Lane    string
	Failure *Failure
}
