// Package events is the certificate.issued event: decode, validate, encode, and
// the publishers' side of it.
//
// Decode reads the three forms in which an event may arrive and refuses the
// rest with a reason a person can act on. An Event holds certificates and
// references, never a private key: what carries one is refused, and the refusal
// says that its body must not be copied. Encode writes the one canonical form
// in which the event travels from there on.
//
// For publishers, FromPEM and FromHook make events from certificate files and
// from what ACME clients tell their hooks.
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

// MaxSize is the most bytes an event's body may have.
const MaxSize = 1 << 20

// Event is one issued certificate. It is read strictly, and written as the
// bare JSON object of the contract, self-contained and free of private keys.
type Event struct {
	ID     string    `json:"id"`
	Source string    `json:"source,omitempty"`
	Time   time.Time `json:"time,omitzero"`
	// Certificate is the PEM text, leaf and chain, or a reference to it.
	Certificate Certificate `json:"certificate"`
	// PrivateKey says where the key is kept; nil when the event names none.
	PrivateKey *Reference        `json:"private_key,omitempty"`
	Targets    []string          `json:"targets,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`

	leaf *x509.Certificate // what Leaf has found
}

// Certificate is exactly one of PEM text and a reference. In JSON it is a
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

// Reference names a secret kept elsewhere; exactly one field is set.
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

// Encode gives the event in its canonical form: the bare JSON object on one
// line, fields in the order of the contract, labels sorted, nothing escaped
// that JSON lets stand. Equal events encode to equal bytes, and Decode reads
// them back.
func (e *Event) Encode() []byte {
	canonical := *e
	canonical.Time = e.Time.UTC()
	return encode(canonical)
}

// CloudEvent gives the event as a CloudEvents 1.0 envelope in structured JSON,
// for publishers; its content type is ContentType. CloudEvents demands a
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

// Digest is the SHA-256, hexadecimal, of the certificate that the event is
// about, or of the reference to it. Two events with one id and different digests
// are two certificates under one name, which is a publisher's mistake; the same
// certificate for other targets or with other labels is the same event.
func (e *Event) Digest() string {
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
