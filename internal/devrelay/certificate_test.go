package devrelay

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/lab"
)

// issued is a certificate below an intermediate, with its files in dir.
type issued struct {
	dir          string
	leaf, issuer *x509.Certificate
	key          crypto.Signer
}

func issue(t *testing.T) *issued {
	t.Helper()
	i := &issued{dir: t.TempDir()}
	ca := lab.NewCA(t, t.TempDir())
	certFile, keyFile := ca.Issue(t, "relay.example.com", "127.0.0.1")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	i.leaf, i.key = pair.Leaf, pair.PrivateKey.(crypto.Signer)
	// The issuer that a PKCS#12 file has besides: any that signed the leaf.
	for _, der := range pair.Certificate[1:] {
		if i.issuer, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	if i.issuer == nil {
		block, _ := pem.Decode(readFile(t, ca.File))
		if i.issuer, err = x509.ParseCertificate(block.Bytes); err != nil {
			t.Fatal(err)
		}
	}
	i.write(t, "leaf.pem", pemOf("CERTIFICATE", i.leaf.Raw))
	i.write(t, "issuer.pem", pemOf("CERTIFICATE", i.issuer.Raw))
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		t.Fatal(err)
	}
	i.write(t, "key.pem", pemOf("PRIVATE KEY", der))
	i.write(t, "key.der", der)
	i.write(t, "leaf.der", i.leaf.Raw)
	return i
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (i *issued) path(name string) string { return filepath.Join(i.dir, name) }

func (i *issued) write(t *testing.T, name string, data []byte) string {
	t.Helper()
	// Written beside and renamed, as a client of a CA does it.
	if err := os.WriteFile(i.path(name)+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(i.path(name)+".new", i.path(name)); err != nil {
		t.Fatal(err)
	}
	return i.path(name)
}

// openssl runs OpenSSL in the directory of the files.
func (i *issued) openssl(t *testing.T, args ...string) {
	t.Helper()
	command := exec.Command(lab.Need(t, "openssl"), args...)
	command.Dir = i.dir
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
}

// servedAt returns the leaf that an address serves with implicit TLS.
func servedAt(t *testing.T, address string) *x509.Certificate {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 20 * time.Second}, "tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

func TestCertificatesOfEveryKind(t *testing.T) {
	t.Parallel()
	i := issue(t)
	combined := append(append(readFile(t, i.path("key.pem")), readFile(t, i.path("leaf.pem"))...), readFile(t, i.path("issuer.pem"))...)
	i.write(t, "combined.pem", combined)
	i.openssl(t, "pkcs12", "-export", "-out", "modern.pfx", "-inkey", "key.pem", "-in", "leaf.pem", "-certfile", "issuer.pem", "-passout", "pass:test-only")
	i.openssl(t, "pkcs12", "-export", "-legacy", "-out", "legacy.p12", "-inkey", "key.pem", "-in", "leaf.pem", "-certfile", "issuer.pem", "-passout", "pass:test-only")
	// What Windows adds to a key: the name of its provider, and the mark of the machine's store.
	i.openssl(t, "pkcs12", "-export", "-legacy", "-CSP", "Microsoft Software Key Storage Provider", "-LMK", "-keyex", "-out", "windows.pfx",
		"-inkey", "key.pem", "-in", "leaf.pem", "-passout", "pass:test-only")
	// .NET writes a collection from its end: the issuer first.
	for name, encoder := range map[string]*pkcs12.Encoder{"net9.pfx": pkcs12.Modern2023, "net8.pfx": pkcs12.LegacyDES} {
		data, err := encoder.Encode(i.key, i.issuer, []*x509.Certificate{i.leaf}, "test-only")
		if err != nil {
			t.Fatal(err)
		}
		i.write(t, name, data)
	}
	// .NET's Export without a password.
	data, err := pkcs12.LegacyDES.WithRand(rand.Reader).Encode(i.key, i.leaf, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	i.write(t, "open.pfx", data)
	for name, files := range map[string]CertificateFiles{
		"PEM, key apart":          {Cert: i.path("leaf.pem"), Key: i.path("key.pem")},
		"PEM, one file":           {Cert: i.path("combined.pem")},
		"DER, key apart":          {Cert: i.path("leaf.der"), Key: i.path("key.der")},
		"DER with a PEM key":      {Cert: i.path("leaf.der"), Key: i.path("key.pem")},
		"OpenSSL":                 {Cert: i.path("modern.pfx"), Passphrase: "test-only"},
		"OpenSSL, legacy":         {Cert: i.path("legacy.p12"), Passphrase: "test-only"},
		"Windows":                 {Cert: i.path("windows.pfx"), Passphrase: "test-only"},
		".NET 9":                  {Cert: i.path("net9.pfx"), Passphrase: "test-only"},
		".NET 8":                  {Cert: i.path("net8.pfx"), Passphrase: "test-only"},
		".NET without a password": {Cert: i.path("open.pfx")},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Config{Certificate: files})
			if leaf := servedAt(t, r.SMTPS()); !leaf.Equal(i.leaf) {
				t.Errorf("it serves %s", leaf.Subject)
			}
			if _, err := r.CAFile(t.TempDir()); err == nil {
				t.Error("it has a CA of its own")
			}
		})
	}
}

func TestCertificatesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	i, other := issue(t), issue(t)
	i.openssl(t, "pkcs12", "-export", "-out", "locked.pfx", "-inkey", "key.pem", "-in", "leaf.pem", "-passout", "pass:test-only")
	i.openssl(t, "pkey", "-in", "key.pem", "-aes256", "-passout", "pass:test-only", "-out", "encrypted.pem")
	i.write(t, "garbage", []byte("garbage"))
	for says, files := range map[string]CertificateFiles{
		"no such file":                                {Cert: i.path("none.pem")},
		"leaf.pem: it has no private key":             {Cert: i.path("leaf.pem")},
		"key.pem: it is PEM without a":                {Cert: i.path("key.pem")},
		"garbage: it is neither PEM nor":              {Cert: i.path("garbage")},
		"garbage: it has no private key":              {Cert: i.path("leaf.pem"), Key: i.path("garbage")},
		"belongs to no certificate":                   {Cert: i.path("leaf.pem"), Key: other.path("key.pem")},
		"the passphrase does not open":                {Cert: i.path("locked.pfx"), Passphrase: "wrong-one"},
		"encrypted.pem: the private key is encrypted": {Cert: i.path("leaf.pem"), Key: i.path("encrypted.pem")},
		"has a private key already":                   {Cert: i.path("locked.pfx"), Passphrase: "test-only", Key: i.path("key.pem")},
	} {
		r, err := Start(Config{Certificate: files})
		if err == nil {
			_ = r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "wrong-one") {
			t.Errorf("%+v gave %v, want %q", files, err, says)
		}
	}
}

// New files are served from the next handshake on, and a pair that cannot be used is not.
func TestCertificatesAreReloaded(t *testing.T) {
	t.Parallel()
	i, next := issue(t), issue(t)
	var mu sync.Mutex
	var told []string
	r := start(t, Config{
		Certificate: CertificateFiles{Cert: i.path("leaf.pem"), Key: i.path("key.pem")},
		Log:         func(text string) { mu.Lock(); defer mu.Unlock(); told = append(told, text) },
	})
	serves := func(want *x509.Certificate, when string) {
		t.Helper()
		if got := servedAt(t, r.SMTPS()); !got.Equal(want) {
			t.Errorf("%s it serves serial %v, want %v", when, got.SerialNumber, want.SerialNumber)
		}
	}
	serves(i.leaf, "at the start")
	i.write(t, "leaf.pem", readFile(t, next.path("leaf.pem")))
	serves(i.leaf, "with the key of another certificate")
	serves(i.leaf, "still")
	i.write(t, "key.pem", readFile(t, next.path("key.pem")))
	serves(next.leaf, "with both files")
	if err := os.Remove(i.path("key.pem")); err != nil {
		t.Fatal(err)
	}
	serves(next.leaf, "while a file is away")
	c := client(t, r, r.Plain())
	if offered, _ := c.Extension("STARTTLS"); offered {
		t.Error("STARTTLS is offered on the listener without TLS")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 2 || !strings.Contains(told[0], "the former one stays") || told[1] != "loaded the new certificate" {
		t.Errorf("it says %q", told)
	}
}

// STARTTLS serves the same certificate.
func TestStartTLSWithFiles(t *testing.T) {
	t.Parallel()
	i := issue(t)
	r := start(t, Config{Certificate: CertificateFiles{Cert: i.path("leaf.der"), Key: i.path("key.der")}, Opportunistic: true})
	roots := x509.NewCertPool()
	roots.AddCert(i.issuer)
	for _, address := range []string{r.Submission(), r.Plain()} {
		c := connect(t, address)
		if err := c.StartTLS(&tls.Config{RootCAs: roots, ServerName: "relay.example.com"}); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		if state, _ := c.TLSConnectionState(); len(state.PeerCertificates) == 0 || !bytes.Equal(state.PeerCertificates[0].Raw, i.leaf.Raw) {
			t.Errorf("%s serves another certificate", address)
		}
	}
}
