package payload

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // reads keys that others have encrypted
	"crypto/fips140"
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // the default of PBKDF2 in RFC 8018
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"hash"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/scrypt"

	"github.com/certpost/certpost/internal/pemtext"
)

// Limits of the work to decrypt a key: whoever encrypts it chooses the cost. OpenSSL's own
// number of iterations is 2,048, its limit for the memory of scrypt the same as here.
const (
	maxKeyIterations = 2_000_000
	maxScryptMemory  = 32 << 20 // bytes
	maxScryptLanes   = 16
)

// ErrWrongPassphrase says that a key cannot be decrypted with a passphrase. A damaged key gives
// the same error: nothing tells the two apart.
var ErrWrongPassphrase = errors.New("the passphrase is wrong, or the key is damaged")

const encryptedKey = "ENCRYPTED PRIVATE KEY"

// KeyIsEncrypted reports whether a text has an encrypted PKCS#8 key in PEM, which DecryptKey
// reads.
func KeyIsEncrypted(text []byte) bool {
	if len(text) > maxKey {
		return false
	}
	blocks, err := pemtext.Read(text)
	for _, block := range blocks {
		clear(block.DER)
	}
	return err == nil && slices.ContainsFunc(blocks, func(b pemtext.Block) bool { return b.Kind == encryptedKey })
}

// DecryptKey returns the private key of a text with an encrypted PKCS#8 key as PEM in PKCS#8,
// not encrypted: PBES2 (RFC 8018) with PBKDF2 or scrypt (RFC 7914), and AES or 3DES in CBC
// mode. Errors are *verdict.Failure with SMTP_PAYLOAD, or ErrWrongPassphrase; they quote nothing.
func DecryptKey(text, passphrase []byte) ([]byte, error) {
	blocks, done, err := readKeyText(text)
	defer done()
	if err != nil {
		return nil, err
	}
	for _, block := range blocks {
		if block.Kind != encryptedKey {
			continue
		}
		der, err := decryptPKCS8(block.DER, passphrase)
		if err != nil {
			return nil, err
		}
		defer clear(der)
		return keyToPEM(der)
	}
	return nil, payloadFailure(nil, "the event's private_key contains no encrypted private key, only %s", kinds(blocks))
}

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
)

// prfs are the pseudorandom functions of PBKDF2, HMAC with these hashes.
var prfs = map[string]func() hash.Hash{
	"1.2.840.113549.2.7": sha1.New, "1.2.840.113549.2.8": sha256.New224, "1.2.840.113549.2.9": sha256.New,
	"1.2.840.113549.2.10": sha512.New384, "1.2.840.113549.2.11": sha512.New,
}

// blockCipher is an encryption scheme of PBES2, in CBC mode.
type blockCipher struct {
	keySize int
	new     func(key []byte) (cipher.Block, error)
}

var blockCiphers = map[string]blockCipher{
	"2.16.840.1.101.3.4.1.2": {16, aes.NewCipher}, "2.16.840.1.101.3.4.1.22": {24, aes.NewCipher}, "2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
	"1.2.840.113549.3.7": {24, des.NewTripleDESCipher},
}

const convertKey = "convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc`, then replay"

// decryptPKCS8 decrypts an EncryptedPrivateKeyInfo (RFC 5958 section 3).
func decryptPKCS8(der, passphrase []byte) ([]byte, error) {
	damaged := payloadFailure(nil, "the encrypted private key is damaged; store it again, then replay")
	input := cryptobyte.String(der)
	var info, algorithm, sealed cryptobyte.String
	if !input.ReadASN1(&info, cbasn1.SEQUENCE) || !input.Empty() || !info.ReadASN1(&algorithm, cbasn1.SEQUENCE) || !info.ReadASN1(&sealed, cbasn1.OCTET_STRING) {
		return nil, damaged
	}
	var scheme, kdfOID, cipherOID asn1.ObjectIdentifier
	var params, kdf, encryption, iv cryptobyte.String
	if !algorithm.ReadASN1ObjectIdentifier(&scheme) {
		return nil, damaged
	}
	if !scheme.Equal(oidPBES2) {
		return nil, payloadFailure(nil, "the private key is encrypted in an outdated way (%s), not with PBES2; "+convertKey, scheme)
	}
	if !algorithm.ReadASN1(&params, cbasn1.SEQUENCE) || !params.ReadASN1(&kdf, cbasn1.SEQUENCE) || !params.ReadASN1(&encryption, cbasn1.SEQUENCE) ||
		!kdf.ReadASN1ObjectIdentifier(&kdfOID) || !encryption.ReadASN1ObjectIdentifier(&cipherOID) {
		return nil, damaged
	}
	method, ok := blockCiphers[cipherOID.String()]
	if !ok {
		return nil, payloadFailure(nil, "the private key is encrypted with %s, which Certpost does not read; "+convertKey, cipherOID)
	}
	key, err := deriveKey(kdfOID, kdf, passphrase, method.keySize)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := method.new(key)
	if err != nil {
		return nil, payloadFailure(nil, "the private key's encryption (%s) is not allowed with GODEBUG=fips140=only; "+convertKey, cipherOID)
	}
	if !encryption.ReadASN1(&iv, cbasn1.OCTET_STRING) || len(iv) != block.BlockSize() || len(sealed) == 0 || len(sealed)%block.BlockSize() != 0 {
		return nil, damaged
	}
	plain := make([]byte, len(sealed))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, sealed)
	unpadded, ok := unpad(plain, block.BlockSize())
	if !ok || !isSequence(unpadded) {
		clear(plain)
		return nil, ErrWrongPassphrase
	}
	return unpadded, nil
}

