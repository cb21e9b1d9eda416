package payload

import (
	"archive/zip"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pavlo-v-chernykh/keystore-go/v4"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// built is a payload in a directory of its own, for programs to read.
type built struct {
	file, secret string // paths: the first file, and the passphrase
	data         []byte
	leaf, root   *lab.Issued
	bundle       *Bundle
}

func build(t *testing.T, kind string, s Settings) built {
	t.Helper()
	p := lab.NewPKI(t, kind)
	b, err := ParseBundle(lab.PEM(p.Leaf, p.Intermediate, p.Root))
	if err != nil {
		t.Fatal(err)
	}
	files, err := Build(s, b, lab.KeyPEM(t, p.Leaf.Key), []byte(passphrase), lab.TestNow)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 {
		t.Fatalf("%d files, want 1", len(files))
	}
	dir := t.TempDir()
	out := built{filepath.Join(dir, files[0].Name), filepath.Join(dir, "passphrase"), files[0].Data, p.Leaf, p.Root, b}
	lab.Write(t, out.file, files[0].Data)
	lab.Write(t, out.secret, []byte(passphrase+"\n"))
	return out
}

func (b built) keytool(t *testing.T, kind string) string {
	t.Helper()
	return lab.Output(t, lab.Need(t, "keytool"), "-J-Duser.language=en", "-list", "-v", "-storetype", kind, "-keystore", b.file, "-storepass:file", b.secret)
}

// has checks that a program's output has all of these texts.
func has(t *testing.T, program, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("%s finds no %q:\n%.1500s", program, text, out)
		}
	}
}

// A Java key store has key, chain and date for every kind of key, and Java reads it under its other
// name, too.
func TestJavaKeyStores(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"rsa", "p256", "p384", "p521", "ed25519"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := build(t, kind, Settings{Kind: JKS, Alias: "Web Server"})
			if !strings.HasSuffix(b.file, "_wildcard.example.com.jks") {
				t.Errorf("the file is %s", b.file)
			}
			if kind == "p256" { // TestReaders has the others
				has(t, "keytool as PKCS12", b.keytool(t, "PKCS12"), "Alias name: web server", "PrivateKeyEntry", "Certificate chain length: 3", verdict.SerialNumber(b.leaf.Certificate))
			}
			// The key is the leaf's, and has the store's password.
			store := keystore.New()
			if err := store.Load(bytes.NewReader(b.data), []byte(passphrase)); err != nil {
				t.Fatal(err)
			}
			entry, err := store.GetPrivateKeyEntry("web server", []byte(passphrase))
			if err != nil {
				t.Fatal(err)
			}
			if !entry.CreationTime.Equal(lab.TestNow) || !bytes.Equal(entry.PrivateKey, mustDER(t, b.leaf.Key)) || !bytes.Equal(entry.CertificateChain[0].Content, b.leaf.Raw) {
				t.Error("the entry has another time, key or certificate")
			}
		})
	}
	if b := build(t, "p256", Settings{Kind: JKS}); !strings.Contains(b.keytool(t, "JKS"), "Alias name: *.example.com") {
		t.Error("without an alias the key is not named after the certificate")
	}
}

// The readers of PKCS#12 show the alias, for every encoding that they can open.
func TestAliasReaders(t *testing.T) {
	t.Parallel()
	const alias = "Web Straße 7"
	for _, kind := range []string{"rsa", "p256", "ed25519"} {
		for _, s := range []Settings{{PKCS12Encoding: Modern2023}, {PKCS12Encoding: LegacyDES}, {PKCS12Encoding: Modern2023, Iterations: MaxIterations}} {
			t.Run(kind+" "+s.PKCS12Encoding, func(t *testing.T) {
				t.Parallel()
				s.Kind, s.Alias = PKCS12, alias
				b := build(t, kind, s)
				if kind == "rsa" && s.Iterations == 0 {
					has(t, "keytool", b.keytool(t, "PKCS12"), "PrivateKeyEntry", "Certificate chain length: 3", "web stra")
				}
				out := lab.Output(t, lab.Need(t, "openssl"), "pkcs12", "-in", b.file, "-passin", "file:"+b.secret, "-nodes")
				has(t, "openssl", out, "friendlyName: Web Stra", "localKeyID", "BEGIN PRIVATE KEY")
				out = lab.Output(t, lab.Need(t, "certtool"), "--p12-info", "--inder", "--infile", b.file, "--password", passphrase)
				has(t, "certtool", out, "Friendly name: Web Stra")
			})
		}
	}
	// Few programs read PBMAC1 yet, so go-pkcs12 has to: it checks the MAC that was computed anew.
	b := build(t, "p256", Settings{Kind: PKCS12, PKCS12Encoding: Modern2026, Alias: alias})
	if _, _, _, err := pkcs12.DecodeChain(b.data, passphrase); err != nil {
		t.Error(err)
	}
	if _, _, _, err := pkcs12.DecodeChain(b.data, "another"); err == nil {
		t.Error("another passphrase opens the file")
	}
}

