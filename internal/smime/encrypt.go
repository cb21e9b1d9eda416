// Package smime encrypts a mail to the holders of certificates: CMS EnvelopedData (RFC 5652)
// with AES-256-CBC, as S/MIME 4.0 (RFC 8551) has every program read it. It is written here,
// because no library encrypts to elliptic curves and keeps its algorithms out of variables.
package smime

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidEnvelopedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}
	oidAES256CBC     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidOAEP          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}
	oidMGF1          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
)

// Tags of CMS.
var (
	explicit0 = cbasn1.Tag(0).ContextSpecific().Constructed()
	explicit1 = cbasn1.Tag(1).ContextSpecific().Constructed()
	explicit2 = cbasn1.Tag(2).ContextSpecific().Constructed()
	implicit0 = cbasn1.Tag(0).ContextSpecific()
)

// Options change how keys are encrypted.
type Options struct {
	// OAEP encrypts to RSA with OAEP and SHA-256 instead of PKCS #1 v1.5. Thunderbird and
	// OpenSSL's cms read it; older NSS, gpgsm and OpenSSL's smime do not.
	OAEP bool
}

// Usable returns why a mail cannot be encrypted to a certificate at that time, nil if it can.
// Readers open mails to expired certificates and to those that are only for signatures
// without complaint; not to use them is a rule of ours.
func Usable(c *x509.Certificate, o Options, now time.Time) error {
	if err := InDate(c, now); err != nil {
		return err
	}
	usage, name := x509.KeyUsageKeyEncipherment, "keyEncipherment"
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if fips140.Enforced() && !o.OAEP {
			return errors.New("encryption to RSA with PKCS #1 v1.5 is not possible with GODEBUG=fips140=only: set smime_oaep: true")
		}
		if bits := key.N.BitLen(); bits < 2048 {
			return fmt.Errorf("the certificate's RSA key has %d bits: at least 2048 are required", bits)
		}
	case *ecdsa.PublicKey:
		usage, name = x509.KeyUsageKeyAgreement, "keyAgreement"
		if kdfs[key.Curve.Params().Name].scheme == nil {
			return fmt.Errorf("the certificate's key is on the curve %s: want P-256, P-384 or P-521", key.Curve.Params().Name)
		}
	default:
		return errors.New("the certificate's key can only sign: want RSA, P-256, P-384 or P-521")
	}
	if c.KeyUsage != 0 && c.KeyUsage&usage == 0 {
		return errors.New("the certificate's key usage does not include " + name)
	}
	return ForMail(c)
}

// InDate returns why a certificate is not valid at a time, nil if it is.
func InDate(c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return errors.New("the certificate expired on " + c.NotAfter.UTC().Format(time.DateOnly))
	case now.Before(c.NotBefore):
		return errors.New("the certificate is not valid before " + c.NotBefore.UTC().Format(time.DateOnly))
	}
	return nil
}

// ForMail returns an error if a certificate is for other uses than e-mail alone.
func ForMail(c *x509.Certificate) error {
	if !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageEmailProtection) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) && len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 {
		return errors.New("the certificate is not for e-mail: its extended key usage does not include emailProtection")
	}
	return nil
}

// Encrypt returns the DER of an EnvelopedData with the content, which each of the recipients
// can decrypt. The caller has checked that they are Usable. It clears what it derives from
// the content, and not the content.
func Encrypt(recipients []*x509.Certificate, content []byte, o Options) ([]byte, error) {
	if len(recipients) == 0 {
		return nil, errors.New("there is no recipient")
	}
	key, iv := make([]byte, 32), make([]byte, aes.BlockSize)
	defer clear(key)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	if _, err := rand.Read(iv); err != nil {
		return nil, err
	}
	version := int64(0) // RFC 5652 section 6.1: 2 as soon as one recipient is not a KeyTransRecipientInfo of version 0
	var infos [][]byte
	for _, c := range recipients {
		var info []byte
		var err error
		switch public := c.PublicKey.(type) {
		case *rsa.PublicKey:
			info, err = transport(c, public, key, o)
		case *ecdsa.PublicKey:
			version = 2
			info, err = agreement(c, public, key)
		default:
			err = errors.New("the key can only sign")
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, bytes.Compare) // a SET OF is sorted (X.690 section 11.6)
	encrypted, err := encryptCBC(key, iv, content)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidEnvelopedData)
		b.AddASN1(explicit0, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(version)
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
					for _, info := range infos {
						b.AddBytes(info)
					}
				})
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidData)
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(oidAES256CBC)
						b.AddASN1OctetString(iv)
					})
					b.AddASN1(implicit0, func(b *cryptobyte.Builder) { b.AddBytes(encrypted) })
				})
			})
		})
	})
	return b.Bytes()
}

// encryptCBC encrypts with the padding of RFC 5652 section 6.3.
func encryptCBC(key, iv, content []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	pad := aes.BlockSize - len(content)%aes.BlockSize
	out := make([]byte, len(content)+pad)
	copy(out, content)
	for i := len(content); i < len(out); i++ {
		out[i] = byte(pad)
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, out)
	return out, nil
}

// identify adds the IssuerAndSerialNumber of a certificate.
func identify(b *cryptobyte.Builder, c *x509.Certificate) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(c.RawIssuer)
		b.AddASN1BigInt(c.SerialNumber)
	})
}

// transport returns the KeyTransRecipientInfo for an RSA key.
func transport(c *x509.Certificate, public *rsa.PublicKey, key []byte, o Options) ([]byte, error) {
	var encrypted []byte
	var err error
	if o.OAEP {
		encrypted, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, public, key, nil)
	} else {
		//lint:ignore SA1019 every mail program reads this; the attack on its padding needs one that tells what it found
		encrypted, err = rsa.EncryptPKCS1v15(rand.Reader, public, key)
	}
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		identify(b, c)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			if !o.OAEP {
				b.AddASN1ObjectIdentifier(oidRSA)
				b.AddASN1NULL()
				return
			}
			b.AddASN1ObjectIdentifier(oidOAEP)
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // RFC 4055 section 4.1
				b.AddASN1(explicit0, addSHA256)
				b.AddASN1(explicit1, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(oidMGF1)
						addSHA256(b)
					})
				})
			})
		})
		b.AddASN1OctetString(encrypted)
	})
	return b.Bytes()
}

func addSHA256(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSHA256)
		b.AddASN1NULL()
	})
}
