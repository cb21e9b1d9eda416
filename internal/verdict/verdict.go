// Package verdict describes the outcome of one delivery: the code of a failure and
// what the code implies, or the receipt of a success. It is a leaf: delivery writes
// verdicts, the broker acts on them and the pages show them, so none of the three
// has to import another for them.
package verdict

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Code is the cause of a failed delivery. It is set where the cause is known, and it
// implies the class and whether the delivery is retried (except for
// Failure.RetryAnyway).
type Code string

// The codes. The table in internal/delivery says which SMTP reply in which phase
// gives which code.
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
	DeliveryCancelled Code = "DELIVERY_CANCELLED" // by an operator, while it waited

	// Of mail hosts, by the step that failed (internal/mailhost).
	DeployWrite    Code = "DEPLOY_WRITE"
	DeployValidate Code = "DEPLOY_VALIDATE"
	DeployReload   Code = "DEPLOY_RELOAD"
	DeployVerify   Code = "DEPLOY_VERIFY"
	// DeployHeld says that mail servers that use DANE would not accept the new certificate yet.
	DeployHeld Code = "DEPLOY_HELD"
)

// Class groups codes by the area that an operator has to check.
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
	DeliveryCancelled: {IOPermanent, false},
	DeployWrite:       {IOPermanent, false},
	DeployValidate:    {IOPermanent, false},
	DeployReload:      {IOPermanent, false},
	DeployVerify:      {IOPermanent, false},
	DeployHeld:        {IOTransient, true},
}

// Codes are all codes, sorted.
func Codes() []Code { return slices.Sorted(maps.Keys(codes)) }

// Classes are all classes.
func Classes() []Class { return []Class{Network, Auth, IOTransient, IOPermanent, Validation} }

// Phases are all phases, in the order of a delivery.
func Phases() []Phase {
	return []Phase{PhaseDecode, PhaseSource, PhaseResolve, PhaseSecrets, PhasePayload, PhaseRender, PhaseConnect, PhaseBanner, PhaseEHLO, PhaseSTARTTLS, PhaseTLS,
		PhaseAuth, PhaseMail, PhaseRcpt, PhaseClaim, PhaseData, PhaseContent, PhaseDANE, PhaseWrite, PhaseValidate, PhaseReload, PhaseVerify, PhaseSettle}
}

// Certainties are all certainties.
func Certainties() []Certainty { return []Certainty{NotSent, MaybeSent, Accepted} }

// Class returns the class of the code. A code that this build does not know is
// io_transient, because an unknown code is retried.
func (c Code) Class() Class {
	if k, ok := codes[c]; ok {
		return k.class
	}
	return IOTransient
}

// Retried reports whether a delivery that failed with this code is retried; an
// unknown code is.
func (c Code) Retried() bool {
	k, ok := codes[c]
	return !ok || k.retried
}

// Phase is a step of a delivery. The SMTP phases follow RFC 5321 section 4.5.3.2.
type Phase string

// The phases, in the order of a delivery.
const (
	PhaseDecode   Phase = "decode"   // reading the event
	PhaseSource   Phase = "source"   // what the event's source may name
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
	PhaseDANE     Phase = "dane"     // of a deployment: asking DNS whether the key may change
	PhaseWrite    Phase = "write"    // of a deployment: checking the paths, writing and replacing the files
	PhaseValidate Phase = "validate" // the target's validate_command
	PhaseReload   Phase = "reload"   // the target's reload_command
	PhaseVerify   Phase = "verify"   // asking the program for its certificate
	PhaseSettle   Phase = "settle"   // ledger and acknowledgement
)

// Certainty says whether a mail was sent, as far as is known.
type Certainty string

// The certainties. May is the one that an operator has to decide about: content was
// sent, and no reply to the final dot was read.
const (
	NotSent   Certainty = "not-sent"
	MaybeSent Certainty = "may-have-been-sent"
	Accepted  Certainty = "accepted"
)

// Outcome is how an attempt at a delivery failed, in the form in which it is stored in
// the ledger and in dead letters, and shown. Its texts are Certpost's own or cleaned; it
// never contains a secret.
type Outcome struct {
	Code         Code      `json:"code"`
	Phase        Phase     `json:"phase"`
	Reason       string    `json:"reason"`                  // Certpost's text: what happened, where, what to do
	ReplyCode    int       `json:"reply_code,omitempty"`    // the relay's, 0 when there was none
	EnhancedCode string    `json:"enhanced_code,omitempty"` // RFC 3463, "" when there was none
	Reply        string    `json:"reply,omitempty"`         // the relay's text, cleaned and cut
	Certainty    Certainty `json:"certainty"`               // NotSent unless the relay may have taken the content
	Rollback     Rollback  `json:"rollback,omitempty"`      // of a deployment; "" for mails, which have none
	// ToFix is what has to be fixed where code, phase and lane do not say it: the reference of a
	// secret, or the host of a token endpoint. "" for all else.
	ToFix string `json:"to_fix,omitempty"`
}

