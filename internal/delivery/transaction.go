package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"time"

	"github.com/wneessen/go-mail/smtp"

	"github.com/certpost/certpost/internal/verdict"
)

// envelope is what the relay is told about a mail: addresses without angle
// brackets, domains as A-labels, no duplicates.
type envelope struct {
	from       string // "" is the null sender
	recipients []string
	utf8       bool // an address needs SMTPUTF8 (RFC 6531)
	together   bool // nobody gets it unless all do
}

// result is what one transaction came to. The relay took the mail for
// receipt.Recipients, refused some recipients, or ended the transaction as a whole.
type result struct {
	tried   []string         // the recipients of the envelope
	receipt *verdict.Receipt // nil when the relay did not take the mail
	refused []rejection      // recipients refused one by one at RCPT
	failure *verdict.Failure // why the relay did not take the mail; nil when it did
}

// rejection is one recipient that the relay did not take.
type rejection struct {
	recipient string
	failure   *verdict.Failure
}

// verdicts sums the result up in what the broker acts on: the receipt when the
// relay took the mail for anybody, the failure when somebody is still owed it.
func (r result) verdicts() (*verdict.Receipt, *verdict.Failure) {
	if r.failure == nil {
		return r.receipt, sumUp(r.refused)
	}
	if len(r.refused) == 0 {
		return nil, r.failure
	}
	f := *r.failure
	f.Recipients, f.Refused = r.tried, refusals(r.refused)
	return nil, &f
}

