package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/textproto"
	"os"
	"syscall"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

const (
	// quitTimeout is how long a relay may take to say goodbye.
	quitTimeout = 5 * time.Second
	// earlyReplyTimeout is how long we look for a reply on a connection that broke
	// while we wrote; it is there already or it does not come.
	earlyReplyTimeout = time.Second
)

// kind is what happened in a phase, as far as the verdict depends on it.
type kind int

const (
	replied4      kind = iota // 4yz
	replied421                // 421: the relay is about to close the connection
	replied5                  // 5yz
	repliedSyntax             // 500, 501, 503, 553: it did not like how we said it, or an address's form
	tooMany                   // RCPT: more recipients than it takes at once (RFC 5321 section 4.5.3.1.10)
	dropped                   // refused, unreachable, closed, reset
	hung                      // the deadline passed
	garbled                   // no SMTP reply, one that has no place here, or one without end
	untrusted                 // TLS was refused, or the relay could not prove who it is
	stopped                   // our own context was cancelled
	kindCount
)

var kindNames = [kindCount]string{"4yz", "421", "5yz", "500, 501, 503, 553", "too many recipients",
	"refused, closed", "time-out", "garbage", "TLS failure", "shutdown"}

// ruling is what follows from a kind in a phase.
type ruling struct {
	code  verdict.Code
	relay bool // the relay as a whole is at fault: breaker, and no attempt is counted
	maybe bool // the mail may have been taken
}

var (
	down     = ruling{code: verdict.SMTPConnect, relay: true}
	busy     = ruling{code: verdict.SMTPTransient, relay: true}
	later    = ruling{code: verdict.SMTPTransient}
	never    = ruling{code: verdict.SMTPPermanent}
	invalid  = ruling{code: verdict.SMTPValidation}
	distrust = ruling{code: verdict.SMTPTLS}
	denied   = ruling{code: verdict.SMTPAuth}
	unknown  = ruling{code: verdict.SMTPTransient, maybe: true}
)

// phaseRow is one phase of the conversation with a relay: how long it may take
// and what follows from what happens in it.
type phaseRow struct {
	phase   verdict.Phase
	dot     bool // once the content is out and the reply to the final dot is awaited
	timeout time.Duration
	rulings [kindCount]ruling // the zero one does not happen; if it does it is retried
}

// phaseTable decides everything: phase and kind, never the text of a reply.
// docs/codes.md shows it to people, and a test keeps the two equal.
var phaseTable = []phaseRow{
	{phase: verdict.PhaseConnect, timeout: 30 * time.Second, rulings: [kindCount]ruling{
		dropped: down, hung: down, stopped: later,
	}},
	{phase: verdict.PhaseTLS, timeout: 60 * time.Second, rulings: [kindCount]ruling{
		dropped: down, hung: down, untrusted: distrust, stopped: later,
	}},
	{phase: verdict.PhaseBanner, timeout: 60 * time.Second, rulings: [kindCount]ruling{
		replied4: busy, replied421: busy, replied5: never, repliedSyntax: never,
		dropped: down, hung: down, garbled: down, untrusted: distrust, stopped: later,
	}},
	{phase: verdict.PhaseEHLO, timeout: 300 * time.Second, rulings: [kindCount]ruling{
		replied4: busy, replied421: busy, replied5: never, repliedSyntax: never,
		dropped: down, hung: down, garbled: down, untrusted: distrust, stopped: later,
	}},
	{phase: verdict.PhaseSTARTTLS, timeout: 60 * time.Second, rulings: [kindCount]ruling{
		replied4: busy, replied421: busy, replied5: distrust, repliedSyntax: distrust,
		dropped: down, hung: down, garbled: down, untrusted: distrust, stopped: later,
	}},
	{phase: verdict.PhaseAuth, timeout: 120 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: denied, repliedSyntax: denied,
		dropped: later, hung: later, garbled: later, untrusted: denied, stopped: later,
	}},
	{phase: verdict.PhaseMail, timeout: 300 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: never, repliedSyntax: invalid,
		dropped: later, hung: later, garbled: later, stopped: later,
	}},
	{phase: verdict.PhaseRcpt, timeout: 300 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: never, repliedSyntax: invalid, tooMany: later,
		dropped: later, hung: later, garbled: later, stopped: later,
	}},
	{phase: verdict.PhaseData, timeout: 120 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: never, repliedSyntax: invalid,
		dropped: later, hung: later, garbled: later, stopped: later,
	}},
	{phase: verdict.PhaseContent, timeout: 600 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: never, repliedSyntax: invalid,
		dropped: later, hung: later, garbled: later, stopped: later,
	}},
	{phase: verdict.PhaseContent, dot: true, timeout: 600 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: never, repliedSyntax: invalid,
		dropped: unknown, hung: unknown, garbled: unknown, untrusted: unknown, stopped: unknown,
	}},
}

