// Package payload makes what a delivery carries: it reads an event's certificates and
// private key, checks that they belong together, and packs them as the files of a target's
// kind of payload. It knows no targets, no secrets and no mail. Its errors are
// *verdict.Failure with SMTP_PAYLOAD, in words of our own that quote no input.
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

// Content types are ours, not the system's mime table's. Names end in .pem and
// .p12, because Outlook blocks .cer, .crt and .der.
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

// NeedsKey reports whether a kind of payload holds the private key.
func NeedsKey(kind string) bool { return kind == PEMAndKey || kind == PKCS12 }

// NeedsPassphrase reports whether a kind of payload is encrypted with a passphrase.
func NeedsPassphrase(kind string) bool { return kind == PKCS12 }

// Settings are what a target says about its payload beside the kind.
type Settings struct {
	// PKCS12Encoding is how a PKCS#12 file is encrypted; empty means modern2023.
	PKCS12Encoding string
}

// maxKey is cert-manager's bound on a private key since CVE-2024-12401, in
// bytes of PEM: an RSA key of 16,384 bits fits.
const maxKey = 13_000

// Attachment is one file of a mail.
type Attachment struct {
	Name        string // [A-Za-z0-9._-]
	ContentType string
	About       string // what the file holds, for the mail's list
	Data        []byte
}

// Build makes the files of one kind of payload, named after the certificate:
//
//	pem          <name>.pem      leaf and chain
//	pem_and_key  and also <name>.key.pem, the private key in PKCS#8
//	pkcs12       <name>.p12      leaf, chain and key, encrypted
//
// An empty kind is pem. key is the private key's PEM text, nil when the event names none.
// Key and passphrase are only read; the caller clears them, and the attachments once
// they are in the mail. Errors are *verdict.Failure with SMTP_PAYLOAD.
func Build(kind string, s Settings, b *Bundle, key, passphrase []byte) ([]Attachment, error) {
	base := FileName(CertificateName(b.Leaf, 255))
	chain := Attachment{base + ".pem", TypePEM, "the certificate and its chain", b.PEM()}
	if kind == "" || kind == PEM {
		return []Attachment{chain}, nil
	}
	if !NeedsKey(kind) {
		return nil, payloadFailure(nil, "payload %s is not one that this program can make", legible.Clean(kind, 40))
	}
	if len(key) == 0 {
		return nil, payloadFailure(nil, "payload %s needs the private key, and the event names none; add private_key to the event or use payload pem", kind)
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
		return nil, payloadFailure(nil, "the private key cannot be written as PKCS#8")
	}
	defer clear(der)
	var out bytes.Buffer
	out.Grow(2*len(der) + 128) // growing would leave copies of the key behind
	if err := pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		return nil, payloadFailure(nil, "the private key cannot be written as PEM")
	}
	return []Attachment{chain, {base + ".key.pem", TypePEM, "the private key, not encrypted (PKCS#8)", out.Bytes()}}, nil
}

// parseKey reads a private key in PEM (PKCS#8, PKCS#1 or SEC 1, whatever its
// label says) and checks that it is the key of leaf. Certificates beside the
// key are ignored, as files for HAProxy have them. No error holds anything of the text.
func parseKey(text []byte, leaf *x509.Certificate) (crypto.PrivateKey, error) {
	if len(text) > maxKey {
		return nil, payloadFailure(nil, "the private key has %d bytes; more than %d are not read", len(text), maxKey)
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
			return nil, payloadFailure(nil, "the private key is encrypted; store it decrypted (`openssl pkey`), the secret store protects it")
		case block.kind == "OPENSSH PRIVATE KEY":
			return nil, payloadFailure(nil, "the private key is in OpenSSH's format; convert it with `ssh-keygen -p -m PKCS8`")
		case block.kind == "PRIVATE KEY" || block.kind == "RSA PRIVATE KEY" || block.kind == "EC PRIVATE KEY":
			found = append(found, block)
		case strings.HasSuffix(block.kind, "PRIVATE KEY"):
			return nil, payloadFailure(nil, "the private key is of an unknown kind (%s); certificates have RSA, ECDSA or Ed25519 keys", block.kind)
		}
	}
	switch {
	case len(found) == 0:
		return nil, payloadFailure(nil, "there is no private key under the event's private_key: it holds %s", kinds(blocks))
	case len(found) > 1:
		return nil, payloadFailure(nil, "there are %d private keys under the event's private_key, and it has to be one", len(found))
	}
	key := decodeKey(found[0].der)
	if key == nil {
		return nil, payloadFailure(nil, "the private key is of an unknown kind or damaged: it is none of RSA, ECDSA and Ed25519 in PKCS#8, PKCS#1 or SEC 1")
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return nil, payloadFailure(nil, "the private key does not match the certificate %s: it is another key", ShortName(leaf))
	}
	return key, nil
}

// decodeKey tries the three encodings; parsers' errors may quote their input,
// so there is a key or nil.
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
		return nil // X25519 and the like: no certificate has them
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

// encodePKCS12 packs key and certificates, and opens the result once, because
// the encoder checks nothing of it.
func encodePKCS12(encoding string, b *Bundle, key crypto.PrivateKey, passphrase []byte) ([]byte, error) {
	encoder := pkcs12.Modern2023
	switch encoding {
	case "", Modern2023:
	case LegacyDES:
		encoder = pkcs12.LegacyDES
	default:
		return nil, payloadFailure(nil, "pkcs12_encoding %s is not one that this program can make", legible.Clean(encoding, 40))
	}
	if fips140.Enforced() {
		// SHA-1 makes the local key id of every PKCS#12 file, and panics here.
		return nil, payloadFailure(nil, "a PKCS#12 file cannot be made with GODEBUG=fips140=only, because the format needs SHA-1; use fips140=on or another payload")
	}
	if err := checkPassphrase(passphrase); err != nil {
		return nil, payloadFailure(nil, "%s", err)
	}
	data, err := encoder.Encode(key, b.Leaf, b.Chain, string(passphrase))
	if err != nil {
		return nil, payloadFailure(nil, "the PKCS#12 file cannot be made with this key (%s)", KeyKind(b.Leaf))
	}
	gotKey, leaf, chain, err := pkcs12.DecodeChain(data, string(passphrase))
	same, ok := gotKey.(interface{ Equal(crypto.PrivateKey) bool })
	if err != nil || !ok || !same.Equal(key) || !leaf.Equal(b.Leaf) || !slices.EqualFunc(chain, b.Chain, (*x509.Certificate).Equal) {
		return nil, payloadFailure(nil, "the PKCS#12 file does not hold what was put into it, so it was not sent; this is a fault of this program")
	}
	return data, nil
}

// checkPassphrase keeps to what every reader of PKCS#12 takes: Java 17 cannot
// open a file whose passphrase is not ASCII, and an empty one is none.
func checkPassphrase(passphrase []byte) error {
	if len(bytes.TrimSpace(passphrase)) == 0 {
		return errors.New("pkcs12_passphrase is empty")
	}
	for _, c := range passphrase {
		if c < ' ' || c > '~' {
			return errors.New("pkcs12_passphrase has a character that is not printable ASCII (a line break, perhaps); some programs could not open the file")
		}
	}
	return nil
}
