package secrets

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
)

// unreachable returns an error, in Certpost's own words, that says why Vault did not
// answer: the texts of the SDK, of net and of tls may contain addresses, names and
// parts of the request.
func unreachable(err error) *Error {
	what, hint := reason(err)
	return &Error{Kind: ErrUnavailable, What: "Vault cannot be reached: " + what, Hint: hint}
}

func reason(err error) (what, hint string) {
	var (
		dns         *net.DNSError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		invalid     x509.CertificateInvalidError
		verify      *tls.CertificateVerificationError
		remote      *net.OpError
		record      tls.RecordHeaderError
		timeout     net.Error
		errno       syscall.Errno
		checkCA     = "check vault.tls.ca_file"
		checkName   = "check vault.address, or set vault.tls.server_name"
		checkScheme = "check whether vault.address should begin with http: or https:"
	)
	switch {
	case errors.Is(err, errTooLarge):
		return "its answer is larger than 1 MiB", ""
	case errors.Is(err, errClientCertificate):
		return "the client certificate or its key cannot be read", "check vault.tls.cert_file and vault.tls.key_file"
	case errors.As(err, &authority):
		return "its certificate is from a CA that Certpost does not trust", checkCA
	case errors.As(err, &hostname):
		return "its certificate is not valid for that name", checkName
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired or is not valid yet", "renew it, and check the clock"
	case errors.As(err, &invalid), errors.As(err, &verify):
		return "its certificate cannot be verified", checkCA
	case errors.As(err, &remote) && remote.Op == "remote error": // crypto/tls reports the peer's alert so
		return "it ended the TLS handshake with an alert", "it may ask for a client certificate: vault.tls.cert_file"
	case errors.As(err, &record):
		return "it does not answer with TLS", checkScheme
	case errors.Is(err, http.ErrSchemeMismatch):
		return "it answers without TLS", checkScheme
	case errors.As(err, &dns):
		return "its name cannot be resolved", "check vault.address and the resolver"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer within the time-out", "vault.timeout bounds one request"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection is refused", "check vault.address, and that Vault is up"
	case errors.As(err, &errno):
		return fmt.Sprintf("the connection failed (errno %d)", int(errno)), ""
	}
	return "the connection failed or the answer was cut off", ""
}
