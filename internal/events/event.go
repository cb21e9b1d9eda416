// Package events is the certificate.issued event: decode, validate, encode, and
// the publishers' side of it.
package events

import "time"

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
}

// Certificate is exactly one of PEM text and a reference. In JSON it is a
// string or an object.
type Certificate struct {
	PEM string
	Ref *Reference
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
