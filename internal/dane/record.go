// Package dane answers whether a mail server may change its certificate now: other mail
// servers that use DANE (RFC 6698, for SMTP RFC 7672) deliver to it only if the certificate
// fits the TLSA records of its name, and they may have these in their caches for a while.
package dane

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Record is the data of a TLSA record (RFC 6698, section 2.1).
type Record struct {
	Usage    uint8 // 2: the CA's certificate; 3: the server's. SMTP ignores 0 and 1.
	Selector uint8 // 0: the whole certificate; 1: its public key
	Matching uint8 // 0: as it is; 1: its SHA-256; 2: its SHA-512
	Data     string
}

// The values of a record that matter to SMTP (RFC 7672, section 3.1).
const (
	usageCA, usageServer           = 2, 3
	wholeCertificate, publicKey    = 0, 1
	asItIs, hashSHA256, hashSHA512 = 0, 1, 2
)

// For returns the record to publish for a certificate: 3 1 1, which stays the same as long as
// the key does (RFC 7671, section 5.1).
func For(leaf *x509.Certificate) Record {
	return Record{usageServer, publicKey, hashSHA256, digest(hashSHA256, leaf.RawSubjectPublicKeyInfo)}
}

// String returns the data as in a zone file.
func (r Record) String() string {
	return fmt.Sprintf("%d %d %d %s", r.Usage, r.Selector, r.Matching, hex.EncodeToString([]byte(r.Data)))
}

// Owner is the name of the TLSA records of a mail server.
func Owner(server string) string { return "_25._tcp." + strings.TrimSuffix(server, ".") + "." }

// Line is a record of a mail server as a line of a zone file.
func Line(server string, r Record) string { return Owner(server) + " IN TLSA " + r.String() }

// usable reports whether mail servers use the record; the others do as if it were not there.
func (r Record) usable() bool {
	if r.Usage != usageCA && r.Usage != usageServer || r.Selector > publicKey {
		return false
	}
	switch r.Matching {
	case asItIs:
		return len(r.Data) > 0
	case hashSHA256:
		return len(r.Data) == sha256.Size
	case hashSHA512:
		return len(r.Data) == sha512.Size
	}
	return false
}

// fits reports whether a mail server of this name that sends the chain, the leaf first, is
// accepted because of the record. With usage 3 only the leaf or its key counts, whatever its names and
// dates are; with 2 a CA's certificate that is sent (or is in the record), and the name.
func (r Record) fits(server string, chain []*x509.Certificate) bool {
	switch {
	case !r.usable() || len(chain) == 0:
		return false
	case r.Usage == usageServer:
		return r.is(chain[0])
	case chain[0].VerifyHostname(server) != nil:
		return false
	}
	return slices.ContainsFunc(chain[1:], r.is) || r.signed(chain[len(chain)-1])
}

// is reports whether the record is that of a certificate.
func (r Record) is(cert *x509.Certificate) bool {
	selected := cert.Raw
	if r.Selector == publicKey {
		selected = cert.RawSubjectPublicKeyInfo
	}
	return r.Data == digest(r.Matching, selected)
}

// signed reports whether the record itself has the CA (2 0 0) or its key (2 1 0) that signed a
// certificate: such a CA need not be sent.
func (r Record) signed(cert *x509.Certificate) bool {
	if r.Matching != asItIs {
		return false
	}
	ca := &x509.Certificate{}
	var err error
	if r.Selector == publicKey {
		ca.PublicKey, err = x509.ParsePKIXPublicKey([]byte(r.Data))
	} else if ca, err = x509.ParseCertificate([]byte(r.Data)); err == nil && !bytes.Equal(ca.RawSubject, cert.RawIssuer) {
		return false
	}
	return err == nil && ca.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

func digest(matching uint8, data []byte) string {
	switch matching {
	case hashSHA256:
		sum := sha256.Sum256(data)
		return string(sum[:])
	case hashSHA512:
		sum := sha512.Sum512(data)
		return string(sum[:])
	}
	return string(data)
}
