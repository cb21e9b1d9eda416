package devrelay

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"software.sslmate.com/src/go-pkcs12"
)

// CertificateFiles name the files of a certificate. What they contain decides how they are
// read, not their names.
type CertificateFiles struct {
	// Cert is PEM or DER with the certificate and its issuers, or PKCS#12 (.pfx, .p12)
	// with the key as well.
	Cert string
	// Key is the private key, PEM or DER, not encrypted. When empty it is in Cert.
	Key string
	// Passphrase opens a PKCS#12 file; it may be empty.
	Passphrase string
}

// served is the certificate that a relay serves. Each handshake looks at the files, and
// changed ones are loaded; if they cannot be used, the former certificate stays.
type served struct {
	files CertificateFiles
	log   func(string)

	mu     sync.Mutex
	seen   []os.FileInfo    // of the files at the last attempt to load them; guarded by mu
	loaded *tls.Certificate // guarded by mu
}

func newServed(files CertificateFiles, log func(string)) (*served, error) {
	s := &served{files: files, log: log}
	var err error
	if s.seen, err = s.stat(); err != nil {
		return nil, fmt.Errorf("the demo relay's certificate: %w", err)
	}
	if s.loaded, err = files.load(); err != nil {
		return nil, fmt.Errorf("the demo relay's certificate: %w", err)
	}
	return s, nil
}

// current returns the certificate for a handshake.
func (s *served) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, err := s.stat()
	if err != nil || slices.EqualFunc(now, s.seen, same) {
		return s.loaded, nil // a file that is away is about to come back
	}
	s.seen = now
	fresh, err := s.files.load()
	if err != nil {
		s.log("the new certificate is not used, the former one stays: " + err.Error())
		return s.loaded, nil
	}
	s.loaded = fresh
	s.log("loaded the new certificate")
	return s.loaded, nil
}

func (s *served) stat() (list []os.FileInfo, err error) {
	for _, path := range []string{s.files.Cert, s.files.Key} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		list = append(list, info)
	}
	return list, nil
}

// same reports whether a file is the same one, with the same content as far as can be seen.
func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// load reads the files. The leaf is the certificate that the key belongs to, wherever it
// stands: .NET writes it after its issuers. Errors quote nothing of the files.
func (f CertificateFiles) load() (*tls.Certificate, error) {
	text, err := os.ReadFile(f.Cert)
	if err != nil {
		return nil, err
	}
	chain, key, err := f.certificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Cert, err)
	}
	source := f.Cert
	switch {
	case key != nil && f.Key != "":
		return nil, fmt.Errorf("%s has a private key already: leave out the key's own file", f.Cert)
	case key == nil:
		if f.Key != "" {
			source = f.Key
			if text, err = os.ReadFile(f.Key); err != nil {
				return nil, err
			}
		}
		if key, err = privateKey(text); err != nil {
			return nil, fmt.Errorf("%s: %w", source, err)
		}
	}
	leaf := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return belongs(key, c) })
	if leaf < 0 {
		return nil, fmt.Errorf("the private key in %s belongs to no certificate in %s", source, f.Cert)
	}
	loaded := &tls.Certificate{PrivateKey: key, Leaf: chain[leaf], Certificate: [][]byte{chain[leaf].Raw}}
	// Issuers in the order in which clients expect them; a root need not be sent.
	for at, n := chain[leaf], 0; n < len(chain); n++ {
		i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return c != at && bytes.Equal(c.RawSubject, at.RawIssuer) })
		if i < 0 || bytes.Equal(chain[i].RawSubject, chain[i].RawIssuer) {
			break
		}
		at = chain[i]
		loaded.Certificate = append(loaded.Certificate, at.Raw)
	}
	return loaded, nil
}

// certificates reads PEM, DER or PKCS#12. The key is nil unless it is PKCS#12.
func (f CertificateFiles) certificates(text []byte) ([]*x509.Certificate, crypto.Signer, error) {
	if bytes.Contains(text, []byte("-----BEGIN ")) {
		var chain []*x509.Certificate
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "CERTIFICATE" {
				continue
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("certificate %d cannot be parsed", len(chain)+1)
			}
			chain = append(chain, c)
		}
		if len(chain) == 0 {
			return nil, nil, errors.New("it is PEM without a certificate")
		}
		return chain, nil, nil
	}
	if chain, err := x509.ParseCertificates(text); err == nil && len(chain) > 0 {
		return chain, nil, nil
	}
	key, first, others, err := pkcs12.DecodeChain(text, f.Passphrase)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return nil, nil, errors.New("the passphrase does not open this PKCS#12 file")
	case err != nil:
		return nil, nil, errors.New("it is neither PEM nor DER, nor PKCS#12 with one private key and its certificate")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, errors.New("its private key cannot sign")
	}
	return append([]*x509.Certificate{first}, others...), signer, nil
}

// privateKey reads a private key from PEM, where other blocks may stand, or DER: PKCS#8,
// PKCS#1 or SEC 1.
func privateKey(text []byte) (crypto.Signer, error) {
	der := text
	if bytes.Contains(text, []byte("-----BEGIN ")) {
		der = nil
		for block, rest := pem.Decode(text); block != nil && der == nil; block, rest = pem.Decode(rest) {
			switch {
			case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
				return nil, errors.New("the private key is encrypted; `openssl pkey -in FILE -out FILE` decrypts it")
			case strings.HasSuffix(block.Type, "PRIVATE KEY"):
				der = block.Bytes
			}
		}
		if der == nil {
			return nil, errors.New("it has no private key")
		}
	}
	var signer crypto.Signer
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		signer, _ = key.(crypto.Signer)
	} else if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		signer = key
	} else if key, err := x509.ParseECPrivateKey(der); err == nil {
		signer = key
	}
	if signer == nil {
		return nil, errors.New("it has no private key that can be read (PKCS#8, PKCS#1 or SEC 1, not encrypted)")
	}
	return signer, nil
}

// belongs reports whether a key is that of a certificate.
func belongs(key crypto.Signer, c *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}
