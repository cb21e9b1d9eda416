package road

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/pemtext"
)

// NewChain returns a leaf certificate for name and its intermediate in PEM, of the same
// size as certificates from public CAs. The leaf has a key of its own.
func NewChain(name string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	return NewChainFor(name, &key.PublicKey)
}

// issuer is the CA of all chains: those of an installation come from a few.
var issuer = sync.OnceValues(func() (ca struct {
	template *x509.Certificate
	der      []byte
	key      *ecdsa.PrivateKey
}, err error) {
	now := time.Now()
	ca.template = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Bench CA", Organization: []string{"Bench"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		SubjectKeyId: []byte("bench ca"),
	}
	if ca.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
		ca.der, err = x509.CreateCertificate(rand.Reader, ca.template, ca.template, &ca.key.PublicKey, ca.key)
	}
	return ca, err
})

// NewChainFor is NewChain for a given public key.
func NewChainFor(name string, public crypto.PublicKey) (string, error) {
	ca, err := issuer()
	if err != nil {
		return "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return "", err
	}
	now := time.Now()
	leaf := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 0, 90), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca.template, public, ca.key)
	if err != nil {
		return "", err
	}
	return string(pemtext.Encode(der, ca.der)), nil
}
