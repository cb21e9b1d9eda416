//go:build unix

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// issued is a certificate with its chain, and a key file.
type issued struct {
	about   string
	chain   string // PEM
	keyFile string
	key     string // PEM, only to look for in logs
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{"Soak"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

func (a *authority) pem() string { return certificatePEM(a.cert.Raw) }

func certificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// issue returns a certificate for the key, changed as wished.
func (a *authority) issue(public crypto.PublicKey, change func(*x509.Certificate)) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(2)), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 90),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	change(template)
	return x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
}

// relayCertificate returns a certificate for relays on 127.0.0.1.
func (a *authority) relayCertificate() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := a.issue(key.Public(), func(c *x509.Certificate) {
		c.Subject.CommonName, c.IPAddresses = "soak.test", []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// strange are certificates that are valid, and unusual.
var strange = map[string]func(*x509.Certificate){
	"usual": func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames = "www.example.com", []string{"www.example.com"}
	},
	"wildcard": func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames = "*.example.com", []string{"*.example.com", "example.com"}
	},
	"without a CN": func(c *x509.Certificate) { c.DNSNames = []string{"nocn.example.com"} },
	"an address only": func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.ParseIP("2001:db8::1"), net.IPv4(192, 0, 2, 1)}
	},
	"a URI only": func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/ns/a/sa/b"}}
	},
	"an address of mail": func(c *x509.Certificate) {
		c.Subject.CommonName, c.EmailAddresses = "Ops", []string{"ops@example.com"}
	},
	"without an end": func(c *x509.Certificate) {
		c.DNSNames, c.NotAfter = []string{"forever.example.com"}, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	},
	"hundreds of names": func(c *x509.Certificate) {
		for i := range 300 {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("host%d.many.example.com", i))
		}
	},
	"odd characters": func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames = "a\r\nBcc: x@y\u202e{{.}}<b>", []string{"xn--bcher-kva.example"}
	},
	"a long name": func(c *x509.Certificate) {
		c.Subject.CommonName, c.Subject.Organization = strings.Repeat("long ", 60), []string{strings.Repeat("ü", 200)}
		c.DNSNames = []string{"long.example.com"}
	},
}

// newCertificates issues the strange certificates, and writes their keys into a directory.
func newCertificates(a *authority, dir string) (all []issued, err error) {
	makers := []func() (crypto.Signer, error){
		func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
		func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
		func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
		func() (crypto.Signer, error) { _, k, err := ed25519.GenerateKey(rand.Reader); return k, err },
	}
	for about, change := range strange {
		key, err := makers[len(all)%len(makers)]()
		if err != nil {
			return nil, err
		}
		der, err := a.issue(key.Public(), change)
		if err != nil {
			return nil, fmt.Errorf("certificate with %s: %w", about, err)
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		i := issued{about: about, chain: certificatePEM(der) + a.pem(), keyFile: filepath.Join(dir, fmt.Sprintf("key%d.pem", len(all)))}
		i.key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
		if err := os.WriteFile(i.keyFile, []byte(i.key), 0o600); err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, nil
}
