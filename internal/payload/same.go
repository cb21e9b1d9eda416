package payload

import (
	"bytes"
	"crypto/x509"
	"slices"

	"github.com/pavlo-v-chernykh/keystore-go/v4"
	"software.sslmate.com/src/go-pkcs12"
)

// Same returns a function that reports whether a file has the same certificates as Build would
// put into it, with the same passphrase; nil for kinds whose files are the same bytes each
// time, and for archives. Key stores are other bytes each time, because they are encrypted.
// A key that belongs to the same leaf is the same key.
func (s Settings) Same(b *Bundle, passphrase []byte) func(file []byte) bool {
	all := append([]*x509.Certificate{b.Leaf}, b.Chain...)
	equal := func(certs []*x509.Certificate) bool {
		return slices.EqualFunc(certs, all, (*x509.Certificate).Equal)
	}
	switch s.Kind {
	case PKCS12:
		return func(file []byte) bool {
			_, leaf, chain, err := pkcs12.DecodeChain(file, string(passphrase))
			return err == nil && equal(append([]*x509.Certificate{leaf}, chain...))
		}
	case TrustStore:
		if len(b.Chain) > 0 {
			all = b.Chain
		}
		return func(file []byte) bool {
			certs, err := pkcs12.DecodeTrustStore(file, string(passphrase))
			return err == nil && equal(certs)
		}
	case JKS:
		return func(file []byte) bool { return sameKeyStore(file, passphrase, all) }
	}
	return nil
}

// sameKeyStore reports whether a Java key store has one entry, with a key and these certificates.
func sameKeyStore(file, password []byte, want []*x509.Certificate) bool {
	store := keystore.New()
	if store.Load(bytes.NewReader(file), password) != nil || len(store.Aliases()) != 1 {
		return false
	}
	entry, err := store.GetPrivateKeyEntry(store.Aliases()[0], password)
	if err != nil {
		return false
	}
	defer clear(entry.PrivateKey)
	return slices.EqualFunc(entry.CertificateChain, want, func(c keystore.Certificate, w *x509.Certificate) bool { return bytes.Equal(c.Content, w.Raw) })
}
