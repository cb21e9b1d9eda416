package smime

import (
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"hash"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidEC         = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidAES256Wrap = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 45}
)

// kdfs has, by curve, the key agreement that RFC 5753 section 7.1.4 pairs with it: standard
// ECDH with the X9.63 derivation over that hash.
var kdfs = map[string]struct {
	scheme asn1.ObjectIdentifier
	hash   func() hash.Hash
}{
	"P-256": {asn1.ObjectIdentifier{1, 3, 132, 1, 11, 1}, sha256.New},
	"P-384": {asn1.ObjectIdentifier{1, 3, 132, 1, 11, 2}, sha512.New384},
	"P-521": {asn1.ObjectIdentifier{1, 3, 132, 1, 11, 3}, sha512.New},
}

// agreement returns the KeyAgreeRecipientInfo for a key on a curve (RFC 5753 section 3.1.1):
// a key pair for this mail alone, the secret that it and the recipient's share, and the
// content's key wrapped with a key derived from that.
func agreement(c *x509.Certificate, public *ecdsa.PublicKey, key []byte) ([]byte, error) {
	kdf, ok := kdfs[public.Curve.Params().Name]
	if !ok {
		return nil, errors.New("the key is on a curve that cannot be used")
	}
	theirs, err := public.ECDH()
	if err != nil {
		return nil, err
	}
	ours, err := theirs.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	shared, err := ours.ECDH(theirs)
	if err != nil {
		return nil, err
	}
	defer clear(shared)
	info, err := sharedInfo()
	if err != nil {
		return nil, err
	}
	wrapping := deriveX963(kdf.hash, shared, info)
	defer clear(wrapping)
	wrapped, err := wrap(wrapping, key)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(explicit1, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(3)
		b.AddASN1(explicit0, func(b *cryptobyte.Builder) {
			b.AddASN1(explicit1, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidEC) })
				b.AddASN1BitString(ours.PublicKey().Bytes())
			})
		})
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(kdf.scheme)
			addWrapAlgorithm(b)
		})
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				identify(b, c)
				b.AddASN1OctetString(wrapped)
			})
		})
	})
	return b.Bytes()
}

func addWrapAlgorithm(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidAES256Wrap) }) // no parameters (RFC 3565)
}

// sharedInfo is the ECC-CMS-SharedInfo of RFC 5753 section 7.2: the algorithm and the length
// in bits of the key that is derived.
func sharedInfo() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addWrapAlgorithm(b)
		b.AddASN1(explicit2, func(b *cryptobyte.Builder) {
			b.AddASN1OctetString(binary.BigEndian.AppendUint32(nil, 256))
		})
	})
	return b.Bytes()
}

// deriveX963 derives a key of 32 bytes (SEC 1 section 3.6.1). One round suffices, because
// each of the hashes is as long as that, or longer.
func deriveX963(hash func() hash.Hash, shared, info []byte) []byte {
	h := hash()
	h.Write(shared)
	h.Write([]byte{0, 0, 0, 1})
	h.Write(info)
	return h.Sum(nil)[:32]
}

// wrap wraps a key whose length is a multiple of 8 (RFC 3394 section 2.2.1).
func wrap(wrapping, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(wrapping)
	if err != nil {
		return nil, err
	}
	const half = 8
	n := len(key) / half
	out := make([]byte, half+len(key))
	copy(out[half:], key)
	var b [aes.BlockSize]byte
	a := b[:half]
	for i := range a {
		a[i] = 0xa6
	}
	for j := range 6 {
		for i := 1; i <= n; i++ {
			r := out[i*half : (i+1)*half]
			copy(b[half:], r)
			block.Encrypt(b[:], b[:])
			copy(r, b[half:])
			subtle.XORBytes(a, a, binary.BigEndian.AppendUint64(nil, uint64(n*j+i)))
		}
	}
	copy(out, a)
	clear(b[half:])
	return out, nil
}
