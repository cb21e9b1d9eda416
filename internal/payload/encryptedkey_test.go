package payload

import (
	"bytes"
	"encoding/pem"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// encryptKey lets OpenSSL encrypt a key.
func encryptKey(t testing.TB, key []byte, with string, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	in, secret := filepath.Join(dir, "key.pem"), filepath.Join(dir, "passphrase")
	lab.Write(t, in, key)
	lab.Write(t, secret, []byte(with+"\n"))
	return []byte(lab.Output(t, lab.Need(t, "openssl"), append([]string{"pkcs8", "-topk8", "-in", in, "-passout", "file:" + secret}, args...)...))
}

// Every way in which OpenSSL encrypts PKCS#8 keys with PBES2 is read, for every kind of key; the
// others are named.
//
// Fault: keys encrypted as PKCS#8, in ways that are not read, with another passphrase or too costly. Result:
// decrypted with `private_key_passphrase`, or dead (SMTP_PAYLOAD) with how to convert it.
func TestDecryptKey(t *testing.T) {
	t.Parallel()
	const phrase = "canary correct horse"
	key := lab.NewKey(t, "p256")
	text := lab.KeyPEM(t, key)
	for name, c := range map[string]struct {
		args []string
		want string // "": it is read
	}{
		"the default":            {nil, ""},
		"AES-128":                {[]string{"-v2", "aes-128-cbc"}, ""},
		"AES-192, SHA-1":         {[]string{"-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA1"}, ""},
		"AES-256, SHA-512":       {[]string{"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512"}, ""},
		"SHA-384, 20,000 rounds": {[]string{"-v2prf", "hmacWithSHA384", "-iter", "20000"}, ""},
		"SHA-224":                {[]string{"-v2prf", "hmacWithSHA224"}, ""},
		"3DES":                   {[]string{"-v2", "des3"}, ""},
		"scrypt":                 {[]string{"-scrypt"}, ""},
		"scrypt, other costs":    {[]string{"-scrypt_N", "1024", "-scrypt_r", "16", "-scrypt_p", "4"}, ""},
		"PBES1":                  {[]string{"-v1", "PBE-SHA1-3DES"}, "in an outdated way (1.2.840.113549.1.12.1.3), not with PBES2; convert it with `openssl pkcs8"},
		"Camellia":               {[]string{"-v2", "camellia-256-cbc"}, "is encrypted with 1.2.392.200011.61.1.1.1.4, which Certpost does not read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sealed := encryptKey(t, text, phrase, c.args...)
			if !KeyIsEncrypted(sealed) || KeyIsEncrypted(text) {
				t.Error("what is encrypted and what is not is mixed up")
			}
			got, err := DecryptKey(sealed, []byte(phrase))
			if c.want != "" {
				if reason := refusal(t, err); !strings.Contains(reason, c.want) {
					t.Errorf("got %q, want %q in it", reason, c.want)
				}
				quotesNothing(t, err, sealed)
				return
			}
			if err != nil || !bytes.Equal(got, text) {
				t.Errorf("the same key: %v, %v", bytes.Equal(got, text), err)
			}
			for _, wrong := range []string{"canary", ""} {
				if got, err := DecryptKey(sealed, []byte(wrong)); !errors.Is(err, ErrWrongPassphrase) || got != nil {
					t.Errorf("with another passphrase: %v", err)
				}
			}
		})
	}
	for _, kind := range []string{"rsa", "p384", "p521", "ed25519"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			text := lab.KeyPEM(t, lab.NewKey(t, kind))
			if got, err := DecryptKey(encryptKey(t, text, phrase), []byte(phrase)); err != nil || !bytes.Equal(got, text) {
				t.Errorf("the same key: %v, %v", bytes.Equal(got, text), err)
			}
		})
	}
	// Whoever publishes the event chooses the work.
	costly, _ := pem.Decode(encryptKey(t, text, phrase, "-iter", "100000"))
	costly.Bytes = bytes.Replace(costly.Bytes, []byte{2, 3, 0x01, 0x86, 0xa0}, []byte{2, 3, 0x1e, 0x84, 0x81}, 1) // 2,000,001
	if _, err := DecryptKey(pem.EncodeToMemory(costly), []byte(phrase)); !strings.Contains(refusal(t, err), "stretched more than Certpost allows") {
		t.Errorf("too many rounds: %v", err)
	}
	if _, err := DecryptKey([]byte("no key"), []byte(phrase)); err == nil {
		t.Error("text is taken for a key")
	}
	if _, err := DecryptKey(text, []byte(phrase)); !strings.Contains(refusal(t, err), "contains no encrypted private key, only PRIVATE KEY") {
		t.Errorf("a key that is not encrypted: %v", err)
	}
}

// Whatever an encrypted key has in it, it is decrypted or refused.
func FuzzDecryptKey(f *testing.F) {
	text := lab.KeyPEM(f, lab.NewKey(f, "p256"))
	for _, args := range [][]string{{"-iter", "2"}, {"-scrypt_N", "16", "-scrypt_r", "1", "-scrypt_p", "1"}} {
		block, _ := pem.Decode(encryptKey(f, text, "fuzz", args...))
		f.Add(block.Bytes)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		plain, err := decryptPKCS8(der, []byte("fuzz"))
		if (err == nil) == (plain == nil) {
			t.Errorf("%d bytes and %v", len(plain), err)
		}
	})
}