// send carries one mail. raw has CRLF line ends and is not dot-stuffed. claim
// is called once, after the relay has taken the envelope for at least one
// recipient and before any content goes out, with the moment by which the
// outcome will be known; when it fails nothing is sent.
func (s *session) send(ctx context.Context, env envelope, raw []byte, claim func(until time.Time) error) result {
	started := time.Now()
	got := result{tried: env.recipients}
	if got.failure = s.admit(env, raw); got.failure != nil {
		return got
	}
	defer func() { s.used = time.Now() }()
	defer s.watch(ctx)()

	if got.failure = s.mail(ctx, env, len(raw)); got.failure != nil {
		return got
	}
	var taken []string
	if taken, got.refused, got.failure = s.rcpt(ctx, env); got.failure != nil {
		return got
	}
	switch {
	case env.together && len(got.refused) > 0:
		got.failure, got.refused = together(got.refused, len(env.recipients)), nil
		return got
	case len(taken) == 0:
		return got
	}

	until := time.Now().Add(phaseTimeout(verdict.PhaseData) + phaseTimeout(verdict.PhaseContent))
	if limit, ok := ctx.Deadline(); ok && limit.Before(until) {
		until = limit
	}
	if err := claim(until); err != nil {
		got.failure = claimFailure(err)
		return got
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	reply, failure := s.data(ctx, raw)
	if failure != nil {
		got.failure = failure
		return got
	}

	got.receipt = &verdict.Receipt{
		Relay:      s.address,
		ReplyCode:  reply.Code,
		Reply:      clean(reply.Msg, maxReplyText),
		QueueID:    queueID(reply.Msg),
		TLS:        s.tlsVersion(),
		Recipients: taken,
		Size:       len(raw),
		Timings:    verdict.Timings{Send: time.Since(started)},
	}
	if s.sent == 0 {
		got.receipt.Timings.Dial = s.dialled
	}
	s.sent++
	return got
}

// admit finds what the relay cannot take before anything is said to it.
func (s *session) admit(env envelope, raw []byte) *verdict.Failure {
	refuse := func(code verdict.Code, reason string) *verdict.Failure {
		return &verdict.Failure{Code: code, Phase: verdict.PhaseMail, Reason: reason, Certainty: verdict.NotSent}
	}
	if len(env.recipients) == 0 {
		return refuse(verdict.SMTPValidation, "the mail has no recipients; give the target at least one address")
	}
	for _, address := range append([]string{env.from}, env.recipients...) {
		if !speakable(address, env.utf8) {
			return refuse(verdict.SMTPValidation, "an address of the envelope holds characters that must not stand in an SMTP command; correct from_address, to, cc or bcc")
		}
	}
	if env.utf8 {
		if offered, _ := s.client.Extension("SMTPUTF8"); !offered {
			return refuse(verdict.SMTPValidation, s.address+" does not offer SMTPUTF8, which an address with non-ASCII letters before the @ needs; use another address or another relay")
		}
	}
	lines := bytes.Count(raw, []byte("\n"))
	if bytes.Count(raw, []byte("\r\n")) != lines || bytes.Count(raw, []byte("\r")) != lines {
		return refuse(verdict.SMTPPayload, "the rendered mail has a line that does not end in CRLF, which some relays would read as the end of the mail; please report this")
	}
	if limit := sizeLimit(s.client); limit > 0 && len(raw) > limit {
		return refuse(verdict.SMTPPermanent, fmt.Sprintf("the mail has %d bytes and %s takes at most %d (SIZE); raise the relay's limit or choose a smaller payload", len(raw), s.address, limit))
	}
	return nil
}

func (s *session) mail(ctx context.Context, env envelope, size int) *verdict.Failure {
	path := "<" + env.from + ">"
	if offered, _ := s.client.Extension("SIZE"); offered {
		path += " SIZE=" + strconv.Itoa(size)
	}
	s.client.SkipSMTPUTF8(!env.utf8)
	return s.step(ctx, verdict.PhaseMail, func() error {
		if s.open {
			if err := s.client.Reset(); replyCode(err) != 0 {
				return errNoReset // says nothing about this mail
			} else if err != nil {
				return err
			}
		}
		err := s.client.Mail(path)
		s.open = err == nil
		return err
	})
}

// rcpt asks for every recipient. The failure is one of the connection: then
// nobody was taken, but who was refused before is.
func (s *session) rcpt(ctx context.Context, env envelope) (taken []string, refused []rejection, failure *verdict.Failure) {
	for _, recipient := range env.recipients {
		failure := s.step(ctx, verdict.PhaseRcpt, func() error { return s.client.Rcpt("<" + recipient + ">") })
		switch {
		case failure == nil:
			taken = append(taken, recipient)
		case s.dead:
			return nil, refused, failure
		default:
			refused = append(refused, rejection{recipient, failure})
		}
	}
	return taken, refused, nil
}

// data sends the content and returns the reply to the final dot.
func (s *session) data(ctx context.Context, raw []byte) (textproto.Error, *verdict.Failure) {
	var w io.WriteCloser
	failure := s.step(ctx, verdict.PhaseData, func() (err error) {
		w, err = s.client.Data()
		return err
	})
	if failure != nil {
		return textproto.Error{}, failure
	}
	s.open = false // the reply to the final dot, whatever it is, ends the transaction

	reply := textproto.Error{Code: 250}
	failure = s.step(ctx, verdict.PhaseContent, func() error {
		if _, err := w.Write(raw); err != nil {
			return s.lastWord(err)
		}
		s.ended = true
		err := w.Close()
		if refused, ok := errors.AsType[*textproto.Error](err); ok && refused.Code/100 == 2 {
			reply = *refused // a relay that answers 251 or 252 has taken the mail all the same
			return nil
		}
		return err
	})
	if closer, ok := w.(*smtp.DataCloser); ok && reply.Msg == "" {
		reply.Msg = closer.ServerResponse()
	}
	s.ended = false
	return reply, failure
}

// lastWord is what the relay said before it hung up amid the content, as one
// does that finds the mail too large or has run out of space; else it is err.
func (s *session) lastWord(err error) error {
	_ = s.tcp.SetReadDeadline(time.Now().Add(lastWordTimeout))
	code, text, readErr := s.client.Text.ReadResponse(0)
	if readErr != nil || code < 400 {
		return err
	}
	return &textproto.Error{Code: code, Msg: text}
}
