package devrelay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// lifetime of the CA and its certificate: longer than any demo.
const lifetime = 365 * 24 * time.Hour

// authority is the relay's CA, new at every start, and the certificate that it signed.
type authority struct {
	cert   *x509.Certificate
	server *tls.Config
}

func newAuthority(hostname string) (*authority, error) {
	now := time.Now()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Certpost demo relay CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(lifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: hostname},
		NotBefore:    template.NotBefore,
		NotAfter:     template.NotAfter,
		DNSNames:     []string{hostname, "localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err = x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return nil, err
	}
	return &authority{cert: ca, server: &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}}, nil
}

// CertPool contains the relay's own CA; nothing if its certificate is from files.
func (r *Relay) CertPool() *x509.CertPool {
	pool := x509.NewCertPool()
	if r.authority != nil {
		pool.AddCert(r.authority.cert)
	}
	return pool
}

// CAFile writes the relay's own CA as PEM into the directory, which must exist, and returns
// the file's path.
func (r *Relay) CAFile(dir string) (string, error) {
	file := filepath.Join(dir, "devrelay-ca.pem")
	if r.authority == nil {
		return "", errors.New("the demo relay has no CA of its own")
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.authority.cert.Raw})
	return file, os.WriteFile(file, block, 0o644) //nolint:gosec // a CA's certificate is public
}
