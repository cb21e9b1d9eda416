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
	// quitTimeout is how long a relay may take to answer QUIT.
	quitTimeout = 5 * time.Second
	// earlyReplyTimeout is how long earlyReply waits on a connection that broke during
	// a write: the reply is there already, or it does not come.
	earlyReplyTimeout = time.Second
)

// kind is what went wrong in a phase, as far as the verdict depends on it.
type kind int

const (
	replied4      kind = iota // 4yz
	replied421                // 421: the relay is about to close the connection
	replied5                  // 5yz
	repliedSyntax             // 500, 501, 503, 553: syntax or order of the command, or form of an address
	limited                   // the relay's own limit: mails per day, rate
	tooMany                   // RCPT: more recipients than it accepts at once (RFC 5321 section 4.5.3.1.10)
	dropped                   // refused, unreachable, closed, reset
	hung                      // the deadline passed
	garbled                   // not an SMTP reply, an unexpected one, or an endless one
	untrusted                 // TLS was refused, or the relay could not prove its identity
	stopped                   // the caller's context was cancelled
	kindCount
)

var kindNames = [kindCount]string{"4yz", "421", "5yz", "500, 501, 503, 553", "relay's limit", "too many recipients",
	"refused, closed", "time-out", "garbage", "TLS failure", "shutdown"}

// ruling is the verdict on a kind in a phase.
type ruling struct {
	code  verdict.Code
	relay bool // the relay as a whole is at fault: its breaker counts it, the delivery's attempts do not
	limit bool // the relay's breaker opens at once, for limit_pause
	maybe bool // the relay may have accepted the mail
}

var (
	down      = ruling{code: verdict.SMTPConnect, relay: true}
	busy      = ruling{code: verdict.SMTPTransient, relay: true}
	exhausted = ruling{code: verdict.SMTPTransient, relay: true, limit: true}
	later     = ruling{code: verdict.SMTPTransient}
	never     = ruling{code: verdict.SMTPPermanent}
	invalid   = ruling{code: verdict.SMTPValidation}
	distrust  = ruling{code: verdict.SMTPTLS}
	denied    = ruling{code: verdict.SMTPAuth}
	unknown   = ruling{code: verdict.SMTPTransient, maybe: true}
)

// phaseRow is one phase of the conversation with a relay: its time limit and the
// ruling for each kind.
type phaseRow struct {
	phase   verdict.Phase
	dot     bool // the content was sent and the reply to the final dot is awaited
	timeout time.Duration
	rulings [kindCount]ruling // a zero ruling is not expected to happen; if it does, it is retried
}

