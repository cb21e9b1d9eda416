package events

import (
	"crypto/x509"
	"errors"

	"github.com/certpost/certpost/internal/oddities"
	"github.com/certpost/certpost/internal/pemtext"
)

// ErrNoLeaf says that the event contains no readable certificate: it has only a
// reference, or its text has no certificate that can be parsed.
var ErrNoLeaf = errors.New("the event's certificate is a reference, or its text holds no certificate that can be parsed")

// Leaf is the event's certificate: the first in its text that is not a CA's, else the only
// one that issued none of the others (oddities.Leaf). It is for display and comparison; whether it may be delivered is checked
// when the payload is built. It is parsed once and kept, so Leaf must not be called by
// two goroutines at the same time.
func (e *Event) Leaf() (*x509.Certificate, error) {
	if e.leaf != nil {
		return e.leaf, nil
	}
	// What cannot be read is not reported here: the delivery says it. The certificates before it
	// still identify the event, and one that Go refuses is still the event's, not its issuer's.
	blocks, _, _ := pemtext.Certificates([]byte(e.Certificate.PEM))
	ders := make([][]byte, len(blocks))
	for i, block := range blocks {
		ders[i] = block.DER
	}
	e.leaf = oddities.Leaf(ders)
	if e.leaf == nil {
		return nil, ErrNoLeaf
	}
	return e.leaf, nil
}
