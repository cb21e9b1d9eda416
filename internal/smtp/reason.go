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

// phaseNames maps a phase to its name in a sentence: what the relay was expected to answer.
var phaseNames = map[verdict.Phase]string{
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

// remedies maps a fault's code to what the operator can do.
var remedies = map[verdict.Code]string{
	verdict.SMTPConnect:    "Certpost retries; if it keeps failing, check host, port and firewall",
	verdict.SMTPTransient:  "Certpost retries",
	verdict.SMTPPermanent:  "the relay's reply has the cause; remove the cause, then replay",
	verdict.SMTPValidation: "check from_address and the recipients, then replay",
	verdict.SMTPAuth:       "check username, password and auth_method, then replay",
	verdict.SMTPTLS:        "check tls_mode and the relay's TLS settings, then replay",
}

// The remedies for a reply of 530 on a connection without a login, and without TLS.
const (
	wantsLogin = "the relay wants a login: set username and password, then replay"
	wantsTLS   = "the relay wants TLS or a login, and the connection has neither: set tls_mode to starttls or smtps, and username and password if it wants a login, then replay"
)

// reason says what happened, where, and what to do. It names no recipient and
// quotes no reply text, so it is safe in any log.
func (f fault) reason(happened kind, ruling ruling) string {
	what := phaseNames[f.phase]
	if f.dot {
		what = "the final dot (end of the mail)"
	}
	remedy := remedies[ruling.code]
	if ruling.maybe {
		remedy = "it is unknown whether the relay accepted the mail"
	}
	if ruling.limit {
		remedy = "this is a limit of the relay itself: Certpost pauses the relay for limit_pause and retries, without counting an attempt"
	}
	if replyCode(f.err) == 530 && f.login != "" && f.phase != verdict.PhaseBanner && f.phase != verdict.PhaseEHLO && ruling == never {
		remedy = f.login
	}
	switch happened {
	case replied4, replied421, replied5, repliedSyntax, limited, tooMany:
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
		return fmt.Sprintf("%s closed the connection instead of sending a greeting; %s", f.relay, remedy)
	}
	return fmt.Sprintf("%s closed the connection during %s; %s", f.relay, what, remedy)
}

func (f fault) during(what string) string {
	if f.phase == verdict.PhaseConnect {
		return "the connection"
	}
	return what
}

// codes returns the reply code and the enhanced status code, "550 5.1.1".
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
		return fmt.Sprintf("the unexpected code %d", code)
	case errors.Is(f.err, errLongLine):
		return fmt.Sprintf("a line of more than %d bytes", maxReplyLine)
	case errors.Is(f.err, errLongReply):
		return fmt.Sprintf("more than %d lines", maxReplyLines)
	case errors.Is(f.err, errAuthRounds):
		return "an unexpected challenge"
	case errors.Is(f.err, errExtraReply):
		return "an extra reply that belongs to no command"
	case errors.Is(f.err, errNoReset):
		return "a refusal of the RSET before it, which ends the previous mail's transaction"
	}
	return "something that is not an SMTP reply"
}

func (f fault) noConnection() string {
	if dns, ok := errors.AsType[*net.DNSError](f.err); ok {
		if dns.IsNotFound {
			return "DNS has no address for the name"
		}
		return "the DNS lookup of the name failed"
	}
	switch {
	case errors.Is(f.err, syscall.ECONNREFUSED):
		return "the connection was refused (nothing listens on this port)"
	case errors.Is(f.err, syscall.EHOSTUNREACH), errors.Is(f.err, syscall.ENETUNREACH):
		return "there is no route to the host"
	}
	return "the connection could not be opened"
}

