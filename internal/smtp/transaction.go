package smtp

import (
	"bytes"
	"context"
	"fmt"
	"net/textproto"
	"slices"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// reset is the command that aborts a transaction.
const reset = "RSET"

// Envelope is the SMTP envelope of a mail: addresses without angle brackets,
// domains as A-labels, no duplicates.
type Envelope struct {
	From         string // "" is the null sender
	Recipients   []string
	ID           string // names the delivery in bounces (ENVID): at most 100 bytes; "" is none
	UTF8         bool   // an address needs SMTPUTF8 (RFC 6531)
	AllOrNothing bool   // if one recipient is refused, no recipient gets the mail
}

// Result is the outcome of one transaction. The relay accepted the mail for
// receipt.Recipients, refused some recipients, or the transaction failed as a whole.
type Result struct {
	tried      []string            // the recipients of the envelope
	receipt    *verdict.Receipt    // nil if the relay did not accept the mail
	refused    []rejection         // recipients refused one by one at RCPT
	Failure    *verdict.Failure    // why the transaction failed as a whole, else nil
	transcript *verdict.Transcript // set if there is a Failure or a refused recipient
	Redial     bool                // the reused connection is at fault, not the mail, and nothing was sent: retry once on a new one
}

// speaksOfSession reports whether a reply to this mail concerns the connection.
func (r Result) speaksOfSession() bool {
	if r.Failure != nil && speaksOfSession(r.Failure.Cause) {
		return true
	}
	return slices.ContainsFunc(r.refused, func(no rejection) bool { return speaksOfSession(no.failure.Cause) })
}

// Limit returns the failure that says that the relay is at a limit of its own; nil if there
// is none. The mail may have been accepted for other recipients.
func (r Result) Limit() *verdict.Failure {
	if r.Failure != nil && r.Failure.Limit {
		return r.Failure
	}
	for _, no := range r.refused {
		if no.failure.Limit {
			return no.failure
		}
	}
	return nil
}

// rejection is one recipient that the relay refused.
type rejection struct {
	recipient string
	failure   *verdict.Failure
}

// Verdicts returns what the lane acts on: the receipt if the relay accepted the mail for
// at least one recipient, the failure if at least one recipient does not have it.
func (r Result) Verdicts() (*verdict.Receipt, *verdict.Failure) {
	if r.Failure == nil {
		f := sumUp(r.refused)
		if f != nil {
			f.Transcript = r.transcript
		}
		return r.receipt, f
	}
	if len(r.refused) == 0 {
		return nil, r.Failure
	}
	f := *r.Failure
	f.Recipients, f.Refused = r.tried, refusals(r.refused)
	return nil, &f
}

// Send sends one mail. raw has CRLF line ends and is not dot-stuffed. claim is
// called at most once, after the relay has accepted at least one recipient and before
// DATA, with the time by which the outcome will be known; if it fails, nothing is
// sent.
func (s *Session) Send(ctx context.Context, env Envelope, raw []byte, claim func(until time.Time) error) (got Result) {
	started := time.Now()
	got = Result{tried: env.Recipients}
	if got.Failure = s.Admit(env, raw); got.Failure != nil {
		return got
	}
	fresh := s.mails == 0
	s.mails, s.answered, s.alone = s.mails+1, false, len(env.Recipients) == 1
	if !fresh {
		s.transcript = transcript{kept: true}
	}
	defer func() {
		if got.speaksOfSession() {
			s.spent = true
			got.Redial = got.Redial || !fresh && got.receipt == nil
		}
		if got.Failure != nil || len(got.refused) > 0 {
			got.transcript = s.snapshot()
		}
		if got.Failure != nil {
			got.Failure.Transcript = got.transcript
		}
	}()
	defer s.closeOnDone(ctx)()

	taken, refused, failure := s.sendEnvelope(ctx, env, len(raw))
	if len(taken) == 0 && s.refusesDSN(failure, refused) {
		delete(s.offers, "DSN")
		taken, refused, failure = s.sendEnvelope(ctx, env, len(raw))
	}
	got.refused, got.Failure = refused, failure
	if failure != nil {
		got.Redial = !fresh && !s.answered && connectionEnded(ctx, failure)
		return got
	}
	switch {
	case env.AllOrNothing && len(got.refused) > 0:
		got.Failure, got.refused = allOrNothing(got.refused, len(env.Recipients)), nil
		return got
	case len(taken) == 0:
		got.Failure = got.Limit() // which concerns the mail as a whole
		return got
	}

	until := time.Now().Add(phaseTimeout(verdict.PhaseData) + phaseTimeout(verdict.PhaseContent))
	if limit, ok := ctx.Deadline(); ok && limit.Before(until) {
		until = limit
	}
	asked := time.Now()
	err := claim(until)
	s.transcript.recordPhase(verdict.PhaseClaim, asked)
	if err != nil {
		got.Failure = claimFailure(err)
		return got
	}
	reply, failure := s.data(ctx, until, raw)
	if failure != nil {
		got.Failure = failure
		return got
	}

	got.receipt = &verdict.Receipt{
		Relay:      s.address,
		ReplyCode:  reply.Code,
		Reply:      legible.Clean(reply.Msg, maxReplyText),
		QueueID:    queueID(reply.Msg),
		TLS:        s.tlsVersion(),
		Peer:       s.tcp.RemoteAddr().String(),
		Recipients: taken,
		Size:       len(raw),
		DSN:        s.OffersDSN(),
		Timings:    verdict.Timings{Send: time.Since(started)},
		Phases:     slices.Clone(s.transcript.steps),
	}
	if fresh {
		got.receipt.Timings.Dial = s.dialled
	}
	return got
}

// TryEnvelope asks whether the relay accepts sender and recipients of a mail of a size in bytes:
// MAIL, a RCPT for each recipient, then RSET. It sends no content, and there is no DATA after it.
// The failure concerns the mail as a whole. The session must not send a mail afterwards.
func (s *Session) TryEnvelope(ctx context.Context, env Envelope, size int) (taken []string, refused []verdict.Refusal, failure *verdict.Failure) {
	defer s.closeOnDone(ctx)()
	s.alone, s.spent = len(env.Recipients) == 1, true
	taken, rejected, failure := s.sendEnvelope(ctx, env, size)
	for _, no := range rejected {
		refused = append(refused, verdict.RefusalOf(no.recipient, no.failure.Outcome))
	}
	if s.inTransaction && !s.dead {
		// Whatever the relay says to RSET, there is no DATA.
		_ = s.step(ctx, verdict.PhaseMail, func() error { _, _, err := s.command(250, reset); return err })
		s.inTransaction = false
	}
	return taken, refused, failure
}

// Admit refuses, before any command is sent, a mail that this relay cannot accept.
func (s *Session) Admit(env Envelope, raw []byte) *verdict.Failure {
	refuse := func(code verdict.Code, reason string) *verdict.Failure {
		return verdict.Fail(code, verdict.PhaseMail, reason)
	}
	if len(env.Recipients) == 0 {
		return refuse(verdict.SMTPValidation, "the mail has no recipients; add at least one address to the target, then replay")
	}
	for _, address := range append([]string{env.From}, env.Recipients...) {
		if !safeInCommand(address, env.UTF8) {
			return refuse(verdict.SMTPValidation, "an envelope address contains characters that are not allowed in an SMTP command; fix from_address, to, cc or bcc, then replay")
		}
	}
	if env.UTF8 {
		if !s.offers.has("SMTPUTF8") {
			return refuse(verdict.SMTPValidation, s.address+" does not offer SMTPUTF8, which an address with non-ASCII letters before the @ needs; use another address or another relay, then replay")
		}
	}
	if !endsLinesWithCRLF(raw) {
		return refuse(verdict.SMTPPayload, "the rendered mail has a line that does not end in CRLF, which some relays would read as the end of the mail; this is a bug in Certpost, please report it")
	}
	if limit := s.offers.SizeLimit(); limit > 0 && len(raw) > limit {
		return refuse(verdict.SMTPPermanent, fmt.Sprintf("the mail has %d bytes, but %s accepts at most %d (SIZE); raise the relay's limit or choose a smaller payload, then replay", len(raw), s.address, limit))
	}
	return nil
}

// endsLinesWithCRLF reports whether each CR of a mail stands before an LF, and each LF after a CR.
func endsLinesWithCRLF(raw []byte) bool {
	lines := 0
	for rest := raw; ; lines++ {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			return bytes.Count(raw, []byte("\r")) == lines
		}
		if end == 0 || rest[end-1] != '\r' {
			return false
		}
		rest = rest[end+1:]
	}
}

