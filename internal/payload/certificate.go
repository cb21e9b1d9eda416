package payload

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/oddities"
	"github.com/certpost/certpost/internal/pemtext"
	"github.com/certpost/certpost/internal/verdict"
)

// Limits for certificates, checked before they are parsed. maxLeaf and maxChain are
// cert-manager's since CVE-2024-12401, in bytes of PEM.
const (
	maxLeaf         = 36_500
	maxChain        = 95_000
	maxCertificates = 32
	maxRSABits      = 16_384 // limits the cost of a signature check
)

// Bundle is a leaf certificate and its issuers, in order.
type Bundle struct {
	Leaf *x509.Certificate
	// Chain contains the issuers, the leaf's first. A self-signed root is kept if the event
	// has it: the publisher decides whether it is delivered.
	Chain []*x509.Certificate
	// Unsupported says which certificate Certpost cannot parse as a whole, and why; "" if
	// there is none. Nothing of it was verified. CheckSupported says what follows.
	Unsupported string
	// Strays names the certificates of the event that do not belong to the chain, in a
	// clause; "" if there are none. CheckChain says what follows.
	Strays string
	// Verified says that no certificate of the event has the name of an issuer without being
	// it. Of the same text, ParseVerified then returns the same bundle.
	Verified bool
	// Notes describe what ParseBundle corrected or skipped, for the recipient.
	Notes []string
}

// payloadFailure returns a permanent SMTP_PAYLOAD failure: no retry can fix the
// content. reason never quotes the input; cause is only for errors.As.
func payloadFailure(cause error, reason string, args ...any) error {
	return verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload, fmt.Sprintf(reason, args...)).Because(cause)
}

// ParseBundle reads the certificate text of an event: one leaf and its issuers
// in any order. Only the parsed certificates are passed on, never the text itself.
func ParseBundle(pemText []byte) (*Bundle, error) {
	return parse(pemText, oddities.Certificate, signed)
}

// ParseVerified returns what ParseBundle has returned for this text with Verified set. It does
// not check the signatures again, which are two thirds of the work.
func ParseVerified(pemText []byte) (*Bundle, error) {
	return parse(pemText, oddities.Certificate, signedBefore)
}

func signedBefore(_, _ *x509.Certificate) (bool, error) { return true, nil }

// parse reads the certificate text; read is oddities.Certificate, and issued says whether the
// first certificate has signed the second one.
func parse(pemText []byte, read func(der []byte) (*x509.Certificate, string, error), issued func(parent, child *x509.Certificate) (bool, error)) (*Bundle, error) {
	blocks, skipped, err := pemtext.Certificates(pemText)
	switch {
	case errors.Is(err, pemtext.ErrPrivateKey):
		return nil, payloadFailure(nil, "the certificate text contains a private key; treat this key as disclosed. Keep keys in a secret store, and put only a reference into the event")
	case err != nil:
		return nil, payloadFailure(nil, "the certificate text cannot be used: %s", err)
	}

	b := &Bundle{}
	for _, kind := range skipped {
		b.Notes = append(b.Notes, fmt.Sprintf("a %s block was skipped", kind))
	}
	var certs []*x509.Certificate
	size := 0
	for _, block := range blocks {
		size += encodedSize(block.DER)
		if encodedSize(block.DER) > maxLeaf || size > maxLeaf+maxChain {
			return nil, payloadFailure(nil, "the certificate on line %d is too large: the limit is %d bytes for one certificate and %d for all", block.Line, maxLeaf, maxLeaf+maxChain)
		}
		cert, odd, err := read(block.DER)
		if err != nil {
			return nil, payloadFailure(err, "the block on line %d is not an X.509 certificate, or it is damaged; check it with `openssl x509 -text`", block.Line)
		}
		if odd != "" && b.Unsupported == "" {
			b.Unsupported = fmt.Sprintf("%s on line %d cannot be verified: %s", ShortName(cert), block.Line, odd)
		}
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
			return nil, payloadFailure(nil, "the certificate on line %d has an RSA key of %d bits, the limit is %d", block.Line, key.N.BitLen(), maxRSABits)
		}
		if known(certs, cert) {
			b.Notes = append(b.Notes, fmt.Sprintf("%s was given twice", ShortName(cert)))
			continue
		}
		if certs = append(certs, cert); len(certs) > maxCertificates {
			return nil, payloadFailure(nil, "the certificate text has more than %d certificates", maxCertificates)
		}
	}
	if err := b.order(certs, issued); err != nil {
		return nil, err
	}
	chain := 0
	for _, cert := range b.Chain {
		chain += encodedSize(cert.Raw)
	}
	if chain > maxChain {
		return nil, payloadFailure(nil, "the chain has %d bytes of PEM, the limit is %d", chain, maxChain)
	}
	return b, nil
}

