package payload

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// Bounds on certificates, checked before anything is parsed. Those of leaf and
// chain are cert-manager's since CVE-2024-12401, in bytes of PEM; maxText
// leaves room for what `openssl x509 -text` writes around the blocks.
const (
	maxCertificateText = 256 << 10
	maxLeaf            = 36_500
	maxChain           = 95_000
	maxCertificates    = 32
	maxRSABits         = 16_384 // what a signature check may cost
)

// clockSkew is how far in the future a certificate's first valid moment may
// lie: CAs stamp it with their own clock.
const clockSkew = 5 * time.Minute

// Bundle is a leaf certificate and its issuers, in order.
type Bundle struct {
	Leaf *x509.Certificate
	// chain are the issuers, the leaf's first. A self-signed root is kept where
	// it was given: whoever made the event decides whether it travels.
	Chain []*x509.Certificate
	// notes say what was put right while reading.
	Notes []string
}

// payloadFailure is the failure of content that no further try will mend. The
// reason is in our words; cause is for errors.As alone.
func payloadFailure(cause error, reason string, args ...any) error {
	return verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload, fmt.Sprintf(reason, args...)).Because(cause)
}

// ParseBundle reads the certificate text of an event: one leaf and its issuers
// in any order. Only what was parsed is ever passed on, never the text itself.
func ParseBundle(pemText []byte) (*Bundle, error) {
	if len(pemText) > maxCertificateText {
		return nil, payloadFailure(nil, "the certificate text has %d bytes; more than %d are not read", len(pemText), maxCertificateText)
	}
	if bytes.Contains(pemText, []byte("PRIVATE KEY-----")) || bytes.Contains(pemText, []byte("PRIVATE KEY BLOCK-----")) {
		return nil, payloadFailure(nil, "the certificate text holds a private key; a key belongs into a secret store, and the event only names it. Treat this key as disclosed")
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
			return nil, payloadFailure(nil, "the certificate text is PKCS#7; unpack it with `openssl pkcs7 -print_certs`")
		case strings.HasSuffix(block.kind, "CERTIFICATE REQUEST"):
			return nil, payloadFailure(nil, "the certificate text holds a certificate request (line %d), not the certificate that was made from it", block.line)
		case block.kind == "TRUSTED CERTIFICATE":
			return nil, payloadFailure(nil, "line %d begins a TRUSTED CERTIFICATE, a format of OpenSSL's own; convert it with `openssl x509`", block.line)
		default:
			b.Notes = append(b.Notes, fmt.Sprintf("a %s block was left out", block.kind))
			continue
		}
		size += encodedSize(block.der)
		if encodedSize(block.der) > maxLeaf || size > maxLeaf+maxChain {
			return nil, payloadFailure(nil, "the certificate on line %d is too large: at most %d bytes for one and %d for all", block.line, maxLeaf, maxLeaf+maxChain)
		}
		cert, err := x509.ParseCertificate(block.der)
		if err != nil {
			return nil, payloadFailure(err, "the block on line %d is not an X.509 certificate that can be read; `openssl x509 -text` may say more", block.line)
		}
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
			return nil, payloadFailure(nil, "the certificate on line %d has an RSA key of %d bits; at most %d are taken", block.line, key.N.BitLen(), maxRSABits)
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
		return nil, payloadFailure(nil, "there is no CERTIFICATE block in the certificate text")
	}
	if err := b.order(certs); err != nil {
		return nil, err
	}
	chain := 0
	for _, cert := range b.Chain {
		chain += encodedSize(cert.Raw)
	}
	if chain > maxChain {
		return nil, payloadFailure(nil, "the chain has %d bytes of PEM; at most %d are taken", chain, maxChain)
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

// order finds the leaf, the one certificate that issued no other, and puts
// behind it the certificates that lead up from it, each after one that it issued.
func (b *Bundle) order(certs []*x509.Certificate) error {
	issuers := make(map[*x509.Certificate][]*x509.Certificate, len(certs))
	issuedOthers := make(map[*x509.Certificate]bool, len(certs))
	for _, child := range certs {
		// Issuers that lead further up come before self-signed ones: with a
		// cross-signed root, the path to the other root stays in one piece.
		var roots []*x509.Certificate
		for _, parent := range certs {
			if child == parent || !issued(parent, child) {
				continue
			}
			issuedOthers[parent] = true
			if selfIssued(parent) {
				roots = append(roots, parent)
			} else {
				issuers[child] = append(issuers[child], parent)
			}
		}
		issuers[child] = append(issuers[child], roots...)
	}

	leaf, err := pickLeaf(certs, issuedOthers)
	if err != nil {
		return err
	}
	b.Leaf = leaf
	if leaf.IsCA {
		b.Notes = append(b.Notes, "the certificate is that of a CA")
	}
	seen := map[*x509.Certificate]bool{leaf: true}
	b.climb(leaf, issuers, seen)
	for _, cert := range certs {
		if !seen[cert] {
			return payloadFailure(nil, "the chain does not connect: %s did not issue %s nor any of its issuers", ShortName(cert), ShortName(leaf))
		}
	}
	return nil
}

// climb appends cert's issuers and theirs, depth first; seen ends the circles
// that CAs make when they sign each other.
func (b *Bundle) climb(cert *x509.Certificate, issuers map[*x509.Certificate][]*x509.Certificate, seen map[*x509.Certificate]bool) {
	for _, issuer := range issuers[cert] {
		if !seen[issuer] {
			seen[issuer] = true
			b.Chain = append(b.Chain, issuer)
			b.climb(issuer, issuers, seen)
		}
	}
}

// issued reports whether parent issued child: by name, by key identifier where
// both have one, and by signature. A signature in an algorithm that this
// program cannot check does not speak against it; that is for the reader's side.
func issued(parent, child *x509.Certificate) bool {
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return false
	}
	if len(child.AuthorityKeyId) > 0 && len(parent.SubjectKeyId) > 0 && !bytes.Equal(child.AuthorityKeyId, parent.SubjectKeyId) {
		return false
	}
	err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature)
	var insecure x509.InsecureAlgorithmError
	return err == nil || errors.As(err, &insecure) || errors.Is(err, x509.ErrUnsupportedAlgorithm)
}

