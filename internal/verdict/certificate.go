package verdict

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/certpost/certpost/internal/legible"
)

// Certificate is what is remembered of a certificate: public facts that answer
// "what went to whom".
type Certificate struct {
	CommonName  string    `json:"cn"`
	DNSNames    []string  `json:"dns_names,omitempty"`
	Issuer      string    `json:"issuer,omitempty"`
	Serial      string    `json:"serial"`      // hexadecimal
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the leaf, hexadecimal
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
}

// CertificateOf is what is remembered of a leaf, made legible and cut.
func CertificateOf(leaf *x509.Certificate) *Certificate {
	const maxNames = 100 // the ledger keeps it for every delivery
	fingerprint := sha256.Sum256(leaf.Raw)
	c := &Certificate{
		CommonName:  legible.Clean(leaf.Subject.CommonName, 200),
		Issuer:      legible.Clean(leaf.Issuer.String(), 300),
		Serial:      SerialNumber(leaf),
		Fingerprint: hex.EncodeToString(fingerprint[:]),
		NotBefore:   leaf.NotBefore.UTC(),
		NotAfter:    leaf.NotAfter.UTC(),
	}
	for _, n := range leaf.DNSNames[:min(len(leaf.DNSNames), maxNames)] {
		c.DNSNames = append(c.DNSNames, legible.Clean(n, 255))
	}
	return c
}

// SerialNumber is a certificate's serial number in hexadecimal, two digits to a
// byte, at most 40 bytes of it (RFC 5280 allows 20).
func SerialNumber(cert *x509.Certificate) string {
	n := cert.SerialNumber.Bytes()
	if len(n) == 0 {
		n = []byte{0}
	}
	return hex.EncodeToString(n[:min(len(n), 40)])
}

// Expired reports whether the certificate's life is over.
func (c *Certificate) Expired(now time.Time) bool { return now.After(c.NotAfter) }
