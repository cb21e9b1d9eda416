package lab

import (
	"fmt"
	"sync"

	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// TestNow is the moment at which tests happen; issued certificates are valid
// from a day before to 89 days after it.
var TestNow = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// Issued is a certificate with its key.
type Issued struct {
	*x509.Certificate
	Key crypto.Signer
}

// NewKey makes a key; kinds are ed25519, p256, p384, p521, rsa (2,048 bits), rsa4096.
func NewKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "p521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "rsa4096":
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	default:
		t.Fatalf("no key of kind %s", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// SeededKey gives the same key for the same seed, so that golden mails hold still.
func SeededKey(seed byte) crypto.Signer {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// Issue makes a certificate for key, signed by ca, or by itself when ca is nil.
func Issue(t testing.TB, ca *Issued, key crypto.Signer, cn string, edit ...func(*x509.Certificate)) *Issued {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0x4a7be5),
		Subject:      pkix.Name{CommonName: cn},
		NotBefore:    TestNow.Add(-24 * time.Hour),
		NotAfter:     TestNow.Add(89 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	for _, e := range edit {
		e(template)
	}
	parent, signer := template, key
	if ca != nil {
		parent, signer = ca.Certificate, ca.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Issued{cert, key}
}

// AsCA makes a certificate that of a CA.
func AsCA(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	c.NotAfter = TestNow.Add(10 * 365 * 24 * time.Hour)
}

// numbered sets the serial number. NSS knows certificates by issuer and serial.
func numbered(serial int64) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.SerialNumber = big.NewInt(serial) }
}

func DNSNames(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = names }
}

// pki is a root, an intermediate and a leaf for *.example.com.
type pki struct{ Root, Intermediate, Leaf *Issued }

func NewPKI(t testing.TB, kind string) *pki {
	t.Helper()
	p := &pki{}
	p.Root = Issue(t, nil, NewKey(t, "p256"), "Test Root", AsCA, numbered(1))
	p.Intermediate = Issue(t, p.Root, NewKey(t, "p256"), "Test CA 1", AsCA, numbered(2))
	p.Leaf = Issue(t, p.Intermediate, NewKey(t, kind), "*.example.com", DNSNames("*.example.com", "example.com"))
	return p
}

func PEM(certs ...*Issued) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// KeyPEM is a key in PKCS#8.
func KeyPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// ManyNames are n different DNS names.
func ManyNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("host-%04d.example.com", i)
	}
	return names
}

var certificates sync.Map

// SelfSigned is a self-signed certificate in PEM, the same one for the same name. It is
// valid from an hour ago to in an hour.
func SelfSigned(name string) string {
	if c, ok := certificates.Load(name); ok {
		return c.(string)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	text, _ := certificates.LoadOrStore(name, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return text.(string)
}
