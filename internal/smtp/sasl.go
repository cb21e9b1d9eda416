package smtp

import (
	"bytes"
	"crypto/fips140"
	"crypto/tls"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/text/secure/precis"

	"github.com/certpost/certpost/internal/legible"
	"github.com/wneessen/go-mail/smtp"
)

// TellsPassword reports whether an auth_method sends the password or token itself to
// the relay.
func TellsPassword(method string) bool {
	switch strings.ToLower(method) {
	case AuthCRAMMD5, AuthSCRAMSHA256:
		return false
	}
	return true
}

// minFIPSPassword is the shortest password, in bytes, from which SCRAM may derive its key with
// GODEBUG=fips140=only: 112 bits (NIST SP 800-131A).
const minFIPSPassword = 14

// FIPSProblem returns why an auth_method cannot be used with GODEBUG=fips140=only, or "": its
// library would panic.
func FIPSProblem(method string) string {
	if fips140.Enforced() && strings.EqualFold(method, AuthCRAMMD5) {
		return "cram-md5 cannot be used with GODEBUG=fips140=only, because it requires MD5: want scram-sha-256, or plain over TLS"
	}
	return ""
}

// mechanism returns the client's side of an AUTH method (in upper case), or the reason
// why the method or the credentials cannot be used.
func (s *Session) mechanism(method, password string) (mechanism smtp.Auth, reason string) {
	user := s.relay.Username
	if problem := FIPSProblem(method); problem != "" {
		return nil, problem + ", then replay"
	}
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
		if fips140.Enforced() && len(password) < minFIPSPassword {
			return nil, "GODEBUG=fips140=only does not allow scram-sha-256 with a password of fewer than 14 characters; use a longer password, or auth_method: plain over TLS, then replay"
		}
		if s.bindable() && slices.Contains(s.offers.mechanisms(), "SCRAM-SHA-256-PLUS") {
			return &scram{Auth: smtp.ScramSHA256PlusAuth(user, password, s.tls)}, ""
		}
		return &scram{Auth: smtp.ScramSHA256Auth(user, password)}, ""
	}
	return nil, "unknown auth_method " + strconv.Quote(legible.Clean(s.relay.AuthMethod, 40)) + "; use none, plain, login, cram-md5, scram-sha-256 or xoauth2, then replay"
}

// bindable reports whether the TLS connection supports channel binding (RFC 9266,
// RFC 5929).
func (s *Session) bindable() bool {
	return s.tls != nil && (s.tls.Version == tls.VersionTLS13 || len(s.tls.TLSUnique) > 0)
}

// RFC 7677 section 4 requires at least 4,096 iterations. The relay chooses the number
// and Certpost computes them: a million takes half a second.
const (
	minIterations = 4096
	maxIterations = 1_000_000
)

// scram enforces the order of SCRAM (RFC 5802 section 5): one message of each kind, and
// proof that the relay knows the password too, before its 235 counts. go-mail answers
// messages in any order, so a relay could omit the proof.
type scram struct {
	smtp.Auth
	step int // messages of the relay so far
}

// Next answers a challenge; more is false once the relay has replied 235.
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
	case a.step == 2 && fips140.Enforced():
		return nil, errSalt
	}
	return nil, errAuthRounds // go-mail's text may quote the challenge
}

// iterationsInRange checks the iteration count in the relay's first message; it leaves a
// message without one to the mechanism.
func iterationsInRange(challenge []byte) bool {
	for attribute := range bytes.SplitSeq(challenge, []byte(",")) {
		if text, found := bytes.CutPrefix(attribute, []byte("i=")); found {
			n, err := strconv.Atoi(string(text))
			return err == nil && n >= minIterations && n <= maxIterations
		}
	}
	return true
}