// envelopeCommand is one command of the envelope.
type envelopeCommand struct {
	phase     verdict.Phase
	line      string
	expect    int    // the code of a positive reply, or a prefix of it
	recipient string // of RCPT
}

func (s *Session) envelopeCommands(env Envelope, size int) []envelopeCommand {
	var all []envelopeCommand
	if s.inTransaction {
		all = append(all, envelopeCommand{phase: verdict.PhaseMail, line: reset, expect: 250})
	}
	mail := "MAIL FROM:<" + env.From + ">"
	if s.offers.has("SIZE") {
		mail += " SIZE=" + strconv.Itoa(size)
	}
	if s.offers.has("8BITMIME") {
		mail += " BODY=8BITMIME"
	}
	if env.UTF8 {
		mail += " SMTPUTF8"
	}
	mail += s.dsnOfMail(env)
	all = append(all, envelopeCommand{phase: verdict.PhaseMail, line: mail, expect: 250})
	for _, recipient := range env.Recipients {
		all = append(all, envelopeCommand{verdict.PhaseRcpt, "RCPT TO:<" + recipient + ">" + s.dsnOfRcpt(env), 25, recipient})
	}
	return all
}

// maxPipelined limits the commands that are sent before their replies are read: RSET, MAIL
// and 50 recipients. They and their replies are short enough to fit into the buffers of
// both sides, so that neither side has to read before the other has finished writing.
const maxPipelined = 52

