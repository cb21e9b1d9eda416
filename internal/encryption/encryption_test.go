package encryption

import (
	"bytes"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"golang.org/x/crypto/ssh"

	"github.com/certpost/certpost/internal/lab"
)

const content = "Content-Type: text/plain\r\n\r\nThe certificate of www.example.com.\r\n"

// person is a recipient with a key of each kind, made by the programs that people use.
type person struct {
	home string // of gpg
	text map[string]string
	open map[string]func(t *testing.T, sealed []byte) string
}

func smimeCertificate(t testing.TB, kind, address string, edit ...func(*x509.Certificate)) *lab.Issued {
	t.Helper()
	ca := lab.Issue(t, nil, lab.NewKey(t, "p256"), "Mail CA", lab.AsCA)
	forMail := func(c *x509.Certificate) {
		c.EmailAddresses = []string{address}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
		c.KeyUsage = x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement
	}
	return lab.Issue(t, ca, lab.NewKey(t, kind), address, append([]func(*x509.Certificate){forMail}, edit...)...)
}

// gpgHome returns a directory for gpg. Its path is short: the socket of gpg-agent is in it.
func gpgHome(t testing.TB) string {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run(); err != nil { // the test's context has ended
			t.Error(err)
		}
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	return home
}

func gpg(t testing.TB, home string, args ...string) string {
	t.Helper()
	return lab.Output(t, lab.Need(t, "gpg"), append([]string{"--homedir", home, "--batch", "--yes", "--quiet", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
}

func newPerson(t *testing.T, address, certKind, gpgKind, ageKind string) *person {
	t.Helper()
	p := &person{home: gpgHome(t), text: map[string]string{}, open: map[string]func(*testing.T, []byte) string{}}
	cert := smimeCertificate(t, certKind, address)
	p.text[SMIME] = string(lab.PEM(cert))
	p.open[SMIME] = func(t *testing.T, sealed []byte) string {
		dir := t.TempDir()
		file, certFile, key := filepath.Join(dir, "smime.p7m"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		lab.Write(t, file, sealed)
		lab.Write(t, certFile, lab.PEM(cert))
		lab.Write(t, key, lab.KeyPEM(t, cert.Key))
		return lab.Output(t, lab.Need(t, "openssl"), "cms", "-decrypt", "-binary", "-inform", "DER", "-in", file, "-recip", certFile, "-inkey", key)
	}
	gpg(t, p.home, "--quick-generate-key", address, gpgKind, "default", "2y")
	p.text[OpenPGP] = gpg(t, p.home, "--armor", "--export", address)
	p.open[OpenPGP] = func(t *testing.T, sealed []byte) string {
		file := filepath.Join(t.TempDir(), "encrypted.asc")
		lab.Write(t, file, sealed)
		return gpg(t, p.home, "--decrypt", file)
	}
	var identity string
	if ageKind == "ssh" {
		file := filepath.Join(t.TempDir(), "id")
		lab.Output(t, lab.Need(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", address, "-f", file)
		public, err := os.ReadFile(file + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		p.text[Age], identity = string(public), file
	} else {
		key, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		identity = filepath.Join(t.TempDir(), "key.txt")
		lab.Write(t, identity, []byte(key.String()+"\n"))
		p.text[Age] = "# laptop\n" + key.Recipient().String() + "\n"
	}
	p.open[Age] = func(t *testing.T, sealed []byte) string {
		file := filepath.Join(t.TempDir(), "file.age")
		lab.Write(t, file, sealed)
		return lab.Output(t, lab.Need(t, "age"), "--decrypt", "-i", identity, file)
	}
	return p
}

// What is encrypted to two people is opened by each of them, with OpenSSL, GnuPG and age.
func TestRecipientsOpenWhatIsEncrypted(t *testing.T) {
	t.Parallel()
	people := []*person{newPerson(t, "ada@example.com", "rsa", "default", "age"), newPerson(t, "ops@example.com", "p256", "future-default", "ssh")}
	for _, kind := range []string{SMIME, OpenPGP, Age} {
		t.Run(kind, func(t *testing.T) {
			var keys []*Key
			for _, p := range people {
				k, err := Parse(kind, []byte(p.text[kind]))
				if err != nil {
					t.Fatal(err)
				}
				if err := k.Usable(Options{}, time.Now()); err != nil && kind != SMIME { // the laboratory's certificates are of another day
					t.Errorf("%s: %v", k, err)
				}
				keys = append(keys, k)
			}
			sealed, err := Encrypt(keys, []byte(content), Options{}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(sealed, []byte("example.com")) {
				t.Error("the content is not encrypted")
			}
			for i, p := range people {
				if got := p.open[kind](t, sealed); got != content {
					t.Errorf("recipient %d reads %q", i, got)
				}
			}
		})
	}
}

// A key says until when it can be used, and whose it is.
func TestKeysTellTheirEnd(t *testing.T) {
	t.Parallel()
	home := gpgHome(t)
	gpg(t, home, "--quick-generate-key", "Ada <ada@example.com>", "future-default", "default", "30d")
	k, err := Parse(OpenPGP, []byte(gpg(t, home, "--armor", "--export", "ada@example.com")))
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(k.Expires()); left < 29*24*time.Hour || left > 31*24*time.Hour {
		t.Errorf("it expires in %v", left)
	}
	if err := k.Usable(Options{}, k.Expires().Add(time.Second)); err == nil || !strings.Contains(err.Error(), "expired on ") {
		t.Errorf("after its end: %v", err)
	}
	if names := k.Names(); len(names) != 1 || names[0] != "ada@example.com" {
		t.Errorf("names: %q", names)
	}
	gpg(t, home, "--quick-generate-key", "sign@example.com", "ed25519", "sign", "never")
	signOnly, err := Parse(OpenPGP, []byte(gpg(t, home, "--armor", "--export", "sign@example.com")))
	if err != nil {
		t.Fatal(err)
	}
	if err := signOnly.Usable(Options{}, time.Now()); err == nil || !strings.Contains(err.Error(), "can only sign") {
		t.Errorf("a key for signatures: %v", err)
	}
	if !signOnly.Expires().IsZero() {
		t.Errorf("it expires on %v", signOnly.Expires())
	}
	for _, private := range []string{gpg(t, home, "--armor", "--export-secret-keys", "ada@example.com")} {
		if _, err := Parse(OpenPGP, []byte(private)); err == nil || !strings.Contains(err.Error(), "private key") {
			t.Errorf("a private key: %v", err)
		}
	}
	both := gpg(t, home, "--armor", "--export")
	if _, err := Parse(OpenPGP, []byte(both)); err == nil || !strings.Contains(err.Error(), "2 OpenPGP keys") {
		t.Errorf("two keys: %v", err)
	}
	cert := smimeCertificate(t, "p256", "ada@example.com")
	k, err = Parse(SMIME, lab.PEM(cert))
	if err != nil || !k.Expires().Equal(cert.NotAfter) || len(k.Names()) != 1 {
		t.Errorf("%v, expires %v, names %q", err, k.Expires(), k.Names())
	}
}

// Texts that are no key of a recipient are refused with the reason, and not quoted.
func TestUnusableKeys(t *testing.T) {
	t.Parallel()
	cert, other := smimeCertificate(t, "p256", "ada@example.com"), smimeCertificate(t, "p256", "ops@example.com")
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	hybrid := "age1pq1" + strings.Repeat("q", 100)
	for name, c := range map[string]struct{ kind, text, want string }{
		"empty S/MIME":        {SMIME, "", "is empty"},
		"two people":          {SMIME, string(lab.PEM(cert, other)), "2 certificates"},
		"S/MIME with key":     {SMIME, string(lab.PEM(cert)) + string(lab.KeyPEM(t, cert.Key)), "private key"},
		"OpenPGP for S/MIME":  {SMIME, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxx\n-----END PGP PUBLIC KEY BLOCK-----\n", "PGP"},
		"certificate for gpg": {OpenPGP, string(lab.PEM(cert)), "gpg --armor --export"},
		"nothing for gpg":     {OpenPGP, "secret words", "gpg --armor --export"},
		"age identity":        {Age, identity.String(), "private key"},
		"age identity, lower": {Age, strings.ToLower(identity.String()), "private key"},
		"no age key":          {Age, "# only a comment\n", "has no key"},
		"damaged age key":     {Age, identity.Recipient().String() + "x", "damaged"},
		"damaged hybrid key":  {Age, hybrid, "age hybrid key that is damaged"},
		"ECDSA SSH":           {Age, "ecdsa-sha2-nistp256 AAAA ada", "ssh-ed25519 or ssh-rsa"},
		"security key":        {Age, "sk-ssh-ed25519@openssh.com AAAA ada", "ssh-ed25519 or ssh-rsa"},
		"words":               {Age, "secret words", "no key"},
		"SSH private key":     {Age, "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "private key"},
		"too long":            {Age, strings.Repeat("#", MaxKey+1), "the limit is"},
		"unknown encryption":  {"rot13", "x", "unknown encryption"},
		"another PEM":         {SMIME, strings.ReplaceAll(string(lab.PEM(cert)), "CERTIFICATE", "X"), "no CERTIFICATE"},
	} {
		_, err := Parse(c.kind, []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret words") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Post-quantum keys open what is encrypted to them, and are told apart: age does not mix them.
func TestHybridKeys(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	k, err := Parse(Age, []byte(identity.Recipient().String()))
	if err != nil || !k.Hybrid() {
		t.Fatalf("%v, hybrid %v", err, k)
	}
	sealed, err := Encrypt([]*Key{k}, []byte(content), Options{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := age.Decrypt(bytes.NewReader(sealed), identity)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(plain); err != nil || got.String() != content {
		t.Errorf("%v: %q", err, got.String())
	}
	x25519, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(Age, []byte(identity.Recipient().String()+"\n"+x25519.Recipient().String())); err == nil || !strings.Contains(err.Error(), "does not mix") {
		t.Errorf("mixed: %v", err)
	}
}

// pgpKey returns a public key that can be encrypted to.
func pgpKey(t testing.TB) string {
	t.Helper()
	entity, err := openpgp.NewEntity("Ada", "", "ada@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := armor.Encode(&out, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := entity.Serialize(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Whatever is given as the key of a recipient, it is refused, or what is encrypted to it is not the
// content. The seeds are real keys of each kind, because damage to them gets further than words.
func FuzzParse(f *testing.F) {
	x25519, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		f.Fatal(err)
	}
	for _, kind := range []string{"rsa", "p256", "p521", "ed25519"} {
		f.Add(SMIME, string(lab.PEM(smimeCertificate(f, kind, "ada@example.com"))))
	}
	f.Add(OpenPGP, pgpKey(f))
	f.Add(Age, x25519.Recipient().String()+"\n# laptop\n"+hybrid.Recipient().String())
	for _, kind := range []string{"ed25519", "rsa"} {
		public, err := ssh.NewPublicKey(lab.NewKey(f, kind).Public())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(Age, string(ssh.MarshalAuthorizedKey(public)))
	}
	f.Add(SMIME, "-----BEGIN CERTIFICATE-----\n")
	f.Add(OpenPGP, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZ\n")
	f.Add(Age, "age1qqq\nssh-ed25519 AAAA")
	f.Fuzz(func(t *testing.T, kind, text string) {
		k, err := Parse(kind, []byte(text))
		if err != nil {
			if len(text) > 40 && strings.Contains(err.Error(), text) {
				t.Errorf("the error quotes the text: %v", err)
			}
			return
		}
		_, _, _ = k.String(), k.Names(), k.Expires()
		if k.Usable(Options{}, lab.TestNow) != nil {
			return
		}
		sealed, err := Encrypt([]*Key{k}, []byte(content), Options{}, lab.TestNow)
		if err != nil {
			t.Errorf("a usable key: %v", err)
		}
		if bytes.Contains(sealed, []byte(content)) {
			t.Error("the content is not encrypted")
		}
	})
}

func BenchmarkEncrypt(b *testing.B) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		b.Fatal(err)
	}
	mail := bytes.Repeat([]byte("0123456789abcdef"), 9<<6)
	for name, c := range map[string]struct{ kind, text string }{
		"smime-rsa":  {SMIME, string(lab.PEM(smimeCertificate(b, "rsa", "ada@example.com")))},
		"smime-p256": {SMIME, string(lab.PEM(smimeCertificate(b, "p256", "ada@example.com")))},
		"age":        {Age, identity.Recipient().String()},
		"openpgp":    {OpenPGP, pgpKey(b)},
	} {
		b.Run(name, func(b *testing.B) {
			k, err := Parse(c.kind, []byte(c.text))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Encrypt([]*Key{k}, mail, Options{}, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