func selfIssued(cert *x509.Certificate) bool { return bytes.Equal(cert.RawIssuer, cert.RawSubject) }

// pickLeaf takes the one certificate that issued none of the others, and says
// what is wrong where there is not exactly one. A certificate alone is the
// leaf, a CA's too; several of CAs alone are more likely a chain file given by mistake.
func pickLeaf(certs []*x509.Certificate, issuedOthers map[*x509.Certificate]bool) (*x509.Certificate, error) {
	if len(certs) == 1 {
		return certs[0], nil
	}
	var leaves, loose []*x509.Certificate // loose: a CA's, and it issued nothing here
	for _, cert := range certs {
		switch {
		case issuedOthers[cert]:
		case cert.IsCA || cert.Version < 3 && selfIssued(cert):
			loose = append(loose, cert)
		default:
			leaves = append(leaves, cert)
		}
	}
	switch {
	case len(leaves) == 0:
		return nil, payloadFailure(nil, "there are only CA certificates (%s); the leaf is missing. Was the chain given instead of the full chain?", shortNames(certs))
	case len(leaves) > 1:
		return nil, payloadFailure(nil, "there are %d leaf certificates (%s); one event carries one", len(leaves), shortNames(leaves))
	case len(loose) > 0:
		return nil, payloadFailure(nil, "the chain does not connect: %s did not issue %s nor any of its issuers", shortNames(loose), ShortName(leaves[0]))
	}
	return leaves[0], nil
}

// CheckDates judges the leaf's dates by policy: refuse (the default, also
// for "") or warn, which gives the warnings that the mail has to carry.
func CheckDates(b *Bundle, now time.Time, policy string) (warnings []string, err error) {
	_, problem := b.DateProblem(now)
	switch {
	case problem == "":
		return nil, nil
	case policy == "warn":
		return []string{problem}, nil
	}
	return nil, payloadFailure(nil, "%s; events.invalid_dates: warn would deliver it with a warning", problem)
}

// DateProblem says in a word and in a sentence what is wrong with the leaf's
// dates, or nothing.
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

// PEM gives leaf and chain as CERTIFICATE blocks.
func (b *Bundle) PEM() []byte {
	var out bytes.Buffer
	for _, cert := range append([]*x509.Certificate{b.Leaf}, b.Chain...) {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return out.Bytes()
}

// Name is what people call the certificate: its CN, else its first DNS name,
// IP address, mail address or URI, else its serial number.
func (b *Bundle) Name() string { return CertificateName(b.Leaf, 100) }

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

func CertificateName(cert *x509.Certificate, max int) string {
	for _, name := range append([]string{cert.Subject.CommonName}, AlternativeNames(cert)...) {
		if name := legible.Clean(name, max); name != "" {
			return name
		}
	}
	return "serial " + legible.Clean(verdict.SerialNumber(cert), max)
}

// AlternativeNames are all subject alternative names, as they stand there.
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

// KeyKind describes the certificate's public key.
func KeyKind(cert *x509.Certificate) string {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA, %d bits", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA, " + key.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return "of a kind unknown to this program"
}
