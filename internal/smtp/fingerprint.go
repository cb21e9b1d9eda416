package smtp

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Fingerprint is the SHA-256 of a certificate (DER), or of its public key
// (SubjectPublicKeyInfo, DER).
type Fingerprint [sha256.Size]byte

// maxFingerprints is how many fingerprints may be given for one relay: the present
// one, the next one, and those of a few servers behind one name.
const maxFingerprints = 16

// ParseFingerprints reads fingerprints that are separated by commas or white space. Each
// is 64 hexadecimal digits, with or without colons, or base64 as in sha256//... (curl's
// --pinnedpubkey). A prefix such as "sha256:" or "SHA256 Fingerprint=" (openssl) is
// ignored. An error does not quote the text.
func ParseFingerprints(text string) ([]Fingerprint, error) {
	const opensslWord = "fingerprint="
	var all []Fingerprint
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(", \t\r\n;", r) }) {
		if lower := strings.ToLower(word); lower == "sha256" { // of "SHA256 Fingerprint=..."
			continue
		} else if rest, ok := strings.CutPrefix(lower, opensslWord); ok {
			word = rest
		}
		one, ok := parseFingerprint(word)
		if !ok {
			return nil, errors.New("want the SHA-256 of the relay's certificate or public key: 64 hexadecimal digits, with or without colons")
		}
		if !slices.Contains(all, one) {
			all = append(all, one)
		}
	}
	switch {
	case len(all) == 0:
		return nil, errors.New("has no fingerprint: want the SHA-256 of the relay's certificate or public key")
	case len(all) > maxFingerprints:
		return nil, fmt.Errorf("has %d fingerprints: at most %d are allowed", len(all), maxFingerprints)
	}
	return all, nil
}

func parseFingerprint(word string) (f Fingerprint, ok bool) {
	var raw []byte
	var err error
	if pin, base := strings.CutPrefix(word, "sha256//"); base {
		raw, err = base64.StdEncoding.DecodeString(pin)
	} else {
		if i := len("sha256:"); len(word) > i && strings.EqualFold(word[:i], "sha256:") {
			word = word[i:]
		}
		raw, err = hex.DecodeString(strings.ReplaceAll(word, ":", ""))
	}
	if err != nil || len(raw) != len(f) {
		return f, false
	}
	return Fingerprint(raw), true
}

// String is 64 hexadecimal digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// CertificateFingerprint is the SHA-256 of a certificate.
func CertificateFingerprint(cert *x509.Certificate) Fingerprint { return sha256.Sum256(cert.Raw) }

// KeyFingerprint is the SHA-256 of a certificate's public key. It stays the same when
// the certificate is renewed with the same key.
func KeyFingerprint(cert *x509.Certificate) Fingerprint {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// strangerError is the failure of a handshake whose certificate has none of the
// expected fingerprints.
type strangerError struct{ cert *x509.Certificate }

func (e *strangerError) Error() string { return "the certificate has another fingerprint" }

// pinned makes a TLS configuration accept exactly the certificates with one of the
// fingerprints, whatever their names, dates and issuer. A configured fingerprint is
// checked in every handshake, also of a resumed session.
func pinned(config *tls.Config, expected []Fingerprint) {
	config.InsecureSkipVerify = true //nolint:gosec // VerifyConnection decides instead
	config.VerifyConnection = func(state tls.ConnectionState) error {
		leaf := state.PeerCertificates[0] // never empty on the client's side
		if slices.Contains(expected, CertificateFingerprint(leaf)) || slices.Contains(expected, KeyFingerprint(leaf)) {
			return nil
		}
		return &strangerError{leaf}
	}
}