// encodedSize returns the length in bytes of a DER certificate as a PEM block.
func encodedSize(der []byte) int {
	n := base64.StdEncoding.EncodedLen(len(der))
	return n + (n+63)/64 + len("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
}

func known(certs []*x509.Certificate, cert *x509.Certificate) bool {
	for _, c := range certs {
		if c.Equal(cert) {
			return true
		}
	}
	return false
}

// CheckDates checks the leaf's dates by policy: refuse (the default, also for "")
// returns an error, warn returns the warnings that the mail must contain.
func CheckDates(b *Bundle, now time.Time, policy string) (warnings []string, err error) {
	_, problem := b.DateProblem(now)
	switch {
	case problem == "":
		return nil, nil
	case policy == "warn":
		return []string{problem}, nil
	}
	return nil, payloadFailure(nil, "%s; to deliver it with a warning, set invalid_dates: warn in the target, or events.invalid_dates: warn for all, then replay", problem)
}

// The words of DateProblem.
const (
	NeverValid  = "never valid"
	Expired     = "expired"
	NotYetValid = "not yet valid"
)

// DateProblem describes what is wrong with the leaf's dates, in a word and in a
// sentence; both are empty if they are valid.
func (b *Bundle) DateProblem(now time.Time) (word, sentence string) {
	from, to := b.Leaf.NotBefore, b.Leaf.NotAfter
	switch {
	case to.Before(from):
		return NeverValid, fmt.Sprintf("the certificate is never valid: it ends (%s) before it begins (%s)", legible.Moment(to), legible.Moment(from))
	case now.After(to):
		return Expired, fmt.Sprintf("the certificate expired on %s", legible.Moment(to))
	case now.Add(verdict.ClockSkew).Before(from):
		return NotYetValid, fmt.Sprintf("the certificate is not valid before %s", legible.Moment(from))
	}
	return "", ""
}

// PEM returns leaf and chain as CERTIFICATE blocks.
func (b *Bundle) PEM() []byte {
	ders := [][]byte{b.Leaf.Raw}
	for _, cert := range b.Chain {
		ders = append(ders, cert.Raw)
	}
	return pemtext.Encode(ders...)
}

// Name is the certificate's display name, at most 100 bytes: its CN, else its first
// DNS name, IP address, mail address or URI, else its serial number.
func (b *Bundle) Name() string { return CertificateName(b.Leaf, 100) }

// ShortName is the certificate's display name in double quotes, at most 60 bytes inside them.
func ShortName(cert *x509.Certificate) string { return `"` + CertificateName(cert, 60) + `"` }

func shortNames(certs []*x509.Certificate) string {
	const max = 4
	var names []string
	for _, cert := range certs[:min(len(certs), max)] {
		names = append(names, ShortName(cert))
	}
	if len(certs) > max {
		names = append(names, fmt.Sprintf("%d more", len(certs)-max))
	}
	return strings.Join(names, ", ")
}

// CertificateName is the name that Bundle.Name describes, cleaned and at most max bytes.
func CertificateName(cert *x509.Certificate, max int) string {
	for _, name := range append([]string{cert.Subject.CommonName}, verdict.AlternativeNames(cert)...) {
		if name := legible.Clean(name, max); name != "" {
			return name
		}
	}
	return "serial " + legible.Clean(verdict.SerialNumber(cert), max)
}

// KeyKind describes the certificate's public key, "RSA, 2048 bits".
func KeyKind(cert *x509.Certificate) string {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA, %d bits", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA, " + key.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return "unknown type"
}
