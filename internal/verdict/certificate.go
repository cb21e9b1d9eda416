package verdict

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/legible"
)

// Certificate holds the public facts of a certificate that the ledger and the
// audit keep, to answer "which certificate went to which recipient".
type Certificate struct {
	CommonName  string    `json:"cn"`
	DNSNames    []string  `json:"dns_names,omitempty"`
	OtherNames  []string  `json:"other_names,omitempty"` // IP addresses, mail addresses, URIs
	Issuer      string    `json:"issuer,omitempty"`
	Serial      string    `json:"serial"`             // hexadecimal
	Fingerprint string    `json:"fingerprint"`        // SHA-256 of the leaf, hexadecimal
	KeyType     string    `json:"key_type,omitempty"` // one of KeyTypes; "" if it is another one, or was not recorded
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
}

// maxCertificateNames bounds the names that are kept: the ledger has them for every delivery.
const maxCertificateNames = 100

// ClockSkew is how far in the future a certificate's notBefore may be: CAs set it
// from their own clock.
const ClockSkew = 5 * time.Minute

// CertificateOf returns the facts of a leaf. Texts are cleaned and cut; names
// beyond the first 100 are dropped.
func CertificateOf(leaf *x509.Certificate) *Certificate {
	fingerprint := sha256.Sum256(leaf.Raw)
	c := &Certificate{
		CommonName:  legible.Clean(leaf.Subject.CommonName, 200),
		Issuer:      legible.Clean(leaf.Issuer.String(), 300),
		Serial:      SerialNumber(leaf),
		Fingerprint: hex.EncodeToString(fingerprint[:]),
		KeyType:     KeyType(leaf),
		NotBefore:   leaf.NotBefore.UTC(),
		NotAfter:    leaf.NotAfter.UTC(),
	}
	for i, n := range AlternativeNames(leaf) {
		switch n = legible.Clean(n, 255); {
		case i == maxCertificateNames:
			return c
		case i < len(leaf.DNSNames):
			c.DNSNames = append(c.DNSNames, n)
		default:
			c.OtherNames = append(c.OtherNames, n)
		}
	}
	return c
}

// Name is the name under which a certificate is shown in lists: its CN, else its first DNS name,
// else its first other name, else its serial number. Certificates of public CAs often have no CN any
// more.
func (c *Certificate) Name() string {
	for _, names := range [][]string{{c.CommonName}, c.DNSNames, c.OtherNames} {
		for _, name := range names {
			if name != "" {
				return name
			}
		}
	}
	return "serial " + c.Serial
}

// AllNames returns DNS names and other names.
func (c *Certificate) AllNames() []string { return slices.Concat(c.DNSNames, c.OtherNames) }

// AlternativeNames returns all subject alternative names of a certificate, unchanged: DNS names, IP
// addresses, mail addresses, URIs.
func AlternativeNames(cert *x509.Certificate) []string {
	names := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	names = append(names, cert.EmailAddresses...)
	for _, uri := range cert.URIs {
		names = append(names, uri.String())
	}
	return names
}

// SerialNumber returns a certificate's serial number in hexadecimal, two digits per
// byte, cut to 40 bytes (RFC 5280 allows 20).
func SerialNumber(cert *x509.Certificate) string {
	n := cert.SerialNumber.Bytes()
	if len(n) == 0 {
		n = []byte{0}
	}
	return hex.EncodeToString(n[:min(len(n), 40)])
}

// Expired reports whether now is after NotAfter.
func (c *Certificate) Expired(now time.Time) bool { return now.After(c.NotAfter) }
