// Package payload builds the files that a delivery carries: it reads an event's certificates
// and private key, checks that they match, and packs them in the target's kind of payload.
// It does not depend on targets, secrets or mail. Its errors are *verdict.Failure with
// SMTP_PAYLOAD; their text never quotes the input.
package payload

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/legible"
	"software.sslmate.com/src/go-pkcs12"
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

// maxKey is cert-manager's limit for a private key since CVE-2024-12401, in
// bytes of PEM; an RSA key of 16,384 bits fits.
const maxKey = 13_000

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

// parseKey reads a private key in PEM (PKCS#8, PKCS#1 or SEC 1, whichever its label
// claims) and checks that it is the key of leaf. Certificates in the same text are
// ignored: HAProxy's files have them. Errors quote nothing of the text.
func parseKey(text []byte, leaf *x509.Certificate) (crypto.PrivateKey, error) {
	if len(text) > maxKey {
		return nil, payloadFailure(nil, "the private key has %d bytes; the limit is %d", len(text), maxKey)
	}
	blocks, err := readPEM(text)
	if err != nil {
		return nil, payloadFailure(nil, "the private key cannot be used: %s", err)
	}
	defer func() {
		for _, block := range blocks {
			clear(block.der)
		}
	}()

	var found []pemBlock
	for _, block := range blocks {
		switch {
		case block.kind == "ENCRYPTED PRIVATE KEY" || block.encrypted:
			return nil, payloadFailure(nil, "the private key is encrypted; decrypt it (`openssl pkey`) and store it in the secret store, which protects it, then replay")
		case block.kind == "OPENSSH PRIVATE KEY":
			return nil, payloadFailure(nil, "the private key is in OpenSSH format; convert it with `ssh-keygen -p -m PKCS8`, then replay")
		case block.kind == "PRIVATE KEY" || block.kind == "RSA PRIVATE KEY" || block.kind == "EC PRIVATE KEY":
			found = append(found, block)
		case strings.HasSuffix(block.kind, "PRIVATE KEY"):
			return nil, payloadFailure(nil, "the private key has an unsupported type (%s); use RSA, ECDSA or Ed25519", block.kind)
		}
	}
	switch {
	case len(found) == 0:
		return nil, payloadFailure(nil, "the event's private_key contains no private key, only %s; fix the stored key or the reference, then replay", kinds(blocks))
	case len(found) > 1:
		return nil, payloadFailure(nil, "the event's private_key contains %d private keys; exactly one is required", len(found))
	}
	key := decodeKey(found[0].der)
	if key == nil {
		return nil, payloadFailure(nil, "the private key is damaged or has an unsupported type; it must be RSA, ECDSA or Ed25519 in PKCS#8, PKCS#1 or SEC 1")
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return nil, payloadFailure(nil, "the private key does not match the certificate %s; store the key of this certificate, then replay", ShortName(leaf))
	}
	return key, nil
}

// decodeKey tries the three encodings and returns nil if none fits. It returns no
// error, because the parsers' errors may quote their input.
func decodeKey(der []byte) crypto.Signer {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		switch key := key.(type) {
		case *rsa.PrivateKey:
			return key
		case *ecdsa.PrivateKey:
			return key
		case ed25519.PrivateKey:
			return key
		}
		return nil // X25519 and similar: never the key of a certificate
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key
	}
	return nil
}

func kinds(blocks []pemBlock) string {
	var names []string
	for _, block := range blocks {
		if !slices.Contains(names, block.kind) {
			names = append(names, block.kind)
		}
	}
	return legible.Clean(strings.Join(names, ", "), 120)
}

// encodePKCS12 packs key and certificates. The caller has checked that they belong together.
// The result is not read back, because that costs more than the encoding: the passphrase is
// stretched again for each part. That the encoder writes what it is given, for every kind of
// key that Build takes, is for tests and their independent readers to prove.
func encodePKCS12(encoding string, b *Bundle, key crypto.PrivateKey, passphrase []byte) ([]byte, error) {
	encoder := pkcs12.Modern2023
	switch encoding {
	case "", Modern2023:
	case LegacyDES:
		encoder = pkcs12.LegacyDES
	default:
		return nil, payloadFailure(nil, "unknown pkcs12_encoding %s; use modern2023 or legacydes, then replay", legible.Clean(encoding, 40))
	}
	if fips140.Enforced() {
		// The local key id of every PKCS#12 file is a SHA-1 hash, and SHA-1 panics in this mode.
		return nil, payloadFailure(nil, "a PKCS#12 file cannot be created with GODEBUG=fips140=only, because the format requires SHA-1; use fips140=on or another payload, then replay")
	}
	if err := checkPassphrase(passphrase); err != nil {
		return nil, payloadFailure(nil, "%s", err)
	}
	data, err := encoder.Encode(key, b.Leaf, b.Chain, string(passphrase))
	if err != nil {
		return nil, payloadFailure(nil, "the PKCS#12 file cannot be created with this key (%s)", KeyKind(b.Leaf))
	}
	return data, nil
}

// checkPassphrase accepts only passphrases that every PKCS#12 reader supports: Java 17
// cannot open a file whose passphrase is not ASCII. Empty or blank ones are refused.
func checkPassphrase(passphrase []byte) error {
	if len(bytes.TrimSpace(passphrase)) == 0 {
		return errors.New("pkcs12_passphrase is empty; set it, then replay")
	}
	for _, c := range passphrase {
		if c < ' ' || c > '~' {
			return errors.New("pkcs12_passphrase has a character that is not printable ASCII (perhaps a line break), so some programs could not open the file; change it, then replay")
		}
	}
	return nil
}
