package events

import (
	"crypto/sha256"
	"encoding/pem"
	"errors"
)

// FromPEM makes an event with a new id from a certificate file: leaf, then
// chain. A file that holds a private key as well is refused.
func FromPEM(cert []byte) (*Event, error) {
	if HoldsPrivateKey(cert) {
		return nil, errors.New("the certificate file holds a private key: give the chain alone")
	}
	if block, _ := pem.Decode(cert); block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no CERTIFICATE block found: give a PEM file with the leaf first, then its chain")
	}
	return &Event{ID: NewID(), Certificate: Certificate{PEM: string(cert)}}, nil
}

// Issued is what an ACME client told its hook about one certificate.
type Issued struct {
	Chain   []byte   // PEM: leaf, then chain
	KeyFile string   // path of the private key's file, never its content
	Domains []string // as the client lists them
	Source  string   // <client>://<host>/<name>
}

// Event makes the event for the certificate. Its id is that of IDFor: made
// again for the same certificate it has the same id.
func (i Issued) Event() (*Event, error) {
	e, err := FromPEM(i.Chain)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(i.Chain)
	e.ID, e.Source = IDFor(sha256.Sum256(block.Bytes), i.Source), i.Source
	if i.KeyFile != "" {
		e.PrivateKey = &Reference{File: i.KeyFile}
	}
	return e, nil
}
