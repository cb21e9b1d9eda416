package oddities

import (
	"bytes"
	"crypto/x509"
)

// Leaf returns the certificate that an event is about, of those that its text has, in DER:
// the first that is not a CA's; of CA certificates alone, the only one that issued none of
// the others, which leaves stray roots aside, otherwise the first. Only names are compared;
// nil if no certificate can be parsed. Delivery checks more.
func Leaf(ders [][]byte) *x509.Certificate {
	var all []*x509.Certificate
	for _, der := range ders {
		cert, _, err := Certificate(der)
		if err != nil {
			continue
		}
		if !IsAuthority(cert) {
			return cert
		}
		all = append(all, cert)
	}
	if lowest := Lowest(all); len(lowest) == 1 {
		return lowest[0]
	}
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

// Lowest returns the CA certificates that are not self-issued and issued none of the others.
func Lowest(all []*x509.Certificate) (lowest []*x509.Certificate) {
	for _, cert := range all {
		if !SelfIssued(cert) && !IssuedAny(cert, all) {
			lowest = append(lowest, cert)
		}
	}
	return lowest
}

// IssuedAny reports whether the certificate may have issued one of the others.
func IssuedAny(parent *x509.Certificate, certs []*x509.Certificate) bool {
	for _, child := range certs {
		if MayIssue(parent, child) {
			return true
		}
	}
	return false
}

// MayIssue reports whether parent may have issued child: by name, and by key identifier if
// both have one.
func MayIssue(parent, child *x509.Certificate) bool {
	return parent != child && bytes.Equal(child.RawIssuer, parent.RawSubject) &&
		(len(child.AuthorityKeyId) == 0 || len(parent.SubjectKeyId) == 0 || bytes.Equal(child.AuthorityKeyId, parent.SubjectKeyId))
}

// SelfIssued reports whether subject and issuer of a certificate are the same.
func SelfIssued(cert *x509.Certificate) bool { return bytes.Equal(cert.RawIssuer, cert.RawSubject) }

// IsAuthority reports whether a certificate is a CA's; before version 3 no certificate
// says so, and a self-issued one is taken for a root.
func IsAuthority(cert *x509.Certificate) bool {
	return cert.IsCA || cert.Version < 3 && SelfIssued(cert)
}