// Rollback says how a failed deployment left the files and the program on its mail host.
type Rollback string

// The outcomes of a rollback.
const (
	RollbackNotNeeded    Rollback = "not-needed"    // no file had been replaced
	RollbackRestored     Rollback = "restored"      // the former files are back and served
	RollbackFailed       Rollback = "failed"        // somebody has to look at the host; the reason says what is there
	RollbackNotSupported Rollback = "not-supported" // a mail: what was sent cannot be taken back
)

// RollbackOf returns the outcome of the rollback of a delivery in a lane that failed.
func RollbackOf(o Outcome, lane string) Rollback {
	switch {
	case o.Rollback != "":
		return o.Rollback
	case OnHost(lane):
		return RollbackNotNeeded // it failed before the files
	}
	return RollbackNotSupported
}

// Definite returns the outcome with a certainty. An empty one means NotSent: code that sends
// content sets it if the result is unknown.
func (o Outcome) Definite() Outcome {
	if o.Certainty == "" {
		o.Certainty = NotSent
	}
	return o
}

// Failure says why an attempt at a delivery failed. Everything except Cause may be
// stored and shown.
type Failure struct {
	Outcome

	// Relay is set when the relay as a whole failed (no connection, 421 greeting).
	// Such an attempt does not count as an attempt of the delivery.
	Relay bool
	// Limit is set, with Relay, when the relay refused the mail because of a limit of its
	// own, such as mails per day, and would refuse others too.
	Limit bool
	// Untried is set when no relay was tried, because the breakers or the limits of
	// all of them forbid it now. The delivery comes back unchanged.
	Untried bool
	// After is the delay before the next attempt after Relay or Untried; 0 lets the
	// broker choose it.
	After time.Duration
	// Skip is set when nothing is to be sent, by the target's policy or because its host has the
	// certificate of a later event, and there is nothing to look at: the delivery is settled without a mail
	// and without a dead letter.
	Skip bool
	// Hold is set when nothing was tried, because something outside has to be changed first. The
	// delivery is looked at again soon, and no attempt is counted.
	Hold *Hold
	// RetryAnyway is set when the target has this otherwise final code retried.
	RetryAnyway bool
	// Recipients are the addresses still owed the mail; nil means all of the attempt.
	Recipients []string
	// Refused are those of the Recipients that the relay refused permanently, one by
	// one. They are not retried, even when the other recipients are; once the outcome
	// for the others is final, all refused recipients go into one dead letter.
	Refused []Refusal
	// Secrets are the versions of the secrets that the attempt used, by reference.
	Secrets map[string]string
	// Transcript records the attempt; nil when there was none.
	Transcript *Transcript
	// Cause is for errors.Is and errors.As only; it is never shown, because its text
	// may quote input.
	Cause error
}

// Fail is the failure of an attempt that sent nothing.
func Fail(code Code, phase Phase, reason string) *Failure {
	return &Failure{Outcome: Outcome{Code: code, Phase: phase, Reason: reason, Certainty: NotSent}}
}

// Because adds the cause, for errors.Is and errors.As.
func (f *Failure) Because(cause error) *Failure {
	f.Cause = cause
	return f
}

// Retry reports whether the delivery should be retried.
func (f *Failure) Retry() bool { return f.RetryAnyway || f.Code.Retried() }

// Error returns code, phase, reply code and reason on one line.
func (f *Failure) Error() string {
	reply := ""
	if f.ReplyCode != 0 {
		reply = strings.TrimRight(fmt.Sprintf(" (reply %d %s", f.ReplyCode, f.EnhancedCode), " ") + ")"
	}
	return fmt.Sprintf("%s in %s%s: %s", f.Code, f.Phase, reply, f.Reason)
}

func (f *Failure) Unwrap() error { return f.Cause }

