package smtp

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"syscall"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// said names a phase in a sentence: what the relay was to answer.
var said = map[verdict.Phase]string{
	verdict.PhaseBanner:   "the connection",
	verdict.PhaseEHLO:     "EHLO",
	verdict.PhaseSTARTTLS: "STARTTLS",
	verdict.PhaseTLS:      "the TLS handshake",
	verdict.PhaseAuth:     "AUTH",
	verdict.PhaseMail:     "MAIL FROM",
	verdict.PhaseRcpt:     "RCPT TO",
	verdict.PhaseData:     "DATA",
	verdict.PhaseContent:  "the content of the mail",
}

// remedies say what a person can do, by the code that the fault was given.
var remedies = map[verdict.Code]string{
	verdict.SMTPConnect:    "check host, port and firewall if it lasts; it is tried again",
	verdict.SMTPTransient:  "it is tried again",
	verdict.SMTPPermanent:  "the relay's reply says why; mend that and replay",
	verdict.SMTPValidation: "check from_address and the recipients, then replay",
	verdict.SMTPAuth:       "check username, password and auth_method, then replay",
	verdict.SMTPTLS:        "check tls_mode and the relay's TLS settings, then replay",
}

// reason tells what happened, where and what to do, in words of our own. It
// names no recipient and quotes no text, so it may go into any log.
func (f fault) reason(happened kind, ruling ruling) string {
	what := said[f.phase]
	if f.dot {
		what = "the end of the mail"
	}
	remedy := remedies[ruling.code]
	if ruling.maybe {
		remedy = "whether it took the mail is unknown"
	}
	switch happened {
	case replied4, replied421, replied5, repliedSyntax, tooMany:
		return fmt.Sprintf("%s answered %s to %s; %s", f.relay, f.codes(), what, remedy)
	case garbled:
		return fmt.Sprintf("%s answered %s with %s; %s", f.relay, what, f.garbage(), remedy)
	case untrusted:
		return f.tlsReason(time.Now())
	case stopped:
		return fmt.Sprintf("Certpost was stopped during %s with %s; %s", f.during(what), f.relay, remedy)
	case hung:
		if f.phase == verdict.PhaseConnect {
			return fmt.Sprintf("%s could not be reached within %s; %s", f.relay, legible.Seconds(f.waited), remedy)
		}
		return fmt.Sprintf("%s did not answer %s within %s; %s", f.relay, what, legible.Seconds(f.waited), remedy)
	}
	if f.phase == verdict.PhaseConnect {
		return fmt.Sprintf("%s could not be reached: %s; %s", f.relay, f.noConnection(), remedy)
	}
	if f.phase == verdict.PhaseBanner {
		return fmt.Sprintf("%s closed the connection instead of greeting; %s", f.relay, remedy)
	}
	return fmt.Sprintf("%s closed the connection during %s; %s", f.relay, what, remedy)
}

func (f fault) during(what string) string {
	if f.phase == verdict.PhaseConnect {
		return "the connection"
	}
	return what
}

// codes are the reply's codes, "550 5.1.1".
func (f fault) codes() string {
	code := replyCode(f.err)
	if enhanced := replyEnhanced(f.err); enhanced != "" {
		return fmt.Sprintf("%d %s", code, enhanced)
	}
	return fmt.Sprint(code)
}

func (f fault) garbage() string {
	switch code := replyCode(f.err); {
	case code != 0:
		return fmt.Sprintf("%d, which has no place there", code)
	case errors.Is(f.err, errLongLine):
		return fmt.Sprintf("a line of more than %d bytes", maxReplyLine)
	case errors.Is(f.err, errLongReply):
		return fmt.Sprintf("more than %d lines", maxReplyLines)
	case errors.Is(f.err, errAuthRounds):
		return "a challenge that has no place there"
	case errors.Is(f.err, errUnasked):
		return "more than it was asked for"
	case errors.Is(f.err, errNoReset):
		return "a refusal to forget the mail before (RSET)"
	}
	return "something that is not an SMTP reply"
}

func (f fault) noConnection() string {
	if dns, ok := errors.AsType[*net.DNSError](f.err); ok {
		if dns.IsNotFound {
			return "DNS knows no address for the name"
		}
		return "DNS did not resolve the name"
	}
	switch {
	case errors.Is(f.err, syscall.ECONNREFUSED):
		return "the connection was refused, nothing listens there"
	case errors.Is(f.err, syscall.EHOSTUNREACH), errors.Is(f.err, syscall.ENETUNREACH):
		return "there is no route to it"
	}
	return "the connection could not be opened"
}

