package smtp

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/textproto"
	"slices"
	"strings"

	"github.com/wneessen/go-mail/smtp"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// maxAuthRounds limits the challenges of one AUTH; SCRAM, the longest supported
// method, takes three.
const maxAuthRounds = 8

// maxCommandLine is the longest command line in octets, CRLF included (RFC 5321 section
// 4.5.3.1.4), which holds for AUTH too (RFC 4954 section 4). Tokens are often longer.
const maxCommandLine = 512

var errAuthRounds = errors.New("unexpected AUTH challenge")

// authenticate runs AUTH, unless the target's auth_method is none.
func (s *Session) authenticate(ctx context.Context) *verdict.Failure {
	method := strings.ToUpper(s.relay.AuthMethod)
	if method == "" || method == "NONE" {
		return nil
	}
	if failure := s.mayAuthenticate(method); failure != nil {
		return failure
	}
	password := s.relay.Password.Reveal()
	defer clear(password)
	mechanism, reason := s.mechanism(method, string(password))
	if reason != "" {
		return s.authFailure(reason)
	}
	spoken := []string{string(password)}
	s.transcript.inAuth = true
	failure := s.step(ctx, verdict.PhaseAuth, func() error { return s.exchange(mechanism, &spoken) })
	s.transcript.inAuth = false
	if failure != nil && echoes(failure.Cause, spoken) {
		failure.Reply = "(left out: the relay repeated the credentials)"
		failure.Cause = nil
	}
	return failure
}

// mayAuthenticate refuses to send the password unencrypted, to a relay whose identity is
// not verified, or by a method that the relay does not offer.
func (s *Session) mayAuthenticate(method string) *verdict.Failure {
	switch {
	case s.relay.AllowInsecureAuth, !TellsPassword(method):
	case s.tls == nil:
		return s.authFailure("the connection to " + s.address + " is not encrypted, so the password was not sent; set tls_mode to starttls or smtps, or allow_insecure_auth: true, then replay")
	case s.relay.unverified():
		return s.authFailure("tls_skip_verify is set, so the identity of " + s.address + " is not verified and the password was not sent; set ca_file or tls_fingerprint instead, or allow_insecure_auth: true, then replay")
	}
	offered := s.offers.mechanisms()
	if slices.Contains(offered, method) {
		return nil
	}
	if len(offered) == 0 {
		hint := "set auth_method: none, or use the port on which the relay offers AUTH, then replay"
		if s.tls == nil {
			hint = "many relays offer AUTH only over TLS: set tls_mode to starttls or smtps, then replay"
		}
		return s.authFailure(s.address + " does not offer AUTH on this connection; " + hint)
	}
	return s.authFailure(fmt.Sprintf("%s does not offer AUTH %s, only %s; set auth_method to one of these, then replay",
		s.address, method, legible.Clean(strings.Join(offered, ", "), 200)))
}

func (s *Session) authFailure(reason string) *verdict.Failure {
	return verdict.Fail(verdict.SMTPAuth, verdict.PhaseAuth, reason)
}

// exchange runs AUTH with a mechanism (RFC 4954 section 4): an initial response that makes
// the command too long is sent after the relay's first, empty challenge instead. exchange
// appends every response, in base64 as sent, to spoken.
func (s *Session) exchange(mechanism smtp.Auth, spoken *[]string) error {
	name, response, err := mechanism.Start(&smtp.ServerInfo{
		Name: s.relay.Host,
		TLS:  s.tls != nil,
		Auth: s.offers.mechanisms(),
	})
	if err != nil {
		return errAuthRounds
	}
	line, held := "AUTH "+name, ""
	if len(response) > 0 {
		said := base64.StdEncoding.EncodeToString(response)
		*spoken = append(*spoken, said)
		if whole := line + " " + said; len(whole+"\r\n") <= maxCommandLine {
			line = whole
		} else {
			held = said
		}
	}
	for range maxAuthRounds {
		code, text, err := s.command(0, line)
		switch {
		case err != nil:
			return err
		case code == 235:
			_, err := mechanism.Next(nil, false)
			return err
		case code != 334:
			return &textproto.Error{Code: code, Msg: text}
		}
		if held != "" {
			line, held = held, ""
			continue
		}
		challenge, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			challenge = nil // LOGIN ignores the challenge, and the others refuse an empty one
		}
		response, err := mechanism.Next(challenge, true)
		if errors.Is(err, errUnproven) || errors.Is(err, errIterations) || errors.Is(err, errSalt) {
			return err
		} else if err != nil {
			return errAuthRounds
		}
		line = base64.StdEncoding.EncodeToString(response)
		*spoken = append(*spoken, line)
	}
	return errAuthRounds
}

// echoes reports whether a reply contains a part of spoken: some relays quote the
// command that they refuse.
func echoes(err error, spoken []string) bool {
	refused, ok := errors.AsType[*textproto.Error](err)
	if !ok {
		return false
	}
	// Eight characters are too few to be of use and too many to match by chance.
	const piece = 8
	pieces := make(map[string]bool)
	for _, said := range spoken {
		if len(said) < piece && said != "" && strings.Contains(refused.Msg, said) {
			return true
		}
		for i := 0; i+piece <= len(said); i++ {
			pieces[said[i:i+piece]] = true
		}
	}
	for i := 0; i+piece <= len(refused.Msg); i++ {
		if pieces[refused.Msg[i:i+piece]] {
			return true
		}
	}
	return false
}
