package events

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/certpost/certpost/internal/oddities"
	"github.com/certpost/certpost/internal/pemtext"
)

// FromPEM makes an event with a new id from a certificate file: leaf, then chain. It
// takes only the certificates and encodes them anew; a file that also contains a
// private key, or a part that cannot be used, is refused.
func FromPEM(cert []byte) (*Event, error) {
	chain, _, err := readChain(cert)
	if err != nil {
		return nil, err
	}
	return &Event{ID: NewID(), Certificate: Certificate{PEM: string(chain)}}, nil
}

// readChain returns the certificates of a file as PEM, and the leaf. Each certificate that the file
// begins must be readable: without its leaf, a chain would be taken for the certificate of its issuer.
func readChain(file []byte) (chain []byte, leaf *x509.Certificate, err error) {
	const disclosed = "the certificate file holds a private key, which must not be published: give a file with only the certificates, and name the key by a reference"
	switch {
	case len(file) > MaxSize:
		return nil, nil, fmt.Errorf("the certificate file has %d bytes, which is too large for a certificate chain", len(file))
	case HoldsPrivateKey(file):
		return nil, nil, errors.New(disclosed)
	}
	if _, err := x509.ParseCertificate(file); err == nil {
		return nil, nil, errors.New("the certificate file is DER: convert it with openssl x509 -inform der")
	}
	blocks, _, err := pemtext.Certificates(file)
	switch {
	case errors.Is(err, pemtext.ErrPrivateKey):
		return nil, nil, errors.New(disclosed)
	case err != nil:
		return nil, nil, fmt.Errorf("the certificate file cannot be used: %w", err)
	}
	var ders [][]byte
	for _, block := range blocks {
		// What Go's parser refuses may be published: a target decides whether it takes it.
		cert, _, err := oddities.Certificate(block.DER)
		if err != nil { // not wrapped: its text may quote the certificate
			return nil, nil, fmt.Errorf("the block on line %d is not an X.509 certificate, or it is damaged; check it with `openssl x509 -text`", block.Line)
		}
		if leaf == nil || leaf.IsCA && !cert.IsCA {
			leaf = cert
		}
		ders = append(ders, cert.Raw)
	}
	if chain = pemtext.Encode(ders...); len(chain) > pemtext.MaxCertificates {
		return nil, nil, fmt.Errorf("the chain has %d bytes, at most %d fit into an event", len(chain), pemtext.MaxCertificates)
	}
	return chain, leaf, nil
}

// Issued is what an ACME client passed to its hook about one certificate.
type Issued struct {
	Chain    []byte   // PEM: leaf, then chain; certificates only
	CertFile string   // path of the file that Chain was read from
	KeyFile  string   // path of the private key's file, never its content; "" if not passed
	Domains  []string // as the client lists them, else the certificate's
	Source   string   // <client>://<host>/<name of the certificate>
	Lineage  string   // how the client tells its certificates apart: certbot's lineage, acme.sh's directory
	Again    bool     // the client says that the certificate is not new
}

// Event makes the event for the certificate, with the key's file as reference. Its id is
// that of IDFor: a second event for the same certificate has the same id.
func (i Issued) Event() (*Event, error) {
	chain, leaf, err := readChain(i.Chain)
	if err != nil {
		return nil, err
	}
	e := &Event{
		ID:          IDFor(sha256.Sum256(leaf.Raw), i.Source),
		Source:      i.Source,
		Certificate: Certificate{PEM: string(chain)},
	}
	if i.KeyFile != "" {
		e.PrivateKey = &Reference{File: i.KeyFile}
	}
	return e, nil
}