// Refusal is a relay's permanent refusal of one recipient. It may be stored and shown.
type Refusal struct {
	Recipient    string `json:"recipient"`
	Code         Code   `json:"code"`
	Reason       string `json:"reason"` // Certpost's text
	ReplyCode    int    `json:"reply_code"`
	EnhancedCode string `json:"enhanced_code,omitempty"`
	Reply        string `json:"reply,omitempty"` // cleaned and cut
}

// RefusalOf is the refusal of one recipient with the outcome of its RCPT command.
func RefusalOf(recipient string, o Outcome) Refusal {
	return Refusal{Recipient: recipient, Code: o.Code, Reason: o.Reason, ReplyCode: o.ReplyCode, EnhancedCode: o.EnhancedCode, Reply: o.Reply}
}

// Outcome is the refusal as the outcome of its recipient's RCPT command.
func (r Refusal) Outcome() Outcome {
	return Outcome{Code: r.Code, Phase: PhaseRcpt, Reason: r.Reason, ReplyCode: r.ReplyCode, EnhancedCode: r.EnhancedCode, Reply: r.Reply, Certainty: NotSent}
}

// RefusedAll returns the failure of a delivery whose remaining recipients were all
// refused permanently. Code and reply are those of the first refusal. refusals must
// not be empty.
func RefusedAll(refusals []Refusal) *Failure {
	first := refusals[0]
	f := &Failure{Outcome: first.Outcome(), Refused: refusals}
	for _, r := range refusals {
		f.Recipients = append(f.Recipients, r.Recipient)
	}
	if len(refusals) > 1 {
		f.Reason = fmt.Sprintf("%d recipients were refused; %s", len(refusals), first.Reason)
	}
	return f
}

// Receipt records a mail that the relay accepted, or a deployment onto a mail host: that has
// Host, State and Steps, and nothing of relay and mail.
type Receipt struct {
	Relay       string            `json:"relay"` // host:port
	ReplyCode   int               `json:"reply_code"`
	Reply       string            `json:"reply"` // cleaned and cut
	QueueID     string            `json:"queue_id,omitempty"`
	MessageID   string            `json:"message_id"`
	TLS         string            `json:"tls,omitempty"`         // "TLS 1.3 TLS_AES_128_GCM_SHA256"; "" in plaintext
	Peer        string            `json:"peer,omitempty"`        // the address that answered, IP:port
	Definition  string            `json:"definition,omitempty"`  // of the target: see Transcript
	At          time.Time         `json:"at,omitzero"`           // when the relay's reply came
	Payload     string            `json:"payload,omitempty"`     // its kind, such as pem
	Files       []string          `json:"files,omitempty"`       // names of the attachments
	PrivateKey  KeySent           `json:"private_key,omitempty"` // "" in receipts of versions that did not store it
	Recipients  []string          `json:"recipients"`
	Certificate *Certificate      `json:"certificate,omitempty"`
	Secrets     map[string]string `json:"secrets,omitempty"`  // reference -> version, never the value
	Size        int               `json:"size"`               // of the mail, bytes
	DSN         bool              `json:"dsn,omitempty"`      // the relay was told (RFC 3461) that bounces return only headers
	Warnings    []string          `json:"warnings,omitempty"` // Certpost's texts
	Timings     Timings           `json:"timings"`
	Phases      []Step            `json:"-"` // of the attempt, one after the other, for traces

	Host  string   `json:"host,omitempty"`  // the mail host, as in the target
	State string   `json:"state,omitempty"` // deployed or unchanged
	Steps []string `json:"steps,omitempty"` // of the deployment, in order
	// KeyMode are the permissions of the file that has the private key, octal; "" without one.
	KeyMode string `json:"key_mode,omitempty"`
	// Replaced is the SHA-256 of the leaf that the host had before, hexadecimal; "" if there was none.
	Replaced string `json:"replaced,omitempty"`
	// RollbackAvailable says that the host kept the files that were there before. A mail cannot be
	// taken back: see Remedy.
	RollbackAvailable bool `json:"rollback_available"`
	// RolledBack is set when an operator has put the former files back.
	RolledBack *RolledBack `json:"rolled_back,omitempty"`
}

// RolledBack says who put the files back that a deployment had replaced.
type RolledBack struct {
	At          time.Time    `json:"at"`
	By          string       `json:"by"`
	Reason      string       `json:"reason"`
	Certificate *Certificate `json:"certificate,omitempty"` // that the host serves again
}

// OnHost reports whether the receipt is of a deployment.
func (r *Receipt) OnHost() bool { return r.Host != "" }