// tlsReason says which part of TLS failed. What it quotes of a certificate is cleaned.
func (f fault) tlsReason(now time.Time) string {
	switch {
	case errors.Is(f.err, errNoSTARTTLS):
		return f.relay + " does not offer STARTTLS, so nothing was sent; use its SMTPS port (tls_mode: smtps), or look for what strips STARTTLS on the way"
	case errors.Is(f.err, errInjected):
		return f.relay + " sent plaintext behind its reply to STARTTLS, as somebody in between would do; nothing was sent"
	case errors.Is(f.err, errUnproven):
		return f.relay + " did not prove that it knows the password, as SCRAM wants it, so nothing was sent; somebody may pose as the relay"
	case errors.Is(f.err, errIterations):
		return fmt.Sprintf("%s wants SCRAM with a number of iterations that is not between %d and %d, so nothing was sent; mend its password database", f.relay, minIterations, maxIterations)
	case replyCode(f.err) != 0:
		return fmt.Sprintf("%s offers STARTTLS and answered %s to it, so nothing was sent; mend the relay's TLS settings, then replay", f.relay, f.codes())
	case isAlert(f.err):
		return f.relay + alertReason(f.err)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](f.err); ok {
		return f.relay + " has " + invalidReason(invalid, now) + "; nothing was sent"
	}
	if wrong, ok := errors.AsType[x509.HostnameError](f.err); ok {
		return fmt.Sprintf("%s has a certificate for %s and not for %s; nothing was sent; correct host, or the relay's certificate",
			f.relay, certificateNames(wrong.Certificate), legible.Clean(wrong.Host, 100))
	}
	if stranger, ok := errors.AsType[x509.UnknownAuthorityError](f.err); ok {
		issuer := "an unknown CA"
		if stranger.Cert != nil {
			issuer = fmt.Sprintf("%q, which is not trusted here", legible.Clean(stranger.Cert.Issuer.String(), 120))
		}
		return fmt.Sprintf("%s has a certificate issued by %s; nothing was sent; give the relay's CA as ca_file", f.relay, issuer)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](f.err); ok {
		return f.relay + " has a certificate that cannot be verified; nothing was sent; mend the relay's certificate"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](f.err); ok {
		return f.relay + " does not speak TLS on this port, so nothing was sent; tls_mode smtps belongs to port 465, starttls to 587"
	}
	return f.relay + " and Certpost did not agree on TLS (Certpost speaks 1.2 and 1.3), so nothing was sent; mend the relay's TLS settings"
}

// alertReason names the alert with which the relay ended the handshake.
func alertReason(err error) string {
	operation, _ := errors.AsType[*net.OpError](err)
	// crypto/tls keeps its alert type to itself; the number is all that is needed.
	number := tls.AlertError(0)
	if value := reflect.ValueOf(operation.Err); value.CanUint() {
		number = tls.AlertError(value.Uint()) //nolint:gosec // alerts are bytes
	}
	const protocolVersion, certificateRequired = 70, 116
	name := strings.TrimPrefix(number.Error(), "tls: ")
	switch number {
	case protocolVersion:
		return " speaks no TLS version that is still safe (Certpost speaks 1.2 and 1.3), so nothing was sent; update the relay"
	case certificateRequired:
		return " wants a client certificate, so nothing was sent; give client_cert_file and client_key_file"
	}
	return fmt.Sprintf(" refused the TLS handshake with the alert %q (%d), so nothing was sent; check the relay's TLS settings", name, uint8(number))
}

func invalidReason(invalid x509.CertificateInvalidError, now time.Time) string {
	cert := invalid.Cert
	switch {
	case invalid.Reason != x509.Expired || cert == nil:
		return "a certificate that may not be used for it"
	case now.Before(cert.NotBefore):
		return "a certificate that is not valid before " + legible.Moment(cert.NotBefore)
	}
	return "a certificate that expired on " + legible.Moment(cert.NotAfter)
}

// certificateNames lists what a certificate is valid for, at most five names.
func certificateNames(cert *x509.Certificate) string {
	if cert == nil {
		return "other names"
	}
	names := cert.DNSNames
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name at all"
	}
	more := ""
	if len(names) > 5 {
		more = fmt.Sprintf(" and %d more", len(names)-5)
		names = names[:5]
	}
	return legible.Clean(strings.Join(names, ", "), 300) + more
}

// sumUp is the verdict on the recipients that were refused one by one, nil when
// none was. One that may be taken later makes the whole a retry for all such.
func sumUp(refused []rejection) *verdict.Failure {
	if len(refused) == 0 {
		return nil
	}
	final := refusals(refused)
	if len(final) == len(refused) {
		return verdict.RefusedAll(final)
	}
	sum := *mildest(refused)
	sum.Refused = final
	for _, r := range refused {
		sum.Recipients = append(sum.Recipients, r.recipient)
	}
	if len(refused) > 1 {
		sum.Reason = fmt.Sprintf("%d recipients were refused, %d of them for good; %s", len(refused), len(final), sum.Reason)
	}
	return &sum
}

// mildest is the first refusal that need not be for good, else the first one.
func mildest(refused []rejection) *verdict.Failure {
	for _, r := range refused {
		if r.failure.Retry() {
			return r.failure
		}
	}
	return refused[0].failure
}

// refusals are those of the rejections that are for good.
func refusals(refused []rejection) (final []verdict.Refusal) {
	for _, r := range refused {
		if f := r.failure; !f.Retry() {
			final = append(final, verdict.RefusalOf(r.recipient, f.Outcome))
		}
	}
	return final
}

// allOrNothing is the verdict when nobody gets the mail because some of the
// recipients were refused: one that may be taken later makes all of them wait.
func allOrNothing(refused []rejection, all int) *verdict.Failure {
	f := *mildest(refused)
	f.Reason = fmt.Sprintf("%d of %d recipients were refused, and all_or_nothing keeps the mail from the others; %s", len(refused), all, f.Reason)
	return &f
}

// claimFailure is the verdict when the ledger did not let us send.
func claimFailure(err error) *verdict.Failure {
	return verdict.Fail(verdict.SMTPTransient, verdict.PhaseClaim,
		"the delivery could not be claimed in the ledger, so nothing was sent; it is tried again").Because(err)
}
