package smtp

import (
	"fmt"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/verdict"
)

// maxEnvelopeID is the longest ENVID before it is encoded (RFC 3461 section 4.4).
const maxEnvelopeID = 100

// OffersDSN reports whether the relay offers DSN (RFC 3461), by which Certpost keeps the
// content of a mail out of bounces. Without it, a bounce often returns the whole mail.
func (s *Session) OffersDSN() bool { return s.offers.has("DSN") }

// dsnOfMail returns the parameters of MAIL: bounces return only the headers of the mail,
// never the content, which may be a private key, and name the delivery.
func (s *Session) dsnOfMail(env Envelope) string {
	if !s.OffersDSN() {
		return ""
	}
	parameters := " RET=HDRS"
	if env.ID != "" && len(env.ID) <= maxEnvelopeID {
		parameters += " ENVID=" + xtext(env.ID)
	}
	return parameters
}

// dsnOfRcpt returns the parameter of RCPT: the sender is told of failures and delays.
// There is nobody to tell if the sender is the null sender.
func (s *Session) dsnOfRcpt(env Envelope) string {
	if !s.OffersDSN() || env.From == "" {
		return ""
	}
	return " NOTIFY=FAILURE,DELAY"
}

// refusesDSN reports whether the envelope was refused with a code that may mean the
// parameters of DSN, although the relay offers it. A mail is worth more than its bounce.
func (s *Session) refusesDSN(failure *verdict.Failure, refused []rejection) bool {
	if !s.OffersDSN() || s.dead {
		return false
	}
	const syntax, parameter, notImplemented = 501, 504, 555 // RFC 5321 section 4.2.3
	codes := []int{syntax, parameter, notImplemented}
	if failure != nil {
		return slices.Contains(codes, failure.ReplyCode)
	}
	return slices.ContainsFunc(refused, func(no rejection) bool { return slices.Contains(codes, no.failure.ReplyCode) })
}

// xtext encodes a parameter's value (RFC 3461 section 4): every octet that is not a
// printable ASCII character, or is + or =, becomes + and two hexadecimal digits.
func xtext(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= '!' && c <= '~' && c != '+' && c != '=' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "+%02X", c)
		}
	}
	return b.String()
}
