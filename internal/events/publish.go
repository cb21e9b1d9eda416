package events

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/certpost/certpost/internal/oddities"
)

// FromPEM makes an event with a new id from a certificate file: leaf, then chain. It
// takes only the certificates and encodes them anew; a file that also contains a
// private key is refused.
func FromPEM(cert []byte) (*Event, error) {
	chain, _, err := readChain(cert)
	if err != nil {
		return nil, err
	}
	return &Event{ID: NewID(), Certificate: Certificate{PEM: string(chain)}}, nil
}

// readChain returns the certificates of a file as PEM, and the first one, which ACME
// clients make the leaf.
func readChain(file []byte) (chain []byte, leaf *x509.Certificate, err error) {
	switch {
	case len(file) > MaxSize:
		return nil, nil, fmt.Errorf("the certificate file has %d bytes, which is too large for a certificate chain", len(file))
	case HoldsPrivateKey(file):
		return nil, nil, errors.New("the certificate file holds a private key, which must not be published: give a file with only the certificates, and name the key by a reference")
	}
	count := 0
	for rest := bytes.TrimPrefix(file, []byte("\xef\xbb\xbf")); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		count++
		// What Go's parser refuses may be published: a target decides whether it takes it.
		cert, _, err := oddities.Certificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate %d in the file cannot be parsed: is the file complete?", count)
		}
		if leaf == nil {
			leaf = cert
		}
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	// pem.Decode skips damaged blocks; without its leaf, a chain would be taken for the
	// certificate of its issuer.
	if begun := bytes.Count(file, []byte("-----BEGIN CERTIFICATE-----")); begun != count {
		return nil, nil, fmt.Errorf("%d certificates begin in the file, but %d can be parsed: is the file complete?", begun, count)
	}
	switch {
	case leaf != nil && len(chain) > maxCertificate:
		return nil, nil, fmt.Errorf("the chain has %d bytes, at most %d fit into an event", len(chain), maxCertificate)
	case leaf != nil:
		return chain, leaf, nil
	}
	if _, err := x509.ParseCertificate(file); err == nil {
		return nil, nil, errors.New("the certificate file is DER: convert it with openssl x509 -inform der")
	}
	return nil, nil, errors.New("no certificate found: expected a PEM file with a CERTIFICATE block for the leaf, then its chain")
}

// Issued is what an ACME client passed to its hook about one certificate.
type Issued struct {
	Chain   []byte   // PEM: leaf, then chain; certificates only
	KeyFile string   // path of the private key's file, never its content; "" if not passed
	Domains []string // as the client lists them, else the certificate's
	Source  string   // <client>://<host>/<name of the certificate>
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
