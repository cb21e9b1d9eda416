package payload

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/lab"
)

// passphrase has characters that a shell or a careless parser would misread.
const passphrase = `p12 "Pass" $phrase;\ ~`

func TestParseKeyTakesEveryEncoding(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"rsa", "p256", "p384", "ed25519"} {
		key := lab.NewKey(t, kind)
		leaf := lab.Issue(t, nil, key, kind)
		texts := map[string][]byte{"PKCS#8": lab.KeyPEM(t, key)}
		switch key := key.(type) {
		case *rsa.PrivateKey:
			texts["PKCS#1"] = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
			texts["PKCS#1 under the label of PKCS#8"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
		case *ecdsa.PrivateKey:
			der, err := x509.MarshalECPrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			texts["SEC 1"] = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
			parameters := []byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n")
			texts["SEC 1 behind its parameters"] = slices.Concat(parameters, texts["SEC 1"])
		}
		texts["BOM and CRLF"] = append([]byte("\ufeff"), bytes.ReplaceAll(texts["PKCS#8"], []byte("\n"), []byte("\r\n"))...)
		texts["escaped line breaks"] = bytes.ReplaceAll(texts["PKCS#8"], []byte("\n"), []byte(`\n`))
		texts["beside its certificate"] = slices.Concat(lab.PEM(leaf), texts["PKCS#8"])
		for name, text := range texts {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				before := bytes.Clone(text)
				got, err := parseKey(text, leaf.Certificate)
				if err != nil {
					t.Fatal(err)
				}
				if same, ok := got.(interface{ Equal(crypto.PrivateKey) bool }); !ok || !same.Equal(key) {
					t.Error("parseKey returned another key")
				}
				if !bytes.Equal(text, before) {
					t.Error("the caller's text was changed")
				}
			})
		}
	}
}

// Fault: a key that does not match, is encrypted, or has an unsupported type. Result: dead
// (SMTP_PAYLOAD); the text has no key bytes.
func TestParseKeyRefuses(t *testing.T) {
	t.Parallel()
	key, another := lab.NewKey(t, "p256"), lab.NewKey(t, "p256")
	leaf := lab.Issue(t, nil, key, "web1.example.com")
	text := lab.KeyPEM(t, key)
	agreement, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := x509.MarshalPKCS8PrivateKey(agreement)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("canary-canary-canary")})
	}

	for _, c := range []struct {
		name string
		text []byte
		want string
	}{
		{"nothing", nil, "it is empty"},
		{"DER", mustDER(t, key), "binary (DER"},
		{"cut off", text[:len(text)-50], "cut off"},
		{"damaged", bytes.Replace(text, []byte("M"), []byte("*"), 1), "not base64"},
		{"not a key", block("PRIVATE KEY"), "damaged or has an unsupported type"},
		{"of key agreement", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: x25519}), "unsupported type X25519"},
		{"DSA", block("DSA PRIVATE KEY"), "unsupported type (DSA PRIVATE KEY)"},
		{"OpenSSH", block("OPENSSH PRIVATE KEY"), "OpenSSH format"},
		{"encrypted PKCS#8", block("ENCRYPTED PRIVATE KEY"), "is encrypted"},
		{"encrypted PKCS#1", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,0011"}, Bytes: []byte("canary-canary-canary")}), "is encrypted"},
		{"only a certificate", lab.PEM(leaf), "the event's private_key contains no private key, only CERTIFICATE"},
		{"public key", block("PUBLIC KEY"), "only PUBLIC KEY"},
		{"two keys", slices.Concat(text, lab.KeyPEM(t, another)), "2 private keys"},
		{"another key", lab.KeyPEM(t, another), `does not match the certificate "web1.example.com"`},
		{"too large", bytes.Repeat([]byte("A"), maxKey+1), "has 13001 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := parseKey(c.text, leaf.Certificate)
			if reason := refusal(t, err); !strings.Contains(reason, c.want) {
				t.Errorf("got %q, want %q in it", reason, c.want)
			}
			quotesNothing(t, err, c.text)
		})
	}
}