// CanRollBack reports whether the former files can be put back.
func (r *Receipt) CanRollBack() bool { return r.RollbackAvailable && r.RolledBack == nil }

// Remedy says what to do where a rollback is not possible.
func (r *Receipt) Remedy() string {
	switch {
	case r.RolledBack != nil:
		return "the former certificate is back; publish an event with the certificate that the host shall have"
	case r.CanRollBack():
		return ""
	case r.OnHost() && r.Payload != "" && r.Payload != "pem_and_key":
		return "Certpost does not put a " + r.Payload + " file back: copy the backup beside it (its name ends with .certpost- and the time) over it and reload the program, or publish an event with the certificate that the host shall have"
	case r.OnHost():
		return "the host keeps no former files of this deployment; publish an event with the certificate that it shall have"
	}
	return "a mail cannot be taken back; if it must not be used, revoke the certificate at its CA"
}

// KeySent says whether a private key was in a mail.
type KeySent string

// The values.
const (
	KeyNone      KeySent = "none"
	KeyClear     KeySent = "clear"     // not encrypted
	KeyEncrypted KeySent = "encrypted" // in a file protected with a passphrase
)

// Sent reports whether a private key was in the mail.
func (k KeySent) Sent() bool { return k == KeyClear || k == KeyEncrypted }

// Brief returns the part of a receipt that is kept when a later one of the same delivery
// replaces it: what went out, when, where and to whom.
func (r *Receipt) Brief() Receipt {
	return Receipt{Relay: r.Relay, ReplyCode: r.ReplyCode, QueueID: r.QueueID, MessageID: r.MessageID, TLS: r.TLS, Definition: r.Definition,
		At: r.At, Payload: r.Payload, Files: r.Files, PrivateKey: r.PrivateKey, Recipients: r.Recipients, Size: r.Size,
		Host: r.Host, State: r.State, Replaced: r.Replaced, RolledBack: r.RolledBack}
}

// Timings says how long the parts of an attempt took.
type Timings struct {
	Secrets time.Duration `json:"secrets_ns"`
	Render  time.Duration `json:"render_ns"`
	Dial    time.Duration `json:"dial_ns"` // TCP, TLS and AUTH; 0 on a reused connection
	Send    time.Duration `json:"send_ns"` // from MAIL to the reply to the final dot
	Total   time.Duration `json:"total_ns"`
}

// Attempt is the broker's order to a courier: one attempt at one delivery.
type Attempt struct {
	Target string // the id of the target
	Lane   string
	Number int // 1 for the first
	// Recipients, when not nil, are the only recipients still owed the mail.
	Recipients []string
	// Accepted already have the mail and do not get it again, even if the target's
	// definition has changed since.
	Accepted []string
	// Override, when not empty, are the recipients that a replay names instead of
	// the target's. A recipient that is neither the target's nor allowed by the
	// configuration fails the delivery.
	Override []string
	// PossibleDuplicate marks a mail whose earlier outcome is unknown: it gets the
	// same Message-ID, and a header that says so.
	PossibleDuplicate bool
	// Parsed, when not nil, is called with the certificate in the event's text when it was parsed,
	// before Claim.
	Parsed func(*Certificate)
	// Claim is called after the relay has accepted the envelope and before any content
	// is sent; when it fails, nothing may be sent. until is the time by which the outcome
	// will be known. It is called again if the relay then refuses and the same attempt
	// goes on with a new connection.
	Claim func(until time.Time) error
	// Newer returns the certificate that supersedes a given one at the target, in a few words; ""
	// if there is none. Once it was called, the given one is recorded as delivered when it is
	// sent. It is called only for targets whose policy depends on it; nil means that nothing is
	// known of others.
	Newer func(ctx context.Context, c *Certificate) (string, error)
	// Hold is that of the last attempt that was held; nil for none.
	Hold *Hold
	// Published is the event's place in the order of publication, in which deployments onto a host are
	// made. Force says that an operator wants this one whatever was delivered before.
	Published Publication
	Force     bool
	// Limits is asked before mail goes to a relay that has limits; nil means that no
	// limit applies.
	Limits Limits
}

// Deployed is a deployment that an operator wants rolled back.
type Deployed struct {
	Target      string
	Event       string // its id
	Fingerprint string // of the certificate, SHA-256 in hexadecimal
	Published   Publication
}

// Route is one result of resolving an event: a delivery to a target, or, with
// Failure set, why that delivery is not possible.
type Route struct {
	Target  string
	Lane    string
	Failure *Failure
}
