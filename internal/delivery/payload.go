package delivery

import (
	"crypto"
	"crypto/x509"
	"errors"
)

// attachment is one file of a mail.
type attachment struct {
	name        string // [A-Za-z0-9._-]
	contentType string
	about       string // what the file holds, for the mail's list
	data        []byte
}

// parseKey reads a PEM private key (PKCS#8, PKCS#1 or SEC 1) and checks that
// it is the key of leaf.
func parseKey(pem []byte, leaf *x509.Certificate) (crypto.PrivateKey, error) {
	return nil, payloadFailure("keys cannot be read yet", errors.ErrUnsupported)
}

// buildPayload makes the files that target t gets.
func buildPayload(t *Target, b *bundle, key []byte, passphrase []byte) ([]attachment, error) {
	return nil, payloadFailure("payloads cannot be made yet", errors.ErrUnsupported)
}
