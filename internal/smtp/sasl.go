package smtp

import (
	"bytes"
	"crypto/tls"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/text/secure/precis"

	"github.com/certpost/certpost/internal/legible"
	"github.com/wneessen/go-mail/smtp"
)

// TellsPassword reports whether an auth_method gives the relay the password, or a
// token, itself.
func TellsPassword(method string) bool {
	switch strings.ToLower(method) {
	case AuthCRAMMD5, AuthSCRAMSHA256:
		return false
	}
	return true
}

// mechanism is the client's side of an AUTH method (in upper case). What is wrong
// with the method or the credentials is a reason for people.
func (s *Session) mechanism(method, password string) (mechanism smtp.Auth, reason string) {
	user := s.relay.Username
	switch method {
	case "PLAIN":
		return smtp.PlainAuth("", user, password, s.relay.Host, true), ""
	case "LOGIN":
		return smtp.LoginAuth(user, password, s.relay.Host, true), ""
	case "CRAM-MD5":
		return smtp.CRAMMD5Auth(user, password), ""
	case "XOAUTH2":
		return smtp.XOAuth2Auth(user, password), ""
	case "SCRAM-SHA-256":
		for _, text := range []string{user, password} {
			if _, err := precis.OpaqueString.String(text); err != nil {
				return nil, "username or password is empty or has characters that SCRAM does not allow; use another password, or auth_method: plain, then replay"
			}
		}
		if s.bindable() && slices.Contains(s.offers.mechanisms(), "SCRAM-SHA-256-PLUS") {
			return &scram{Auth: smtp.ScramSHA256PlusAuth(user, password, s.tls)}, ""
		}
		return &scram{Auth: smtp.ScramSHA256Auth(user, password)}, ""
	}
	return nil, "unknown auth_method " + strconv.Quote(legible.Clean(s.relay.AuthMethod, 40)) + "; use none, plain, login, cram-md5, scram-sha-256 or xoauth2, then replay"
}

// bindable reports whether the TLS connection has something that AUTH can be bound
// to (RFC 9266, RFC 5929).
func (s *Session) bindable() bool {
	return s.tls != nil && (s.tls.Version == tls.VersionTLS13 || len(s.tls.TLSUnique) > 0)
}

// RFC 7677 section 4 wants 4,096 iterations at least. The relay chooses, we
// compute: a million takes half a second.
const (
	minIterations = 4096
	maxIterations = 1_000_000
)

// scram holds SCRAM to its order (RFC 5802 section 5): one message of each kind, and
// a proof that the relay, too, knows the password, before its 235 counts. go-mail
// answers whatever comes, so that a relay could leave the proof out.
type scram struct {
	smtp.Auth
	step int // messages of the relay that were answered
}

// Next answers a challenge; more is false when the relay has said 235.
func (a *scram) Next(challenge []byte, more bool) ([]byte, error) {
	a.step++
	begins := []string{"", "r=", "v="}
	switch {
	case !more && a.step == len(begins)+1:
		return nil, nil
	case !more:
		return nil, errUnproven
	case a.step > len(begins), !bytes.HasPrefix(challenge, []byte(begins[a.step-1])), a.step == 1 && len(challenge) > 0:
		return nil, errAuthRounds
	case a.step == 2 && !iterationsInRange(challenge):
		return nil, errIterations
	}
	response, err := a.Auth.Next(challenge, true)
	switch {
	case err == nil:
		return response, nil
	case a.step == len(begins):
		return nil, errUnproven
	}
	return nil, errAuthRounds // go-mail's text may quote the challenge
}

// iterationsInRange reads the number of iterations in the relay's first message; one
// without is left to the mechanism.
func iterationsInRange(challenge []byte) bool {
	for attribute := range bytes.SplitSeq(challenge, []byte(",")) {
		if text, found := bytes.CutPrefix(attribute, []byte("i=")); found {
			n, err := strconv.Atoi(string(text))
			return err == nil && n >= minIterations && n <= maxIterations
		}
	}
	return true
}