// unpad removes the padding of RFC 8018 section 6.1.1. Nobody can ask often enough to learn
// something from it.
func unpad(plain []byte, size int) ([]byte, bool) {
	n := int(plain[len(plain)-1])
	if n == 0 || n > size || n > len(plain) {
		return nil, false
	}
	for _, c := range plain[len(plain)-n:] {
		if int(c) != n {
			return nil, false
		}
	}
	return plain[:len(plain)-n], true
}

// isSequence reports whether a text is one DER sequence: the padding alone is right by chance for
// one wrong passphrase in 256.
func isSequence(der []byte) bool {
	input, inner := cryptobyte.String(der), cryptobyte.String(nil)
	return input.ReadASN1(&inner, cbasn1.SEQUENCE) && input.Empty()
}

// deriveKey makes the key of the cipher from the passphrase.
func deriveKey(kdf asn1.ObjectIdentifier, params cryptobyte.String, passphrase []byte, size int) ([]byte, error) {
	damaged := payloadFailure(nil, "the encrypted private key is damaged; store it again, then replay")
	tooCostly := payloadFailure(nil, "the private key's passphrase is stretched more than Certpost allows (%d iterations; for scrypt %d MiB); "+convertKey, maxKeyIterations, maxScryptMemory>>20)
	notInFIPS := payloadFailure(nil, "the private key's encryption is not allowed with GODEBUG=fips140=only, which wants PBKDF2 with SHA-2, a salt of 16 bytes and a passphrase of 14 characters; encrypt it like that, then replay")
	var fields, salt cryptobyte.String
	if !params.ReadASN1(&fields, cbasn1.SEQUENCE) || !fields.ReadASN1(&salt, cbasn1.OCTET_STRING) {
		return nil, damaged
	}
	switch {
	case kdf.Equal(oidPBKDF2):
		var iterations int
		if !fields.ReadASN1Integer(&iterations) || iterations < 1 || !fields.SkipOptionalASN1(cbasn1.INTEGER) {
			return nil, damaged
		}
		if iterations > maxKeyIterations {
			return nil, tooCostly
		}
		prf, algorithm := asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 7}, cryptobyte.String(nil) // the default
		if !fields.Empty() && (!fields.ReadASN1(&algorithm, cbasn1.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&prf)) {
			return nil, damaged
		}
		hashOf := prfs[prf.String()]
		if hashOf == nil {
			return nil, payloadFailure(nil, "the private key's passphrase is stretched with %s, which Certpost does not read; "+convertKey, prf)
		}
		key, err := pbkdf2.Key(hashOf, string(passphrase), salt, iterations, size)
		if err != nil { // GODEBUG=fips140=only refuses SHA-1 and short salts
			return nil, notInFIPS
		}
		return key, nil
	case kdf.Equal(oidScrypt):
		var n, r, p int
		if !fields.ReadASN1Integer(&n) || !fields.ReadASN1Integer(&r) || !fields.ReadASN1Integer(&p) || n < 2 || r < 1 || p < 1 {
			return nil, damaged
		}
		if n > maxScryptMemory || r > maxScryptMemory || 128*n*r > maxScryptMemory || p > maxScryptLanes {
			return nil, tooCostly
		}
		if fips140.Enforced() { // its library panics
			return nil, notInFIPS
		}
		key, err := scrypt.Key(passphrase, salt, n, r, p, size)
		if err != nil {
			return nil, damaged
		}
		return key, nil
	}
	return nil, payloadFailure(nil, "the private key's passphrase is stretched with %s, which Certpost does not read; "+convertKey, kdf)
}
