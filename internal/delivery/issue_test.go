package delivery

import (
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

// testNow is the moment at which tests happen; issued certificates are valid
// from a day before to 89 days after it.
var testNow = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// issuedCert is a certificate with its key.
type issuedCert struct {
	*x509.Certificate
	key crypto.Signer
}

// newKey makes a key; kinds are ed25519, p256, p384, rsa.
func newKey(t testing.TB, kind string) crypto.Signer {
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
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		t.Fatalf("no key of kind %s", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// seeded gives the same key for the same seed, so that golden mails hold still.
func seeded(seed byte) crypto.Signer {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// issue makes a certificate for key, signed by ca, or by itself when ca is nil.
func issue(t testing.TB, ca *issuedCert, key crypto.Signer, cn string, edit ...func(*x509.Certificate)) *issuedCert {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0x4a7be5),
		Subject:      pkix.Name{CommonName: cn},
		NotBefore:    testNow.Add(-24 * time.Hour),
		NotAfter:     testNow.Add(89 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	for _, e := range edit {
		e(template)
	}
	parent, signer := template, key
	if ca != nil {
		parent, signer = ca.Certificate, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuedCert{cert, key}
}

// asCA makes a certificate that of a CA.
func asCA(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	c.NotAfter = testNow.Add(10 * 365 * 24 * time.Hour)
}

// numbered sets the serial number. NSS knows certificates by issuer and serial.
func numbered(serial int64) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.SerialNumber = big.NewInt(serial) }
}

func dnsNames(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = names }
}

// pki is a root, an intermediate and a leaf for *.example.com.
type pki struct{ root, intermediate, leaf *issuedCert }

func newPKI(t testing.TB, kind string) *pki {
	t.Helper()
	p := &pki{}
	p.root = issue(t, nil, newKey(t, "p256"), "Test Root", asCA, numbered(1))
	p.intermediate = issue(t, p.root, newKey(t, "p256"), "Test CA 1", asCA, numbered(2))
	p.leaf = issue(t, p.intermediate, newKey(t, kind), "*.example.com", dnsNames("*.example.com", "example.com"))
	return p
}

func pemOf(certs ...*issuedCert) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// keyPEM is a key in PKCS#8.
func keyPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
