package payload

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/oddities"
	"github.com/certpost/certpost/internal/pemtext"
)

// maxKey is cert-manager's limit for a private key since CVE-2024-12401, in
// bytes of PEM; an RSA key of 16,384 bits fits.
const maxKey = 13_000

// CheckKey returns why a private key cannot be delivered with a certificate: text is not a usable key
// in PEM, or the key of another certificate. Errors quote nothing of the text.
func CheckKey(text []byte, leaf *x509.Certificate) error {
	_, err := parseKey(text, leaf)
	return err
}

// readKeyText reads the blocks of a text with a private key; done, which is to be called also
// after an error, overwrites them.
func readKeyText(text []byte) (blocks []pemtext.Block, done func(), err error) {
	if len(text) > maxKey {
		return nil, func() {}, payloadFailure(nil, "the private key has %d bytes, the limit is %d", len(text), maxKey)
	}
	blocks, err = pemtext.Read(text)
	done = func() {
		for _, block := range blocks {
			clear(block.DER)
		}
	}
	if err != nil {
		return nil, done, payloadFailure(nil, "the private key cannot be used: %s", err)
	}
	return blocks, done, nil
}

// keyToPEM returns a private key in PKCS#8 as PEM.
func keyToPEM(der []byte) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(2*len(der) + 128) // growing later would leave copies of the key in memory
	if err := pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		return nil, payloadFailure(nil, "the private key cannot be encoded as PEM")
	}
	return out.Bytes(), nil
}

// parseKey reads a private key in PEM (PKCS#8, PKCS#1 or SEC 1, whichever its label
// claims; not encrypted, see DecryptKey) and checks that it is the key of leaf. Certificates in the same text are
// ignored: HAProxy's files have them. Errors quote nothing of the text.
func parseKey(text []byte, leaf *x509.Certificate) (crypto.PrivateKey, error) {
	blocks, done, err := readKeyText(text)
	defer done()
	if err != nil {
		return nil, err
	}

	var found []pemtext.Block
	for _, block := range blocks {
		switch {
		case block.Kind == encryptedKey:
			return nil, payloadFailure(nil, "the private key is encrypted; set the target's private_key_passphrase, or store the key decrypted (`openssl pkey`) in the secret store, which protects it, then replay")
		case block.Encrypted:
			return nil, payloadFailure(nil, "the private key is encrypted in the old form of OpenSSL, with a header in the PEM text, which Certpost does not read; "+convertKey)
		case block.Kind == "OPENSSH PRIVATE KEY":
			return nil, payloadFailure(nil, "the private key is in OpenSSH format; convert it with `ssh-keygen -p -m PKCS8`, then replay")
		case block.Kind == "PRIVATE KEY" || block.Kind == "RSA PRIVATE KEY" || block.Kind == "EC PRIVATE KEY":
			found = append(found, block)
		case strings.HasSuffix(block.Kind, "PRIVATE KEY"):
			return nil, payloadFailure(nil, "the private key has an unsupported type (%s); use RSA, ECDSA or Ed25519", block.Kind)
		}
	}
	switch {
	case len(found) == 0:
		return nil, payloadFailure(nil, "the event's private_key contains no private key, only %s; fix the stored key or the reference, then replay", kinds(blocks))
	case len(found) > 1:
		return nil, payloadFailure(nil, "the event's private_key contains %d private keys, and exactly one is required", len(found))
	}
	key := decodeKey(found[0].DER)
	if odd := oddities.Key(found[0].DER); key == nil && odd != "" {
		return nil, payloadFailure(nil, "the private key is %s, then replay", odd)
	}
	if key == nil {
		return nil, payloadFailure(nil, "the private key is damaged or has an unsupported type; store it as RSA, ECDSA or Ed25519 in PKCS#8, PKCS#1 or SEC 1, then replay")
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

func kinds(blocks []pemtext.Block) string {
	var names []string
	for _, block := range blocks {
		if !slices.Contains(names, block.Kind) {
			names = append(names, block.Kind)
		}
	}
	return legible.Clean(strings.Join(names, ", "), 120)
}