// sendEnvelope sends MAIL and one RCPT for each recipient: maxPipelined in one packet if the
// relay offers PIPELINING (RFC 2920), else command by command. Each reply is matched to its
// command. A failure concerns the mail as a whole: then taken is nil, but refused still
// has the recipients refused so far.
func (s *Session) sendEnvelope(ctx context.Context, env Envelope, size int) (taken []string, refused []rejection, failure *verdict.Failure) {
	all := s.envelopeCommands(env, size)
	atOnce := s.offers.has("PIPELINING")
	for i, q := range all {
		if atOnce && i%maxPipelined == 0 {
			if failure != nil {
				break
			}
			next := all[i:min(i+maxPipelined, len(all))]
			if failure = s.step(ctx, q.phase, func() error { return s.sendLines(linesOf(next)...) }); failure != nil {
				break
			}
		}
		no := s.step(ctx, q.phase, func() error {
			if !atOnce {
				if err := s.sendLines(q.line); err != nil {
					return err
				}
			}
			_, _, err := s.readReply(q.expect)
			if code := replyCode(err); q.line == reset && code != 0 && code != 421 {
				return errNoReset // a refused RSET says nothing about this mail
			}
			return err
		})
		s.answered = s.answered || !s.dead && q.line != reset
		switch {
		case failure != nil: // replies after a refused MAIL are read but mean nothing
		case no == nil && q.phase == verdict.PhaseRcpt:
			taken = append(taken, q.recipient)
		case no == nil:
			s.inTransaction = q.line != reset
		case q.phase == verdict.PhaseRcpt && !s.dead:
			refused = append(refused, rejection{q.recipient, no})
		default:
			failure = no
		}
		if s.dead || failure != nil && !atOnce {
			break
		}
	}
	if failure != nil {
		return nil, refused, failure
	}
	return taken, refused, nil
}

func linesOf(all []envelopeCommand) []string {
	lines := make([]string, len(all))
	for i, q := range all {
		lines[i] = q.line
	}
	return lines
}

// connectionEnded reports whether f, a failure before the first reply to a mail, means
// only that the connection is closed or about to close (421).
func connectionEnded(ctx context.Context, f *verdict.Failure) bool {
	return ctx.Err() == nil && (f.ReplyCode == 421 || f.ReplyCode == 0 && (isCut(f.Cause) || isAlert(f.Cause)))
}

// data sends the content and returns the reply to the final dot, if it is there by until.
func (s *Session) data(ctx context.Context, until time.Time, raw []byte) (reply textproto.Error, failure *verdict.Failure) {
	failure = s.stepBy(ctx, until, verdict.PhaseData, func() error {
		_, _, err := s.command(354, "DATA")
		return err
	})
	if failure != nil {
		return reply, failure
	}
	s.inTransaction = false // any reply to the final dot ends the transaction

	failure = s.stepBy(ctx, until, verdict.PhaseContent, func() (err error) {
		if err := s.content(raw); err != nil {
			return err
		}
		s.contentSent = true
		reply.Code, reply.Msg, err = s.readReply(2) // any 2yz reply accepts the mail, also 251
		return err
	})
	s.contentSent = false
	return reply, failure
}