// phaseTable decides by phase and kind, never by the text of a reply. docs/codes.md
// shows it; TestPhasesOnThePage keeps the two equal.
var phaseTable = []phaseRow{
	{phase: verdict.PhaseConnect, timeout: 30 * time.Second, rulings: [kindCount]ruling{
		dropped: down, hung: down, stopped: later,
	}},
	{phase: verdict.PhaseTLS, timeout: 60 * time.Second, rulings: [kindCount]ruling{
		dropped: down, hung: down, untrusted: distrust, stopped: later,
	}},
	{phase: verdict.PhaseBanner, timeout: 60 * time.Second, rulings: [kindCount]ruling{
		replied4: busy, replied421: busy, replied5: never, repliedSyntax: never, limited: exhausted,
		dropped: down, hung: down, garbled: down, untrusted: distrust, stopped: later,
	}},
	{phase: verdict.PhaseEHLO, timeout: 300 * time.Second, rulings: [kindCount]ruling{
		replied4: busy, replied421: busy, replied5: never, repliedSyntax: never, limited: exhausted,
		dropped: down, hung: down, garbled: down, untrusted: distrust, stopped: later,
	}},
	{phase: verdict.PhaseSTARTTLS, timeout: 60 * time.Second, rulings: [kindCount]ruling{
		replied4: busy, replied421: busy, replied5: distrust, repliedSyntax: distrust, limited: exhausted,
		dropped: down, hung: down, garbled: down, untrusted: distrust, stopped: later,
	}},
	{phase: verdict.PhaseAuth, timeout: 120 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: denied, repliedSyntax: denied, limited: exhausted,
		dropped: later, hung: later, garbled: later, untrusted: denied, stopped: later,
	}},
	{phase: verdict.PhaseMail, timeout: 300 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: never, repliedSyntax: invalid, limited: exhausted,
		dropped: later, hung: later, garbled: later, stopped: later,
	}},
	{phase: verdict.PhaseRcpt, timeout: 300 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: never, repliedSyntax: invalid, limited: exhausted, tooMany: later,
		dropped: later, hung: later, garbled: later, stopped: later,
	}},
	{phase: verdict.PhaseData, timeout: 120 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: never, repliedSyntax: invalid, limited: exhausted,
		dropped: later, hung: later, garbled: later, stopped: later,
	}},
	{phase: verdict.PhaseContent, timeout: 600 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: never, repliedSyntax: invalid, limited: exhausted,
		dropped: later, hung: later, garbled: later, stopped: later,
	}},
	{phase: verdict.PhaseContent, dot: true, timeout: 600 * time.Second, rulings: [kindCount]ruling{
		replied4: later, replied421: later, replied5: never, repliedSyntax: invalid, limited: exhausted,
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

// phaseTimeout is the time limit of a phase; the context's deadline caps it.
func phaseTimeout(phase verdict.Phase) time.Duration { return rowOf(phase, false).timeout }

// fault is an error in the conversation with a relay.
type fault struct {
	phase  verdict.Phase
	dot    bool   // the whole content, including the final dot, had been sent
	alone  bool   // the envelope has a single recipient
	login  string // what the connection lacks for a reply that demands it: wantsLogin, wantsTLS or ""
	relay  string // host:port
	err    error
	ctx    error         // of the caller's context
	waited time.Duration // since the phase began
}

// Errors that the session finds itself, not the connection.
var (
	errNoSTARTTLS = errors.New("STARTTLS is not offered")
	errInjected   = errors.New("plaintext after the reply to STARTTLS")
	errNoReset    = errors.New("RSET was refused")
	errExtraReply = errors.New("a reply that belongs to no command")
	errUnproven   = errors.New("the relay did not prove that it knows the password")
	errIterations = errors.New("SCRAM with too few or too many iterations")
	errSalt       = errors.New("SCRAM with a salt that FIPS 140-3 does not allow")
)

// kind classifies the fault by the type of its error, never by its text.
func (f fault) kind() kind {
	if reply, ok := errors.AsType[*textproto.Error](f.err); ok {
		return replyKind(f.phase, reply, f.alone)
	}
	var network net.Error
	switch {
	case errors.Is(f.err, errNoSTARTTLS), errors.Is(f.err, errInjected), isAlert(f.err),
		errors.Is(f.err, errUnproven), errors.Is(f.err, errIterations), errors.Is(f.err, errSalt):
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

// replyKind classifies a reply. A bare 552 to RCPT is "too many recipients" (RFC 5321
// section 4.5.3.1.10) or "mailbox full" (section 4.2.2); a single recipient is never too
// many.
func replyKind(phase verdict.Phase, reply *textproto.Error, alone bool) kind {
	enhanced := enhancedCode(reply.Code, reply.Msg)
	switch {
	case isLimit(phase, reply):
		return limited
	case reply.Code == 421:
		return replied421
	case reply.Code/100 == 4:
		return replied4
	case reply.Code/100 != 5:
		return garbled
	case phase == verdict.PhaseRcpt && (enhanced == "5.5.3" || reply.Code == 552 && enhanced == "" && !alone):
		return tooMany
	case reply.Code == 500, reply.Code == 501, reply.Code == 503, reply.Code == 553:
		return repliedSyntax
	}
	return replied5
}

// isProtocol reports whether the relay violated the protocol or the limits on replies.
func isProtocol(err error) bool {
	_, malformed := errors.AsType[textproto.ProtocolError](err)
	return malformed || errors.Is(err, errLongLine) || errors.Is(err, errLongReply) || errors.Is(err, errAuthRounds)
}

// isAlert reports whether the relay ended TLS with an alert. In TLS 1.3 an alert may
// come after the handshake, if the relay rejects the client certificate.
func isAlert(err error) bool {
	operation, ok := errors.AsType[*net.OpError](err)
	return ok && operation.Op == "remote error"
}

// isCut reports whether the connection ended, in any way. All other errors of a
// handshake concern its content.
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

// ends reports whether the session cannot continue: only after a plain refusal do both
// sides agree on what comes next.
func (f fault) ends() bool {
	switch f.kind() {
	case replied4, replied5, repliedSyntax, limited, tooMany:
		return replyCode(f.err) == 421
	}
	return !errors.Is(f.err, errNoSTARTTLS)
}

// Failure returns the verdict on the fault.
func (f fault) Failure() *verdict.Failure {
	happened := f.kind()
	ruling := rowOf(f.phase, f.dot).rulings[happened]
	if ruling.code == "" {
		ruling = later
	}
	failure := &verdict.Failure{
		Outcome: verdict.Outcome{Code: ruling.code, Phase: f.phase, Reason: f.reason(happened, ruling), Certainty: verdict.NotSent},
		Relay:   ruling.relay, Limit: ruling.limit, Cause: f.err,
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