// Java opens the stores of a certificate whose name has characters that no store can hold.
//
// Fault: a certificate's name has characters that key stores cannot hold, such as emoji. Result: an underscore stands
// for each of them in the store; the file can be opened.
func TestNamesThatStoresCannotHold(t *testing.T) {
	t.Parallel()
	issued := lab.Issue(t, nil, lab.NewKey(t, "p256"), "Team \U0001F600 7")
	b, err := ParseBundle(lab.PEM(issued))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Settings{{Kind: JKS}, {Kind: JKS, Alias: "Team \U0001F600 7"}, {Kind: PKCS12, Alias: "Team \U0001F600 7"}, {Kind: TrustStore}} {
		t.Run(s.Kind+s.Alias, func(t *testing.T) {
			t.Parallel()
			files, err := Build(s, b, lab.KeyPEM(t, issued.Key), []byte(passphrase), lab.TestNow)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			out := built{file: filepath.Join(dir, files[0].Name), secret: filepath.Join(dir, "passphrase")}
			lab.Write(t, out.file, files[0].Data)
			lab.Write(t, out.secret, []byte(passphrase+"\n"))
			kind := "PKCS12"
			if s.Kind == JKS {
				kind = "JKS"
			}
			has(t, "keytool", out.keytool(t, kind), "Alias name: team _ 7", verdict.SerialNumber(issued.Certificate))
		})
	}
}

// A trust store has the issuers, each under a name of its own, or the leaf if there are none. Which
// programs read it is in TestReaders.
func TestTrustStores(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{Modern2023, LegacyDES} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			b := build(t, "p256", Settings{Kind: TrustStore, PKCS12Encoding: encoding})
			certs, err := pkcs12.DecodeTrustStore(b.data, passphrase)
			if err != nil || len(certs) != 2 || !certs[1].Equal(b.root.Certificate) {
				t.Errorf("%d certificates, %v", len(certs), err)
			}
		})
	}
	taken := map[string]bool{}
	if a, b, c := uniqueName(taken, "Root"), uniqueName(taken, "ROOT"), uniqueName(taken, "Root"); a != "Root" || b != "ROOT (2)" || c != "Root (3)" {
		t.Errorf("%q, %q, %q", a, b, c)
	}
	p := lab.NewPKI(t, "p256")
	alone, err := ParseBundle(lab.PEM(p.Leaf))
	if err != nil {
		t.Fatal(err)
	}
	files, err := Build(Settings{Kind: TrustStore}, alone, nil, []byte(passphrase), lab.TestNow)
	if err != nil {
		t.Fatal(err)
	}
	if certs, err := pkcs12.DecodeTrustStore(files[0].Data, passphrase); err != nil || len(certs) != 1 || !certs[0].Equal(p.Leaf.Certificate) {
		t.Errorf("a leaf without a chain: %d certificates, %v", len(certs), err)
	}
}

// The leaf is the first certificate of a PKCS#7 file. Which programs read it is in TestReaders.
func TestPKCS7(t *testing.T) {
	t.Parallel()
	b := build(t, "p256", Settings{Kind: PKCS7})
	if !strings.HasSuffix(b.file, "_wildcard.example.com.p7b") {
		t.Errorf("the file is %s", b.file)
	}
	out := lab.Output(t, lab.Need(t, "openssl"), "pkcs7", "-inform", "der", "-in", b.file, "-print_certs")
	if n := strings.Count(out, "BEGIN CERTIFICATE"); n != 3 || strings.Index(out, "subject=CN = *.example.com") > strings.Index(out, "subject=CN = Test CA 1") {
		t.Errorf("openssl finds %d certificates, or the leaf not first:\n%.600s", n, out)
	}
}

func unzip(t *testing.T, data []byte) (names []string, files map[string][]byte) {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	files = map[string][]byte{}
	for _, f := range r.File {
		if !f.Modified.Equal(lab.TestNow) {
			t.Errorf("%s is dated %v, want %v", f.Name, f.Modified, lab.TestNow)
		}
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if files[f.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
		names = append(names, f.Name)
	}
	return names, files
}

func TestArchives(t *testing.T) {
	t.Parallel()
	b := build(t, "p256", Settings{Kind: DER})
	names, files := unzip(t, b.data)
	if strings.Join(names, " ") != "leaf.der chain1.der chain2.der" {
		t.Errorf("der has %v", names)
	}
	if c, err := x509.ParseCertificate(files["leaf.der"]); err != nil || !c.Equal(b.leaf.Certificate) {
		t.Errorf("leaf.der: %v", err)
	}
	if c, err := x509.ParseCertificate(files["chain2.der"]); err != nil || !c.Equal(b.root.Certificate) {
		t.Errorf("chain2.der: %v", err)
	}

	b = build(t, "p256", Settings{Kind: ZIP})
	names, files = unzip(t, b.data)
	if strings.Join(names, " ") != "cert.pem chain.pem fullchain.pem" || bytes.Contains(b.data, []byte("PRIVATE KEY")) {
		t.Errorf("zip has %v", names)
	}
	if !bytes.Equal(files["fullchain.pem"], b.bundle.PEM()) || !bytes.Equal(files["fullchain.pem"], append(files["cert.pem"], files["chain.pem"]...)) {
		t.Error("fullchain.pem is not cert.pem and chain.pem")
	}

	b = build(t, "rsa", Settings{Kind: ZIP, WithKey: true})
	names, files = unzip(t, b.data)
	if block, _ := pem.Decode(files["privkey.pem"]); strings.Join(names, " ") != "cert.pem chain.pem fullchain.pem privkey.pem" || block == nil || !bytes.Equal(block.Bytes, mustDER(t, b.leaf.Key)) {
		t.Errorf("zip with the key has %v, or another key", names)
	}

	// A leaf alone has no chain.pem.
	alone, err := ParseBundle(lab.PEM(b.leaf))
	if err != nil {
		t.Fatal(err)
	}
	made, err := Build(Settings{Kind: ZIP}, alone, nil, nil, lab.TestNow)
	if err != nil {
		t.Fatal(err)
	}
	if names, _ := unzip(t, made[0].Data); strings.Join(names, " ") != "cert.pem fullchain.pem" {
		t.Errorf("the zip of a leaf alone has %v", names)
	}
}