func mustDER(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// quotesNothing checks that the printed error contains neither a group of eight characters
// of the text's base64 nor the canary that it decodes to.
func quotesNothing(t *testing.T, err error, text []byte) {
	t.Helper()
	printed := fmt.Sprintf("%v %+v %#v", err, err, err)
	if strings.Contains(printed, "canary") {
		t.Errorf("the error quotes its input: %s", printed)
	}
	for _, line := range bytes.Split(text, []byte("\n")) {
		if bytes.HasPrefix(line, []byte("-----")) {
			continue
		}
		for i := 0; i+8 <= len(line) && len(line) <= 64; i += 8 {
			if strings.Contains(printed, string(line[i:i+8])) {
				t.Errorf("the error quotes its input: %s", printed)
			}
		}
	}
}

func TestBuildPayloadKinds(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	b, err := ParseBundle(lab.PEM(p.Leaf, p.Intermediate))
	if err != nil {
		t.Fatal(err)
	}
	key := lab.KeyPEM(t, p.Leaf.Key)

	for _, kind := range []string{"", PEM} {
		files, err := Build(Settings{Kind: kind}, b, nil, nil, lab.TestNow)
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != 1 || files[0].Name != "_wildcard.example.com.pem" || files[0].ContentType != "application/x-pem-file" || !bytes.Equal(files[0].Data, b.PEM()) {
			t.Errorf("payload %q gives %+v", kind, files)
		}
	}

	files, err := Build(Settings{Kind: PEMAndKey}, b, key, nil, lab.TestNow)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 || files[1].Name != "_wildcard.example.com.key.pem" || files[1].ContentType != "application/x-pem-file" {
		t.Fatalf("pem_and_key gives %d files, the last %s", len(files), files[len(files)-1].Name)
	}
	if bytes.Contains(files[0].Data, []byte("PRIVATE KEY")) || !bytes.Equal(files[1].Data, key) {
		t.Error("the key is in the wrong file, or not PKCS#8")
	}

	files, err = Build(Settings{Kind: PKCS12}, b, key, []byte(passphrase), lab.TestNow)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 || files[0].Name != "_wildcard.example.com.p12" || files[0].ContentType != "application/x-pkcs12" {
		t.Fatalf("pkcs12 gives %d files, the first %s", len(files), files[0].Name)
	}
	got, leaf, chain, err := pkcs12.DecodeChain(files[0].Data, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if !leaf.Equal(p.Leaf.Certificate) || len(chain) != 1 || !chain[0].Equal(p.Intermediate.Certificate) || !got.(*ecdsa.PrivateKey).Equal(p.Leaf.Key) {
		t.Error("the PKCS#12 file has other contents")
	}
}

// Fault: a key that does not match. Result: dead (SMTP_PAYLOAD).
func TestBuildPayloadRefuses(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	b, err := ParseBundle(lab.PEM(p.Leaf, p.Intermediate))
	if err != nil {
		t.Fatal(err)
	}
	key := lab.KeyPEM(t, p.Leaf.Key)
	for _, c := range []struct {
		name       string
		settings   Settings
		key        []byte
		passphrase string
		want       string
	}{
		{"no key", Settings{Kind: PEMAndKey}, nil, "", "payload pem_and_key requires the private key"},
		{"no key for pkcs12", Settings{Kind: PKCS12}, nil, passphrase, "payload pkcs12 requires the private key"},
		{"no key for jks", Settings{Kind: JKS}, nil, passphrase, "payload jks requires the private key"},
		{"no key for a zip that wants it", Settings{Kind: ZIP, WithKey: true}, nil, "", "payload zip requires the private key"},
		{"another key", Settings{Kind: PEMAndKey}, lab.KeyPEM(t, lab.NewKey(t, "p256")), "", "does not match"},
		{"another key for jks", Settings{Kind: JKS}, lab.KeyPEM(t, lab.NewKey(t, "p256")), passphrase, "does not match"},
		{"no passphrase", Settings{Kind: PKCS12}, key, "", "pkcs12_passphrase is empty"},
		{"no password", Settings{Kind: JKS}, key, "", "keystore_password is empty"},
		{"short password", Settings{Kind: JKS}, key, "ab3de", "keystore_password has less than 6 characters"},
		{"short password of a trust store", Settings{Kind: TrustStore}, nil, "ab3de", "keystore_password has less than 6 characters"},
		{"blank passphrase", Settings{Kind: PKCS12}, key, "  ", "pkcs12_passphrase is empty"},
		{"passphrase that is not ASCII", Settings{Kind: PKCS12}, key, "canary-ü", "not printable ASCII"},
		{"password that is not ASCII", Settings{Kind: JKS}, key, "canary-ü", "not printable ASCII"},
		{"passphrase beyond the BMP", Settings{Kind: PKCS12}, key, "canary-😀", "not printable ASCII"},
		{"passphrase with a line break", Settings{Kind: PKCS12}, key, "canary\n", "not printable ASCII"},
		{"unknown payload", Settings{Kind: "rar\r\n"}, key, "", "unknown payload rar; use pem, pem_and_key, pkcs12, jks, der, pkcs7, pkcs12_truststore or zip"},
		{"unknown encoding", Settings{Kind: PKCS12, PKCS12Encoding: "legacyrc2"}, key, passphrase, "unknown pkcs12_encoding legacyrc2;"},
		{"too many iterations", Settings{Kind: PKCS12, Iterations: 100_001}, key, passphrase, "pkcs12_iterations is 100001; want a number from 2048 to 100000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files, err := Build(c.settings, b, c.key, []byte(c.passphrase), lab.TestNow)
			if files != nil {
				t.Error("Build returned files and an error")
			}
			if reason := refusal(t, err); !strings.Contains(reason, c.want) {
				t.Errorf("got %q, want %q in it", reason, c.want)
			}
			quotesNothing(t, err, c.key)
		})
	}
}

// The encoder writes what it is given: every kind of key that Build takes, leaves alone and
// with chains, every encoding, with and without an alias.
func TestPKCS12IsReadBack(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"rsa", "rsa4096", "p256", "p384", "p521", "ed25519"} {
		for _, encoding := range []string{Modern2023, LegacyDES, Modern2026} {
			t.Run(kind+" "+encoding, func(t *testing.T) {
				t.Parallel()
				p := lab.NewPKI(t, kind)
				for _, text := range [][]byte{lab.PEM(p.Leaf), lab.PEM(p.Leaf, p.Intermediate), lab.PEM(p.Leaf, p.Intermediate, p.Root)} {
					b, err := ParseBundle(text)
					if err != nil {
						t.Fatal(err)
					}
					alias := []string{"", "{cn}", "Straße 7"}[len(b.Chain)]
					files, err := Build(Settings{Kind: PKCS12, PKCS12Encoding: encoding, Alias: alias}, b, lab.KeyPEM(t, p.Leaf.Key), []byte(passphrase), lab.TestNow)
					if err != nil {
						t.Fatal(err)
					}
					key, leaf, chain, err := pkcs12.DecodeChain(files[0].Data, passphrase)
					if err != nil {
						t.Fatal(err)
					}
					if same, ok := key.(interface{ Equal(crypto.PrivateKey) bool }); !ok || !same.Equal(p.Leaf.Key) {
						t.Errorf("the file with %d certificates has another key", len(b.Chain)+1)
					}
					if !leaf.Equal(b.Leaf) || !slices.EqualFunc(chain, b.Chain, (*x509.Certificate).Equal) {
						t.Errorf("the file with %d certificates has others", len(b.Chain)+1)
					}
				}
			})
		}
	}
}

