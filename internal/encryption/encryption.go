// Package encryption encrypts what a mail carries to its recipients: a whole mail as S/MIME
// or PGP/MIME, or single files with age. No passphrase has to travel then. It knows keys and
// bytes, not targets, secrets or relays.
package encryption

import (
	"bytes"
	"crypto/fips140"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/certpost/certpost/internal/smime"
)

// The kinds of encryption.
const (
	None    = "none"
	SMIME   = "smime"   // the whole mail (RFC 8551)
	OpenPGP = "openpgp" // the whole mail (RFC 3156)
	Age     = "age"     // each file (age-encryption.org/v1)
)

// Options change how is encrypted.
type Options struct {
	// OAEP is smime.Options.OAEP; the other kinds ignore it.
	OAEP bool
}

// Key is the public key of one recipient, for one kind of encryption.
type Key struct {
	kind        string
	certificate *x509.Certificate // smime
	entity      *openpgp.Entity   // openpgp
	recipients  []age.Recipient   // age: one for each device of the recipient
	about       string
}

// String describes the key for people: its kind and what identifies it.
func (k *Key) String() string { return k.about }

// Expires returns when the key cannot be used any more; zero if it does not expire.
func (k *Key) Expires() time.Time {
	switch k.kind {
	case SMIME:
		return k.certificate.NotAfter
	case OpenPGP:
		return pgpExpiry(k.entity)
	}
	return time.Time{}
}

// Usable returns why nothing can be encrypted to the key at that time, nil if it can. The
// error begins with "the certificate" or "the key".
func (k *Key) Usable(o Options, now time.Time) error {
	switch k.kind {
	case SMIME:
		return smime.Usable(k.certificate, smime.Options{OAEP: o.OAEP}, now)
	case OpenPGP:
		return pgpUsable(k.entity, now)
	}
	return nil
}

// Names returns the addresses that the key itself names; none if it names none, as age's.
func (k *Key) Names() []string {
	switch k.kind {
	case SMIME:
		return k.certificate.EmailAddresses
	case OpenPGP:
		var all []string
		for _, id := range k.entity.Identities {
			if id.UserId != nil && id.UserId.Email != "" {
				all = append(all, id.UserId.Email)
			}
		}
		return all
	}
	return nil
}

// FIPSProblem returns why a kind cannot be used with GODEBUG=fips140=only, or "": its
// library would panic or run for ever.
func FIPSProblem(kind string) string {
	if fips140.Enforced() && (kind == OpenPGP || kind == Age) {
		return "cannot be used with GODEBUG=fips140=only: want smime, with smime_oaep: true for RSA"
	}
	return ""
}

// Encrypt returns the content, encrypted so that each of the keys opens it: DER for smime, an
// armored message for openpgp, an age file for age. The caller has checked that the keys are
// Usable, and clears the content.
func Encrypt(keys []*Key, content []byte, o Options, now time.Time) ([]byte, error) {
	if len(keys) == 0 {
		return nil, errors.New("there is no key to encrypt to")
	}
	switch keys[0].kind {
	case SMIME:
		var to []*x509.Certificate
		for _, k := range keys {
			to = append(to, k.certificate)
		}
		return smime.Encrypt(to, content, smime.Options{OAEP: o.OAEP})
	case OpenPGP:
		return encryptPGP(keys, content, now)
	case Age:
		return encryptAge(keys, content)
	}
	return nil, fmt.Errorf("unknown encryption %s", keys[0].kind)
}

func encryptPGP(keys []*Key, content []byte, now time.Time) ([]byte, error) {
	var to []*openpgp.Entity
	for _, k := range keys {
		to = append(to, k.entity)
	}
	var out bytes.Buffer
	text, err := armor.Encode(&out, "PGP MESSAGE", nil)
	if err != nil {
		return nil, err
	}
	// The content is compressed already, or too small to gain from it.
	config := &packet.Config{Time: func() time.Time { return now }, DefaultCipher: packet.CipherAES256, DefaultCompressionAlgo: packet.CompressionNone}
	plain, err := openpgp.Encrypt(text, to, nil, &openpgp.FileHints{IsBinary: true, ModTime: now}, config)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(writeAll(plain, content), text.Close()); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func encryptAge(keys []*Key, content []byte) ([]byte, error) {
	var to []age.Recipient
	for _, k := range keys {
		to = append(to, k.recipients...)
	}
	var out bytes.Buffer
	plain, err := age.Encrypt(&out, to...)
	if err != nil {
		return nil, err
	}
	if err := writeAll(plain, content); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func writeAll(w io.WriteCloser, content []byte) error {
	_, err := w.Write(content)
	return errors.Join(err, w.Close())
}
