// Package events decodes, validates and encodes certificate.issued events, and
// makes them for publishers.
//
// Decode reads the three forms in which an event may arrive and refuses
// everything else with a reason that tells the publisher what to do. An Event
// holds certificates and references, never a private key: a message that
// contains one is refused, and the error says that its body must not be copied.
// Encode writes the one canonical form in which Certpost passes the event on.
//
// For publishers, FromPEM and FromHook make events from certificate files and
// from what ACME clients pass to their hooks.
package events

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"time"
)

// Type is the CloudEvents type of the event.
const Type = "certificate.issued"

// MaxSize is the maximum size of an event's body, in bytes.
const MaxSize = 1 << 20

// Event is one issued certificate. It is decoded strictly and encoded as the
// bare JSON object of the contract, self-contained and without private keys.
type Event struct {
	ID     string    `json:"id"`
	Source string    `json:"source,omitempty"`
	Time   time.Time `json:"time,omitzero"`
	// Certificate is the PEM text, leaf then chain, or a reference to it.
	Certificate Certificate `json:"certificate"`
	// PrivateKey says where the key is stored; nil if the event names no key.
	PrivateKey *Reference        `json:"private_key,omitempty"`
	Targets    []string          `json:"targets,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`

	// Subject is the subject that the event was published on, set by the program that
	// received it; "" if that is not known. It is not part of the message: a publisher
	// must not be able to choose it.
	Subject string `json:"-"`

	// ChainVerified says that the signatures of the certificate's text were checked when the
	// event was resolved, and that each fits (payload.Bundle.Verified). Only a seal carries it.
	ChainVerified bool `json:"-"`

	leaf   *x509.Certificate // result of Leaf
	digest string            // result of Digest, if it is known
}

// Certificate is either PEM text or a reference, never both. In JSON it is a
// string or an object.
type Certificate struct {
	PEM string
	Ref *Reference
}

// MarshalJSON writes the string or the object.
func (c Certificate) MarshalJSON() ([]byte, error) {
	if c.Ref != nil {
		return json.Marshal(c.Ref)
	}
	return json.Marshal(c.PEM)
}

// Reference names a secret that is stored elsewhere; exactly one field is set.
type Reference struct {
	Vault   *VaultReference   `json:"vault,omitempty"`
	Transit *TransitReference `json:"transit,omitempty"`
	File    string            `json:"file,omitempty"`
}

// VaultReference is a field of a secret in a KV engine.
type VaultReference struct {
	Mount   string `json:"mount"`
	Path    string `json:"path"`
	Key     string `json:"key"`
	Version int    `json:"version,omitempty"` // 0: the newest
}

// TransitReference is a ciphertext that Vault's transit engine decrypts.
type TransitReference struct {
	Mount      string `json:"mount"`
	Key        string `json:"key"`
	Ciphertext string `json:"ciphertext"`
}

// Encode returns the event in its canonical form: the bare JSON object on one
// line, fields in the order of the contract, labels sorted, without escapes that
// JSON does not require. Equal events encode to equal bytes, and Decode reads
// them back.
func (e *Event) Encode() []byte {
	canonical := *e
	canonical.Time = e.Time.UTC()
	return encode(canonical)
}

// CloudEvent returns the event as a CloudEvents 1.0 envelope in structured JSON,
// for publishers; its content type is ContentType. CloudEvents requires a
// source: for an event without one it is "certpost".
func (e *Event) CloudEvent() []byte {
	type data struct {
		Certificate Certificate       `json:"certificate"`
		PrivateKey  *Reference        `json:"private_key,omitempty"`
		Targets     []string          `json:"targets,omitempty"`
		Labels      map[string]string `json:"labels,omitempty"`
	}
	return encode(struct {
		SpecVersion     string    `json:"specversion"`
		Type            string    `json:"type"`
		Source          string    `json:"source"`
		ID              string    `json:"id"`
		Time            time.Time `json:"time,omitzero"`
		DataContentType string    `json:"datacontenttype"`
		Data            data      `json:"data"`
	}{"1.0", Type, cmp.Or(e.Source, "certpost"), e.ID, e.Time.UTC(), "application/json", data{e.Certificate, e.PrivateKey, e.Targets, e.Labels}})
}

// Digest is the SHA-256, in hexadecimal, of the event's certificate, or of the
// reference to it. Two events with one id and different digests are two
// certificates with one id, which is a publisher's mistake; the same certificate
// for other targets or with other labels is the same event.
func (e *Event) Digest() string {
	if e.digest != "" {
		return e.digest
	}
	sum := sha256.Sum256(encode(e.Certificate))
	return hex.EncodeToString(sum[:])
}

// encode writes JSON without HTML escapes and without the trailing newline. It
// fails only on a time that Decode refuses: before the year 0 or after 9999.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("events: an event that cannot be written: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
