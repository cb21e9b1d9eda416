package certfiles

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	gopkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/pemtext"
)

// keyFits reports whether a text is the usable private key of a certificate.
func keyFits(text []byte, leaf *x509.Certificate) bool { return payload.CheckKey(text, leaf) == nil }

// parsePKCS12 reads a PKCS#12 file.
func (s *Scanner) parsePKCS12(data []byte, f *file) {
	if s.Passphrase == nil {
		return
	}
	passphrase, err := s.Passphrase()
	if err != nil {
		f.err = fmt.Errorf("the passphrase of PKCS#12 files: %w", err)
		return
	}
	defer clear(passphrase)
	text, key, err := PKCS12(data, string(passphrase))
	if err != nil {
		f.err = err
		return
	}
	clear(key)
	if f.take(text); f.kind == certificate {
		f.kind = pkcs12
	}
}

// PKCS12 returns the certificates and the private key of a PKCS#12 file as PEM. Its errors
// quote nothing.
func PKCS12(data []byte, passphrase string) (chain, key []byte, err error) {
	private, leaf, cas, err := gopkcs12.DecodeChain(data, passphrase)
	if errors.Is(err, gopkcs12.ErrIncorrectPassword) {
		return nil, nil, errors.New("the passphrase does not open this PKCS#12 file")
	}
	if err != nil {
		return nil, nil, errors.New("it cannot be read as PKCS#12 with one certificate and its key")
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, errors.New("its private key has an unsupported type")
	}
	defer clear(der)
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if payload.CheckKey(key, leaf) != nil {
		clear(key)
		return nil, nil, errors.New("its private key does not match its certificate")
	}
	ders := [][]byte{leaf.Raw}
	for _, ca := range cas {
		ders = append(ders, ca.Raw)
	}
	return pemtext.Encode(ders...), key, nil
}
