// Package payload builds the files that a delivery carries: it reads an event's certificates
// and private key, checks that they match, and packs them in the target's kind of payload.
// It does not depend on targets, secrets or mail. Its errors are *verdict.Failure with
// SMTP_PAYLOAD; their text never quotes the input.
package payload

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"

	"github.com/certpost/certpost/internal/legible"
)

// Content types are fixed here, not read from the system's MIME table. File names end
// in .pem and .p12, because Outlook blocks .cer, .crt and .der.
const (
	TypePEM    = "application/x-pem-file"
	typePKCS12 = "application/x-pkcs12"
)

// The kinds of payload.
const (
	PEM       = "pem"         // leaf and chain
	PEMAndKey = "pem_and_key" // and the private key, not encrypted
	PKCS12    = "pkcs12"      // leaf, chain and private key in one encrypted file
)

// The values of Settings.PKCS12Encoding.
const (
	Modern2023 = "modern2023"
	LegacyDES  = "legacydes"
)

// NeedsKey reports whether a kind of payload contains the private key.
func NeedsKey(kind string) bool { return kind == PEMAndKey || kind == PKCS12 }

// NeedsPassphrase reports whether a kind of payload is encrypted with a passphrase.
func NeedsPassphrase(kind string) bool { return kind == PKCS12 }

// Settings are a target's payload settings other than the kind.
type Settings struct {
	// PKCS12Encoding selects the encryption of a PKCS#12 file: modern2023 (default) or legacydes.
	PKCS12Encoding string
}

// Attachment is one file of a mail.
type Attachment struct {
	Name        string // [A-Za-z0-9._-]
	ContentType string
	About       string // what the file contains, for the list in the mail
	Data        []byte
}

// Build returns the files of one kind of payload, named after the certificate:
//
//	pem          <name>.pem      leaf and chain
//	pem_and_key  and also <name>.key.pem, the private key in PKCS#8
//	pkcs12       <name>.p12      leaf, chain and key, encrypted
//
// An empty kind is pem. key is the private key as PEM text, nil if the event has none.
// Build only reads key and passphrase; the caller clears them, and clears the attachments
// once they are in the mail. Errors are *verdict.Failure with SMTP_PAYLOAD.
func Build(kind string, s Settings, b *Bundle, key, passphrase []byte) ([]Attachment, error) {
	base := FileName(CertificateName(b.Leaf, 255))
	chain := Attachment{base + ".pem", TypePEM, "the certificate and its chain", b.PEM()}
	if kind == "" || kind == PEM {
		return []Attachment{chain}, nil
	}
	if !NeedsKey(kind) {
		return nil, payloadFailure(nil, "unknown payload %s; use pem, pem_and_key or pkcs12, then replay", legible.Clean(kind, 40))
	}
	if len(key) == 0 {
		return nil, payloadFailure(nil, "payload %s requires the private key, but the event has no private_key; publish the event again with private_key, or set payload: pem, then replay", kind)
	}
	private, err := parseKey(key, b.Leaf)
	if err != nil {
		return nil, err
	}
	if kind == PKCS12 {
		data, err := encodePKCS12(s.PKCS12Encoding, b, private, passphrase)
		if err != nil {
			return nil, err
		}
		return []Attachment{{base + ".p12", typePKCS12, "the certificate, its chain and the private key, encrypted (PKCS#12)", data}}, nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, payloadFailure(nil, "the private key cannot be encoded as PKCS#8")
	}
	defer clear(der)
	var out bytes.Buffer
	out.Grow(2*len(der) + 128) // growing later would leave copies of the key in memory
	if err := pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		return nil, payloadFailure(nil, "the private key cannot be encoded as PEM")
	}
	return []Attachment{chain, {base + ".key.pem", TypePEM, "the private key, not encrypted (PKCS#8)", out.Bytes()}}, nil
}
