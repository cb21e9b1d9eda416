package payload

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/oddities"
	"github.com/certpost/certpost/internal/verdict"
)

// Limits for certificates, checked before they are parsed. maxLeaf and maxChain are
// cert-manager's since CVE-2024-12401, in bytes of PEM; maxCertificateText leaves room
// for what `openssl x509 -text` writes around the blocks.
const (
	maxCertificateText = 256 << 10
	maxLeaf            = 36_500
	maxChain           = 95_000
	maxCertificates    = 32
	maxRSABits         = 16_384
)

// clockSkew is how far in the future a certificate's notBefore may be: CAs set it
// from their own clock.
const clockSkew = 5 * time.Minute

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
	if len(pemText) > maxCertificateText {
		return nil, payloadFailure(nil, "the certificate text has %d bytes; the limit is %d", len(pemText), maxCertificateText)
	}
	if bytes.Contains(pemText, []byte("PRIVATE KEY-----")) || bytes.Contains(pemText, []byte("PRIVATE KEY BLOCK-----")) {
		return nil, payloadFailure(nil, "the certificate text contains a private key; treat this key as disclosed. Keep keys in a secret store, and put only a reference into the event")
	}
	blocks, err := readPEM(pemText)
	if err != nil {
		return nil, payloadFailure(nil, "the certificate text cannot be used: %s", err)
	}

	b := &Bundle{}
	var certs []*x509.Certificate
	size := 0
	for _, block := range blocks {
		switch {
		case block.kind == "CERTIFICATE" || block.kind == "X509 CERTIFICATE":
		case block.kind == "PKCS7" || block.kind == "CMS":
			return nil, payloadFailure(nil, "the certificate text is PKCS#7; convert it to PEM with `openssl pkcs7 -print_certs`")
		case strings.HasSuffix(block.kind, "CERTIFICATE REQUEST"):
			return nil, payloadFailure(nil, "the certificate text contains a certificate request (line %d); publish the issued certificate instead", block.line)
		case block.kind == "TRUSTED CERTIFICATE":
			return nil, payloadFailure(nil, "line %d begins a TRUSTED CERTIFICATE, a format that only OpenSSL uses; convert it with `openssl x509`", block.line)
		default:
			b.Notes = append(b.Notes, fmt.Sprintf("a %s block was skipped", block.kind))
			continue
		}
		size += encodedSize(block.der)
		if encodedSize(block.der) > maxLeaf || size > maxLeaf+maxChain {
			return nil, payloadFailure(nil, "the certificate on line %d is too large: the limit is %d bytes for one certificate and %d for all", block.line, maxLeaf, maxLeaf+maxChain)
		}
		cert, odd, err := oddities.Certificate(block.der)
		if err != nil {
			return nil, payloadFailure(err, "the block on line %d is not an X.509 certificate, or it is damaged; check it with `openssl x509 -text`", block.line)
		}
		if odd != "" && b.Unsupported == "" {
			b.Unsupported = fmt.Sprintf("%s on line %d cannot be verified: %s", ShortName(cert), block.line, odd)
		}
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
			return nil, payloadFailure(nil, "the certificate on line %d has an RSA key of %d bits; the limit is %d", block.line, key.N.BitLen(), maxRSABits)
		}
		if known(certs, cert) {
			b.Notes = append(b.Notes, fmt.Sprintf("%s was given twice", ShortName(cert)))
			continue
		}
		if certs = append(certs, cert); len(certs) > maxCertificates {
			return nil, payloadFailure(nil, "the certificate text has more than %d certificates", maxCertificates)
		}
	}
	if len(certs) == 0 {
		return nil, payloadFailure(nil, "the certificate text has no CERTIFICATE block")
	}
	if err := b.order(certs); err != nil {
		return nil, err
	}
	chain := 0
	for _, cert := range b.Chain {
		chain += encodedSize(cert.Raw)
	}
	if chain > maxChain {
		return nil, payloadFailure(nil, "the chain has %d bytes of PEM; the limit is %d", chain, maxChain)
	}
	return b, nil
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
	return nil, payloadFailure(nil, "%s; to deliver it with a warning, set events.invalid_dates: warn, then replay", problem)
}

// DateProblem describes what is wrong with the leaf's dates, in a word and in a
// sentence; both are empty if they are valid.
func (b *Bundle) DateProblem(now time.Time) (word, sentence string) {
	from, to := b.Leaf.NotBefore, b.Leaf.NotAfter
	switch {
	case to.Before(from):
		return "never valid", fmt.Sprintf("the certificate is never valid: it ends (%s) before it begins (%s)", legible.Moment(to), legible.Moment(from))
	case now.After(to):
		return "expired", fmt.Sprintf("the certificate expired on %s", legible.Moment(to))
	case now.Add(clockSkew).Before(from):
		return "not yet valid", fmt.Sprintf("the certificate is not valid before %s", legible.Moment(from))
	}
	return "", ""
}

// PEM returns leaf and chain as CERTIFICATE blocks.
func (b *Bundle) PEM() []byte {
	var out bytes.Buffer
	for _, cert := range append([]*x509.Certificate{b.Leaf}, b.Chain...) {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return out.Bytes()
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
	for _, name := range append([]string{cert.Subject.CommonName}, AlternativeNames(cert)...) {
		if name := legible.Clean(name, max); name != "" {
			return name
		}
	}
	return "serial " + legible.Clean(verdict.SerialNumber(cert), max)
}

// AlternativeNames returns all subject alternative names, unchanged: DNS names, IP
// addresses, mail addresses, URIs.
func AlternativeNames(cert *x509.Certificate) []string {
	names := append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	names = append(names, cert.EmailAddresses...)
	for _, uri := range cert.URIs {
		names = append(names, uri.String())
	}
	return names
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
