package verdict

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"slices"
	"strings"
)

// KeyTypes are the kinds of keys that certificates have.
var KeyTypes = []string{"ecdsa", "ed25519", "rsa"}

// KeyType returns the kind of a certificate's key, one of KeyTypes; "" for others.
func KeyType(cert *x509.Certificate) string {
	switch cert.PublicKey.(type) {
	case *rsa.PublicKey:
		return "rsa"
	case *ecdsa.PublicKey:
		return "ecdsa"
	case ed25519.PublicKey:
		return "ed25519"
	}
	return ""
}

// PrimaryName returns the main name of a certificate, in lower case: its common name, if that is one of
// its alternative names or it has none, otherwise the first of these.
func PrimaryName(cn string, names []string) string {
	for _, n := range names {
		if strings.EqualFold(n, cn) {
			return strings.ToLower(cn)
		}
	}
	if len(names) > 0 {
		return strings.ToLower(names[0])
	}
	return strings.ToLower(cn)
}

// Supersedes reports whether the certificate replaces another one: it becomes valid later, for a key
// of the same kind, and has all of the other's names. Servers have an RSA and an ECDSA
// certificate of one name at the same time: neither replaces the other. One with so many names
// that not all are kept is never replaced.
func (c *Certificate) Supersedes(other *Certificate) bool {
	theirs := other.AllNames()
	if len(theirs) == 0 {
		theirs = []string{other.CommonName}
	}
	if c.KeyType != other.KeyType || !c.NotBefore.After(other.NotBefore) || len(theirs) >= maxCertificateNames {
		return false
	}
	mine := append(c.AllNames(), c.CommonName)
	return !slices.ContainsFunc(theirs, func(name string) bool {
		return !slices.ContainsFunc(mine, func(n string) bool { return strings.EqualFold(n, name) })
	})
}
