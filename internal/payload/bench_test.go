package payload

import (
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// BenchmarkBuild builds the files of each kind, for a leaf with an RSA key and its intermediate.
func BenchmarkBuild(b *testing.B) {
	p := lab.NewPKI(b, "rsa")
	bundle, err := ParseBundle(lab.PEM(p.Leaf, p.Intermediate))
	if err != nil {
		b.Fatal(err)
	}
	key := lab.KeyPEM(b, p.Leaf.Key)
	for _, c := range []struct {
		name string
		set  Settings
	}{
		{"pem", Settings{Kind: PEM}}, {"pem_and_key", Settings{Kind: PEMAndKey}}, {"der", Settings{Kind: DER}}, {"pkcs7", Settings{Kind: PKCS7}},
		{"zip-with-key", Settings{Kind: ZIP, WithKey: true}}, {"jks", Settings{Kind: JKS}},
		{"pkcs12", Settings{Kind: PKCS12}}, {"pkcs12-alias", Settings{Kind: PKCS12, Alias: "web"}}, {"pkcs12-legacydes", Settings{Kind: PKCS12, PKCS12Encoding: LegacyDES}},
		{"pkcs12-modern2026", Settings{Kind: PKCS12, PKCS12Encoding: Modern2026}}, {"pkcs12-100000", Settings{Kind: PKCS12, Iterations: MaxIterations}},
		{"truststore", Settings{Kind: TrustStore}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Build(c.set, bundle, key, []byte(passphrase), lab.TestNow); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecryptKey decrypts a key as OpenSSL encrypts it.
func BenchmarkDecryptKey(b *testing.B) {
	text := lab.KeyPEM(b, lab.NewKey(b, "rsa"))
	for name, args := range map[string][]string{"pbkdf2": nil, "scrypt": {"-scrypt"}} {
		sealed := encryptKey(b, text, "correct horse", args...)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecryptKey(sealed, []byte("correct horse")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
