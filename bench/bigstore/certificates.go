package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// lifetime is the lifetime of a certificate, interval the time until the next one for its
// names is issued, so that two of them overlap.
const (
	lifetime = 90 * 24 * time.Hour
	interval = 60 * 24 * time.Hour
)

// certificate describes a certificate of a subject: with age 0 the newest, with age 1 the
// one before. Its fingerprint is made up; issue replaces it with the real one.
func certificate(subject, age int, now time.Time) *verdict.Certificate {
	name := fmt.Sprintf("host-%d.unit-%d.example.com", subject, subject%500)
	serial := sha256.Sum256(fmt.Appendf(nil, "%d/%d", subject, age))
	finger := sha256.Sum256(serial[:])
	from := now.Add(-24*time.Hour - time.Duration(age)*interval).UTC().Truncate(time.Second)
	c := &verdict.Certificate{
		CommonName: name, DNSNames: []string{name}, Issuer: "CN=Bench CA,O=Bench", Serial: hex.EncodeToString(serial[1:17]),
		Fingerprint: hex.EncodeToString(finger[:]), NotBefore: from, NotAfter: from.Add(lifetime),
	}
	for i := range subject % 3 {
		c.DNSNames = append(c.DNSNames, fmt.Sprintf("alias-%d.%s", i, name))
	}
	return c
}

// authority issues certificates. All have the same key, because nothing measured here
// depends on it.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Bench CA", Organization: []string{"Bench"}},
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	return &authority{ca, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}, err
}

// issue creates the certificate that c describes, sets its fingerprint in c, and
// returns the chain in PEM.
func (a *authority) issue(c *verdict.Certificate) (chain string, err error) {
	serial, ok := new(big.Int).SetString(c.Serial, 16)
	if !ok {
		return "", fmt.Errorf("invalid serial number %q", c.Serial)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: c.CommonName}, DNSNames: c.DNSNames, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}, a.certificate, &a.key.PublicKey, a.key)
	finger := sha256.Sum256(der)
	c.Fingerprint = hex.EncodeToString(finger[:])
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + a.pem, err
}
