package payload

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"errors"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/legible"
)

// encodePKCS12 packs key and certificates. The caller has checked that they belong together.
// The result is not read back, because that costs more than the encoding: the passphrase is
// stretched again for each part. That the encoder writes what it is given, for every kind of
// key that Build takes, is for tests and their independent readers to prove.
func encodePKCS12(encoding string, b *Bundle, key crypto.PrivateKey, passphrase []byte) ([]byte, error) {
	encoder := pkcs12.Modern2023
	switch encoding {
	case "", Modern2023:
	case LegacyDES:
		encoder = pkcs12.LegacyDES
	default:
		return nil, payloadFailure(nil, "unknown pkcs12_encoding %s; use modern2023 or legacydes, then replay", legible.Clean(encoding, 40))
	}
	if fips140.Enforced() {
		// The local key id of every PKCS#12 file is a SHA-1 hash, and SHA-1 panics in this mode.
		return nil, payloadFailure(nil, "a PKCS#12 file cannot be created with GODEBUG=fips140=only, because the format requires SHA-1; use fips140=on or another payload, then replay")
	}
	if err := checkPassphrase(passphrase); err != nil {
		return nil, payloadFailure(nil, "%s", err)
	}
	data, err := encoder.Encode(key, b.Leaf, b.Chain, string(passphrase))
	if err != nil {
		return nil, payloadFailure(nil, "the PKCS#12 file cannot be created with this key (%s)", KeyKind(b.Leaf))
	}
	return data, nil
}

// checkPassphrase accepts only passphrases that every PKCS#12 reader supports: Java 17
// cannot open a file whose passphrase is not ASCII. Empty or blank ones are refused.
func checkPassphrase(passphrase []byte) error {
	if len(bytes.TrimSpace(passphrase)) == 0 {
		return errors.New("pkcs12_passphrase is empty; set it, then replay")
	}
	for _, c := range passphrase {
		if c < ' ' || c > '~' {
			return errors.New("pkcs12_passphrase has a character that is not printable ASCII (perhaps a line break), so some programs could not open the file; change it, then replay")
		}
	}
	return nil
}
