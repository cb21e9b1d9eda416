package events

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
)

// maxBlocks bounds the search for the leaf; a chain has a few certificates.
const maxBlocks = 100

// ErrNoLeaf says that no certificate can be read from the event: it names where
// the certificate is kept, or its text is none.
var ErrNoLeaf = errors.New("the event's text holds no certificate that can be read")

// Leaf is the certificate that the event is about: the first in its text that is no
// authority's, else the first one. It is there to be recognized; whether it may be
// delivered is judged by who packs it. It is parsed once, so an Event must not be
// asked by two goroutines at the same time.
func (e *Event) Leaf() (*x509.Certificate, error) {
	if e.leaf != nil {
		return e.leaf, nil
	}
	rest := []byte(strings.TrimSpace(e.Certificate.PEM))
	for range maxBlocks {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if !strings.HasSuffix(block.Type, "CERTIFICATE") {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		if !cert.IsCA {
			e.leaf = cert
			return cert, nil
		}
		if e.leaf == nil {
			e.leaf = cert
		}
	}
	if e.leaf == nil {
		return nil, ErrNoLeaf
	}
	return e.leaf, nil
}
