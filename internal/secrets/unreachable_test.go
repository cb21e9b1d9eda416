package secrets

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
)

// The error never contains the texts of the SDK, net and tls.
func TestUnreachableInOurWords(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		says string
	}{
		"authority":    {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, "a CA that Certpost does not trust"},
		"name":         {x509.HostnameError{Certificate: &x509.Certificate{}, Host: canary}, "not valid for that name"},
		"expired":      {x509.CertificateInvalidError{Reason: x509.Expired, Detail: canary}, "has expired or is not valid yet"},
		"invalid":      {x509.CertificateInvalidError{Reason: x509.TooManyIntermediates, Detail: canary}, "cannot be verified"},
		"verification": {&tls.CertificateVerificationError{Err: errors.New(canary)}, "cannot be verified"},
		"alert":        {&net.OpError{Op: "remote error", Err: errors.New(canary)}, "ended the TLS handshake"},
		"record":       {tls.RecordHeaderError{Msg: canary}, "does not answer with TLS"},
		"scheme":       {http.ErrSchemeMismatch, "answers without TLS"},
		"name server":  {&net.DNSError{Name: canary, Err: canary}, "name cannot be resolved"},
		"deadline":     {context.DeadlineExceeded, "within the time-out"},
		"time-out":     {&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, "within the time-out"},
		"refused":      {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, "connection is refused"},
		"no route":     {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}, "errno"},
		"large":        {errTooLarge, "larger than 1 MiB"},
		"certificate":  {errClientCertificate, "client certificate"},
		"anything":     {errors.New(canary), "failed or the answer was cut off"},
	} {
		wrapped := &url.Error{Op: "Get", URL: "https://vault/" + canary, Err: fmt.Errorf("%s: %w", canary, test.err)}
		got := unreachable(wrapped)
		if !errors.Is(got, ErrUnavailable) || !strings.Contains(got.Error(), test.says) || leaks(fmt.Sprintf("%v %+v %#v", got, got, *got)) != "" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestRefusalInOurWords(t *testing.T) {
	t.Parallel()
	ref := mustRef(t, "vault:secret/x#k")
	for status, test := range map[int]struct {
		kind error
		says string
	}{
		403: {ErrDenied, "may not read secret/data/x"}, 405: {ErrNotFound, "cannot read secret/data/x"}, 400: {ErrNotFound, "status 400"},
	} {
		if err := refusal(ref, status, "secret/data/x", "read"); !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%d: %v", status, err)
		}
	}
}