// tlsReason says which part of TLS failed. Names quoted from a certificate are cleaned.
func (f fault) tlsReason(now time.Time) string {
	switch {
	case errors.Is(f.err, errNoSTARTTLS):
		return f.relay + " does not offer STARTTLS, so nothing was sent; use its SMTPS port (tls_mode: smtps), or find what removes STARTTLS between Certpost and the relay, then replay"
	case errors.Is(f.err, errInjected):
		return f.relay + " sent plaintext after its reply to STARTTLS, as in a man-in-the-middle attack, so nothing was sent; check the network between Certpost and the relay, then replay"
	case errors.Is(f.err, errUnproven):
		return f.relay + " did not prove that it knows the password, as SCRAM requires, so nothing was sent; another server may be impersonating the relay: check host and its certificate, then replay"
	case errors.Is(f.err, errSalt):
		return f.relay + " requests SCRAM with a salt of fewer than 16 bytes, or a damaged one, which GODEBUG=fips140=only does not allow, so nothing was sent; set the password again in the relay's database, with a longer salt, or use auth_method: plain over TLS, then replay"
	case errors.Is(f.err, errIterations):
		return fmt.Sprintf("%s requests SCRAM with an iteration count outside %d to %d, so nothing was sent; fix the relay's password database, then replay", f.relay, minIterations, maxIterations)
	case replyCode(f.err) != 0:
		return fmt.Sprintf("%s offers STARTTLS but answered %s to it, so nothing was sent; fix the relay's TLS settings, then replay", f.relay, f.codes())
	case isAlert(f.err):
		return f.relay + alertReason(f.err)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](f.err); ok {
		return f.relay + " has " + invalidReason(invalid, now) + ", so nothing was sent; fix the relay's certificate, then replay"
	}
	if other, ok := errors.AsType[*strangerError](f.err); ok {
		return fmt.Sprintf("%s has a certificate that tls_fingerprint does not name (SHA-256 %s, of its key %s), so nothing was sent; if the relay's operator confirms this certificate, correct tls_fingerprint, then replay",
			f.relay, CertificateFingerprint(other.cert), KeyFingerprint(other.cert))
	}
	if wrong, ok := errors.AsType[x509.HostnameError](f.err); ok {
		return fmt.Sprintf("%s has a certificate %s, so nothing was sent; %s, then replay", f.relay, forWhom(wrong), nameRemedy(wrong))
	}
	if stranger, ok := errors.AsType[x509.UnknownAuthorityError](f.err); ok {
		issuer := "an unknown CA"
		if stranger.Cert != nil {
			issuer = fmt.Sprintf("%q, which is not a trusted CA", legible.Clean(stranger.Cert.Issuer.String(), 120))
		}
		return fmt.Sprintf("%s has a certificate issued by %s, so nothing was sent; set ca_file to the relay's CA, or tls_fingerprint to its certificate's, then replay", f.relay, issuer)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](f.err); ok {
		return f.relay + " has a certificate that cannot be verified, so nothing was sent; fix the relay's certificate, then replay"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](f.err); ok {
		return f.relay + " does not speak TLS on this port, so nothing was sent; use tls_mode smtps with port 465, starttls with 587, then replay"
	}
	return f.relay + " and Certpost could not agree on TLS settings (Certpost supports TLS 1.2 and 1.3), so nothing was sent; fix the relay's TLS settings, then replay"
}

// alertReason names the TLS alert with which the relay ended the handshake.
func alertReason(err error) string {
	operation, _ := errors.AsType[*net.OpError](err)
	// crypto/tls does not export its alert type; only the number is needed.
	number := tls.AlertError(0)
	if value := reflect.ValueOf(operation.Err); value.CanUint() {
		number = tls.AlertError(value.Uint()) //nolint:gosec // alerts are bytes
	}
	const protocolVersion, certificateRequired = 70, 116
	name := strings.TrimPrefix(number.Error(), "tls: ")
	switch number {
	case protocolVersion:
		return " supports no TLS version that is still secure (Certpost supports 1.2 and 1.3), so nothing was sent; update the relay, then replay"
	case certificateRequired:
		return " requires a client certificate, so nothing was sent; set client_cert_file and client_key_file, then replay"
	}
	return fmt.Sprintf(" refused the TLS handshake with the alert %q (%d), so nothing was sent; check the relay's TLS settings, then replay", name, uint8(number))
}