// With GODEBUG=fips140=only creating a PKCS#12 file would panic. The setting is
// read at program start, so the test starts a second process.
func TestFIPSOnlyRefusesPKCS12(t *testing.T) {
	t.Parallel()
	if os.Getenv("CERTPOST_TEST_FIPS") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFIPSOnlyRefusesPKCS12$", "-test.v")
		cmd.Env = append(os.Environ(), "CERTPOST_TEST_FIPS=1", "GODEBUG=fips140=only")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestFIPSOnlyRefusesPKCS12")) {
			t.Errorf("with fips140=only: %v\n%s", err, out)
		}
		return
	}
	p := lab.NewPKI(t, "p256")
	b, err := ParseBundle(lab.PEM(p.Leaf, p.Intermediate))
	if err != nil {
		t.Fatal(err)
	}
	key := lab.KeyPEM(t, p.Leaf.Key)
	_, err = Build(Settings{Kind: PKCS12}, b, key, []byte(passphrase), lab.TestNow)
	if reason := refusal(t, err); !strings.Contains(reason, "fips140=only") {
		t.Errorf("got %q", reason)
	}
	if _, err := Build(Settings{Kind: PEMAndKey}, b, key, nil, lab.TestNow); err != nil {
		t.Errorf("pem_and_key: %v", err)
	}
}

func FuzzParseKey(f *testing.F) {
	leaf := lab.Issue(f, nil, lab.SeededKey(1), "x")
	f.Add(lab.KeyPEM(f, lab.SeededKey(1)))
	f.Add(lab.KeyPEM(f, lab.SeededKey(2)))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := parseKey(text, leaf.Certificate)
		if err != nil {
			refusal(t, err)
			return
		}
		if same, ok := key.(interface{ Equal(crypto.PrivateKey) bool }); !ok || !same.Equal(lab.SeededKey(1)) {
			t.Fatal("a key that does not match the certificate was accepted")
		}
	})
}
