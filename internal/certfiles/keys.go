package certfiles

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	gopkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/pemtext"
)

// keyFits reports whether a text is the usable private key of a certificate.
func keyFits(text []byte, leaf *x509.Certificate) bool { return payload.CheckKey(text, leaf) == nil }

// parsePKCS12 reads a PKCS#12 file.
func (s *Scanner) parsePKCS12(data []byte, f *file) {
	if s.Passphrase == nil {
		f.kind = pkcs12
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

// PKCS12 returns the certificates and the private key of a PKCS#12 file as PEM. The leaf is the
// certificate that the key belongs to: .NET writes it after its issuers. Errors quote nothing.
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
	all := append([]*x509.Certificate{leaf}, cas...)
	at := slices.IndexFunc(all, func(c *x509.Certificate) bool { return payload.CheckKey(key, c) == nil })
	if at < 0 {
		clear(key)
		return nil, nil, errors.New("its private key does not match its certificate")
	}
	ders := [][]byte{all[at].Raw}
	for _, issuer := range slices.Delete(all, at, at+1) {
		ders = append(ders, issuer.Raw)
	}
	return pemtext.Encode(ders...), key, nil
}