func invalidReason(invalid x509.CertificateInvalidError, now time.Time) string {
	cert := invalid.Cert
	switch {
	case invalid.Reason != x509.Expired || cert == nil:
		return "a certificate that is not valid for this use"
	case now.Before(cert.NotBefore):
		return "a certificate that is not valid before " + legible.Moment(cert.NotBefore)
	}
	return "a certificate that expired on " + legible.Moment(cert.NotAfter)
}

// forWhom says what a certificate for another name is valid for. Since RFC 6125 programs
// ignore the common name; a certificate with nothing else has no name for them.
func forWhom(wrong x509.HostnameError) string {
	host := legible.Clean(wrong.Host, 100)
	cert := wrong.Certificate
	if onlyCommonName(cert) {
		return fmt.Sprintf("whose only name is its common name (CN) %s, which does not count: it has no subject alternative name for %s",
			legible.Clean(cert.Subject.CommonName, 100), host)
	}
	return fmt.Sprintf("for %s, not for %s", certificateNames(cert), host)
}

// nameRemedy is what helps against a certificate for another name.
func nameRemedy(wrong x509.HostnameError) string {
	switch cert := wrong.Certificate; {
	case onlyCommonName(cert):
		return "have it issued with the name as a subject alternative name, or set tls_fingerprint"
	case cert != nil && len(cert.DNSNames) == 1 && !strings.Contains(cert.DNSNames[0], "*"):
		return "fix host or the relay's certificate, or set tls_server_name if " + legible.Clean(cert.DNSNames[0], 100) + " is the relay"
	}
	return "fix host or the relay's certificate, or set tls_server_name to the relay's name in it"
}

func onlyCommonName(cert *x509.Certificate) bool {
	return cert != nil && cert.Subject.CommonName != "" &&
		len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses)+len(cert.URIs) == 0
}

// certificateNames lists the names and IP addresses of a certificate, at most five.
func certificateNames(cert *x509.Certificate) string {
	if cert == nil {
		return "other names"
	}
	names := cert.DNSNames
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name"
	}
	more := ""
	if len(names) > 5 {
		more = fmt.Sprintf(" and %d more", len(names)-5)
		names = names[:5]
	}
	return legible.Clean(strings.Join(names, ", "), 300) + more
}

// sumUp returns the verdict on the recipients that were refused one by one, nil if
// there are none. If at least one refusal is retryable, so is the whole verdict, and
// its Refused lists the permanent refusals.
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
		sum.Reason = fmt.Sprintf("%d recipients were refused, %d of them permanently; %s", len(refused), len(final), sum.Reason)
	}
	return &sum
}

// mildest returns the first retryable refusal, else the first one.
func mildest(refused []rejection) *verdict.Failure {
	for _, r := range refused {
		if r.failure.Retry() {
			return r.failure
		}
	}
	return refused[0].failure
}

// refusals returns the permanent ones of the rejections.
func refusals(refused []rejection) (final []verdict.Refusal) {
	for _, r := range refused {
		if f := r.failure; !f.Retry() {
			final = append(final, verdict.RefusalOf(r.recipient, f.Outcome))
		}
	}
	return final
}

// allOrNothing returns the verdict when all_or_nothing stops the mail because some
// recipients were refused: one retryable refusal makes the whole delivery a retry.
func allOrNothing(refused []rejection, all int) *verdict.Failure {
	f := *mildest(refused)
	f.Reason = fmt.Sprintf("%d of %d recipients were refused, so with all_or_nothing no recipient gets the mail; %s", len(refused), all, f.Reason)
	return &f
}

// claimFailure returns the verdict when the claim in the ledger failed.
func claimFailure(err error) *verdict.Failure {
	return verdict.Fail(verdict.SMTPTransient, verdict.PhaseClaim,
		"the delivery could not be claimed in the ledger, so nothing was sent; Certpost retries").Because(err)
}