func rowOf(phase verdict.Phase, dot bool) phaseRow {
	for _, row := range phaseTable {
		if row.phase == phase && row.dot == dot {
			return row
		}
	}
	return phaseRow{phase: phase, timeout: time.Minute}
}

// phaseTimeout is how long a phase may take; the context's deadline caps it.
func phaseTimeout(phase verdict.Phase) time.Duration { return rowOf(phase, false).timeout }

// fault is something that went wrong while talking to a relay.
type fault struct {
	phase  verdict.Phase
	dot    bool // the whole content, final dot included, had gone out
	relay  string
	err    error
	ctx    error // of the caller's context
	waited time.Duration
}

// Faults that are found here and not by the connection.
var (
	errNoSTARTTLS = errors.New("STARTTLS is not offered")
	errInjected   = errors.New("plaintext after the reply to STARTTLS")
	errNoReset    = errors.New("RSET was refused")
	errExtraReply = errors.New("a reply that belongs to no command")
	errUnproven   = errors.New("the relay did not prove that it knows the password")
	errIterations = errors.New("SCRAM with too few or too many iterations")
)

// kind sorts the fault by the types of its error, never by a text.
func (f fault) kind() kind {
	if reply, ok := errors.AsType[*textproto.Error](f.err); ok {
		return replyKind(f.phase, reply)
	}
	var network net.Error
	switch {
	case errors.Is(f.err, errNoSTARTTLS), errors.Is(f.err, errInjected), isAlert(f.err),
		errors.Is(f.err, errUnproven), errors.Is(f.err, errIterations):
		return untrusted
	case errors.Is(f.ctx, context.Canceled):
		return stopped
	case errors.Is(f.err, os.ErrDeadlineExceeded), f.ctx != nil, errors.As(f.err, &network) && network.Timeout():
		return hung
	case isProtocol(f.err), errors.Is(f.err, errNoReset), errors.Is(f.err, errExtraReply):
		return garbled
	case f.phase == verdict.PhaseTLS && !isCut(f.err):
		return untrusted
	}
	return dropped
}

func replyKind(phase verdict.Phase, reply *textproto.Error) kind {
	enhanced := enhancedCode(reply.Code, reply.Msg)
	switch {
	case reply.Code == 421:
		return replied421
	case reply.Code/100 == 4:
		return replied4
	case reply.Code/100 != 5:
		return garbled
	case phase == verdict.PhaseRcpt && (enhanced == "5.5.3" || reply.Code == 552 && enhanced == ""):
		return tooMany
	case reply.Code == 500, reply.Code == 501, reply.Code == 503, reply.Code == 553:
		return repliedSyntax
	}
	return replied5
}

// isProtocol reports whether the relay did not speak SMTP, or did not stop.
func isProtocol(err error) bool {
	_, malformed := errors.AsType[textproto.ProtocolError](err)
	return malformed || errors.Is(err, errLongLine) || errors.Is(err, errLongReply) || errors.Is(err, errAuthRounds)
}

// isAlert reports whether the relay ended TLS with an alert. In TLS 1.3 one may
// come after the handshake, when the relay did not like our certificate.
func isAlert(err error) bool {
	operation, ok := errors.AsType[*net.OpError](err)
	return ok && operation.Op == "remote error"
}

// isCut reports whether the connection ended, in whatever way. All other errors
// of a handshake are about what was said in it.
func isCut(err error) bool {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return false
	}
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, io.ErrClosedPipe,
		syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	var system syscall.Errno
	return errors.As(err, &system)
}

// ends reports whether the conversation is over: only after a plain refusal
// does the relay know what comes next, and so do we.
func (f fault) ends() bool {
	switch f.kind() {
	case replied4, replied5, repliedSyntax, tooMany:
		return false
	}
	return !errors.Is(f.err, errNoSTARTTLS)
}

// Failure gives the verdict on the fault.
func (f fault) Failure() *verdict.Failure {
	happened := f.kind()
	ruling := rowOf(f.phase, f.dot).rulings[happened]
	if ruling.code == "" {
		ruling = later
	}
	failure := &verdict.Failure{
		Outcome: verdict.Outcome{Code: ruling.code, Phase: f.phase, Reason: f.reason(happened, ruling), Certainty: verdict.NotSent},
		Relay:   ruling.relay, Cause: f.err,
	}
	if ruling.maybe {
		failure.Certainty = verdict.MaybeSent
	}
	if happened == stopped {
		failure.Cause = errors.Join(f.ctx, f.err)
	}
	if reply, ok := errors.AsType[*textproto.Error](f.err); ok {
		failure.ReplyCode = reply.Code
		failure.EnhancedCode = enhancedCode(reply.Code, reply.Msg)
		failure.Reply = legible.Clean(reply.Msg, maxReplyText)
	}
	return failure
}
