package payload

import (
	"archive/zip"
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// The matrix of payload, kind of key and reader. Each cell is read by the program of its column, which
// has to find the certificate, its chain where the format has one, and the key itself; or it has
// a reason, and the program has to fail. What the page says is made from it.

var matrixKinds = []string{"rsa", "p256", "p384", "p521", "ed25519"}

var kindNames = map[string]string{"rsa": "RSA", "p256": "P-256", "p384": "P-384", "p521": "P-521", "ed25519": "Ed25519"}

var readers = []string{"OpenSSL", "Java", "GnuTLS", "NSS", "gpgsm", "Python"}

// The reasons why a cell is not read; those in brackets are not tried.
const (
	foreign   = "(not a format of this program)"
	noPEMKeys = "(this program reads no keys in PEM)"
	noEdwards = "no Ed25519"
	pbes2     = "no PBES2"
	pbmac1    = "no PBMAC1 (RFC 9579) in this version; says that the passphrase is wrong"
	onlyRSA   = "crashes with keys of elliptic curves"
)

// matrixRow is one artefact. member is the file in an archive that is read; key says that the private key is
// read, too.
type matrixRow struct {
	name     string
	settings Settings
	kinds    []string // nil: all
	member   string
	key      bool
	// no has, by reader or by "reader kind", why a cell is not read. That a reader reads nothing
	// of a row is tried with its first kind of key.
	no map[string]string
}

// Without a key in the file the kind matters little, and the encryption is the same for all kinds.
var (
	someKinds = []string{"rsa", "p256", "ed25519"}
	oneKind   = []string{"p256"}
)

var matrix = []matrixRow{
	{name: "`pem`; in a `zip` fullchain.pem", settings: Settings{Kind: PEM}, kinds: someKinds, no: map[string]string{"NSS ed25519": noEdwards}},
	{name: "`pem_and_key`: NAME.key.pem; in a `zip` privkey.pem", settings: Settings{Kind: ZIP, WithKey: true}, member: "privkey.pem", key: true,
		no: map[string]string{"Java": noPEMKeys, "NSS": noPEMKeys, "gpgsm": noPEMKeys}},
	{name: "`pkcs12`, `modern2023`", settings: Settings{Kind: PKCS12, Alias: "web"}, key: true, no: map[string]string{"NSS ed25519": noEdwards, "gpgsm": pbes2}},
	{name: "the same with 100,000 iterations", settings: Settings{Kind: PKCS12, Alias: "web", Iterations: MaxIterations}, kinds: oneKind, key: true, no: map[string]string{"gpgsm": pbes2}},
	{name: "`pkcs12`, `legacydes`", settings: Settings{Kind: PKCS12, Alias: "web", PKCS12Encoding: LegacyDES}, kinds: someKinds, key: true,
		no: map[string]string{"NSS ed25519": noEdwards, "gpgsm p256": "(" + onlyRSA + ")", "gpgsm ed25519": "(" + onlyRSA + ")"}},
	{name: "`pkcs12`, `modern2026`", settings: Settings{Kind: PKCS12, Alias: "web", PKCS12Encoding: Modern2026}, kinds: oneKind, key: true,
		no: map[string]string{"OpenSSL": pbmac1, "Java": pbmac1, "GnuTLS": pbmac1, "NSS": pbmac1, "Python": pbmac1, "gpgsm": pbes2}},
	{name: "`jks`", settings: Settings{Kind: JKS, Alias: "web"}, key: true, no: map[string]string{"OpenSSL": foreign, "GnuTLS": foreign, "NSS": foreign, "Python": foreign, "gpgsm": foreign}},
	{name: "`der`: leaf.der", settings: Settings{Kind: DER}, kinds: someKinds, member: "leaf.der", no: map[string]string{"NSS ed25519": noEdwards}},
	{name: "`pkcs7`", settings: Settings{Kind: PKCS7}, kinds: someKinds, no: map[string]string{"NSS": "(its tools read PKCS#7 only as a mail)"}},
	{name: "`pkcs12_truststore`, `modern2023`", settings: Settings{Kind: TrustStore}, kinds: oneKind, no: map[string]string{"gpgsm": pbes2}},
	{name: "`pkcs12_truststore`, `legacydes`", settings: Settings{Kind: TrustStore, PKCS12Encoding: LegacyDES}, kinds: oneKind, no: map[string]string{"gpgsm": "(has no use for it)"}},
}

func (r matrixRow) of() []string {
	if r.kinds == nil {
		return matrixKinds
	}
	return r.kinds
}

// cell returns why a reader does not read a row with a kind of key, "" if it does.
func (r matrixRow) cell(reader, kind string) string {
	if why := r.no[reader+" "+kind]; why != "" {
		return why
	}
	return r.no[reader]
}

// file is what a reader gets.
type matrixFile struct {
	matrixRow
	kind, path, secret, dir string
	leaf                    *lab.Issued
	spki                    string // the leaf's public key in PEM
	serial                  string
	certificates            int // in the file
}

func TestReaders(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"openssl", "keytool", "certtool", "pk12util", "certutil", "gpgsm", "/usr/bin/python3"} {
		lab.Need(t, program)
	}
	if _, err := os.Stat("/usr/lib/python3/dist-packages/cryptography"); err != nil {
		lab.Skip(t, "python3-cryptography is not on this machine: `go run -C tools/test .` installs what the tests need and runs them")
	}
	nss := t.TempDir()
	lab.Output(t, "certutil", "-N", "-d", nss, "--empty-password")
	var python []matrixFile
	for _, kind := range matrixKinds {
		files := matrixFiles(t, kind)
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for _, f := range files {
				for _, reader := range readers[:len(readers)-1] {
					why := f.cell(reader, kind)
					if strings.HasPrefix(why, "(") || f.no[reader] != "" && kind != f.of()[0] {
						continue
					}
					err := f.read(t, reader, nss)
					if why == "" && err != nil {
						t.Errorf("%s: %s: %v", reader, f.name, err)
					}
					if why != "" && err == nil {
						t.Errorf("%s: %s is read, and the table says: %s", reader, f.name, why)
					}
				}
			}
		})
		for _, f := range files {
			if !strings.HasPrefix(f.cell("Python", kind), "(") {
				python = append(python, f)
			}
		}
	}
	t.Run("Python", func(t *testing.T) {
		t.Parallel()
		pythonReads(t, python)
	})
}

// matrixFiles builds all rows for one kind of key.
func matrixFiles(t *testing.T, kind string) (files []matrixFile) {
	t.Helper()
	p := lab.NewPKI(t, kind)
	b, err := ParseBundle(lab.PEM(p.Leaf, p.Intermediate, p.Root))
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(p.Leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range matrix {
		if !slices.Contains(row.of(), kind) {
			continue
		}
		made, err := Build(row.settings, b, lab.KeyPEM(t, p.Leaf.Key), []byte(passphrase), lab.TestNow)
		if err != nil {
			t.Fatal(err)
		}
		f := matrixFile{matrixRow: row, kind: kind, dir: t.TempDir(), leaf: p.Leaf, serial: verdict.SerialNumber(p.Leaf.Certificate), certificates: 3,
			spki: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))}
		data, name := made[0].Data, made[0].Name
		if row.member != "" {
			data, name = member(t, data, row.member), row.member
		}
		if row.settings.Kind == TrustStore {
			f.certificates = 2
		}
		f.path, f.secret = filepath.Join(f.dir, name), filepath.Join(f.dir, "passphrase")
		lab.Write(t, f.path, data)
		lab.Write(t, f.secret, []byte(passphrase+"\n"))
		lab.Write(t, filepath.Join(f.dir, "root.pem"), lab.PEM(p.Root))
		files = append(files, f)
	}
	return files
}

func member(t *testing.T, archive []byte, name string) []byte {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	in, err := r.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// run runs a program and returns its output.
func (f matrixFile) run(t *testing.T, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdin = strings.NewReader(passphrase + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%.600s", err, out)
	}
	return string(out), nil
}

// java are the options that make keytool start fast.
var java = []string{"-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-J-Duser.language=en"}

// read lets a program read the file; nil says that it found all that is in it.
func (f matrixFile) read(t *testing.T, reader, nss string) error {
	t.Helper()
	holds := func(out string, err error, texts ...string) error {
		for _, text := range texts {
			if err == nil && !strings.Contains(strings.ToLower(out), strings.ToLower(text)) {
				err = fmt.Errorf("no %q in\n%.600s", text, out)
			}
		}
		return err
	}
	counts := func(out string, err error) error {
		if n := strings.Count(out, "BEGIN CERTIFICATE"); err == nil && n != f.certificates {
			err = fmt.Errorf("%d certificates, want %d:\n%.600s", n, f.certificates, out)
		}
		return err
	}
	kind, pemKey := f.settings.Kind, f.key && f.member != ""
	switch reader {
	case "OpenSSL":
		switch {
		case pemKey:
			out, err := f.run(t, "openssl", "pkey", "-in", f.path, "-pubout")
			return holds(out, err, f.spki)
		case kind == PEM || kind == ZIP:
			out, err := f.run(t, "openssl", "verify", "-no_check_time", "-CAfile", filepath.Join(f.dir, "root.pem"), "-untrusted", f.path, f.path)
			return holds(out, err, ": OK")
		case kind == DER:
			out, err := f.run(t, "openssl", "x509", "-inform", "der", "-in", f.path, "-noout", "-serial", "-pubkey")
			return holds(out, err, f.serial, f.spki)
		case kind == PKCS7:
			return counts(f.run(t, "openssl", "pkcs7", "-inform", "der", "-in", f.path, "-print_certs"))
		}
		out, err := f.run(t, "openssl", "pkcs12", "-in", f.path, "-passin", "file:"+f.secret, "-nodes")
		if err = counts(out, err); err == nil && f.key {
			err = f.isKey(out)
		}
		return err
	case "Java":
		switch kind {
		case PKCS12, JKS: // signing a request takes the key itself
			store := map[string]string{PKCS12: "PKCS12", JKS: "JKS"}[kind]
			out, err := f.run(t, "keytool", append(java, "-certreq", "-alias", "web", "-storetype", store, "-keystore", f.path, "-storepass:file", f.secret)...)
			if err != nil {
				return err
			}
			return f.isRequest(out)
		case TrustStore:
			out, err := f.run(t, "keytool", append(java, "-list", "-v", "-storetype", "PKCS12", "-keystore", f.path, "-storepass:file", f.secret)...)
			return holds(out, err, "contains 2 entries", "trustedCertEntry", "Alias name: test ca 1", "Alias name: test root")
		}
		out, err := f.run(t, "keytool", append(java, "-printcert", "-file", f.path)...)
		return holds(out, err, "Serial number: "+strings.TrimLeft(f.serial, "0"), "CN=*.example.com")
	case "GnuTLS":
		switch {
		case pemKey:
			out, err := f.run(t, "certtool", "--pubkey-info", "--load-privkey", f.path)
			return holds(out, err, f.spki)
		case kind == PEM || kind == ZIP:
			return counts(f.run(t, "certtool", "--certificate-info", "--infile", f.path))
		case kind == DER:
			out, err := f.run(t, "certtool", "--certificate-info", "--inder", "--infile", f.path)
			return holds(out, err, "Serial Number (hex): "+f.serial)
		case kind == PKCS7:
			return counts(f.run(t, "certtool", "--p7-info", "--inder", "--infile", f.path))
		}
		out, err := f.run(t, "certtool", "--p12-info", "--inder", "--infile", f.path, "--password", passphrase)
		if err = counts(out, err); err == nil && f.key {
			err = holds(out, nil, "PRIVATE KEY-----")
		}
		return err
	case "NSS":
		store := filepath.Join(f.dir, "nss")
		if err := os.CopyFS(store, os.DirFS(nss)); err != nil {
			return err
		}
		if kind == PEM || kind == ZIP || kind == DER {
			args := []string{"-A", "-d", store, "-n", "web", "-t", ",,", "-i", f.path}
			if kind != DER {
				args = append(args, "-a")
			}
			if _, err := f.run(t, "certutil", args...); err != nil {
				return err
			}
			out, err := f.run(t, "certutil", "-L", "-d", store, "-n", "web")
			return holds(out, err, "CN=*.example.com")
		}
		if !f.key {
			out, err := f.run(t, "pk12util", "-l", f.path, "-w", f.secret, "-d", store)
			return holds(out, err, "Test CA 1", "Test Root")
		}
		if _, err := f.run(t, "pk12util", "-i", f.path, "-w", f.secret, "-d", store); err != nil {
			return err
		}
		out, err := f.run(t, "certutil", "-K", "-d", store)
		if err = holds(out, err, "< 0>", "web"); err != nil {
			return err
		}
		out, err = f.run(t, "certutil", "-L", "-d", store)
		return holds(out, err, "u,u,u", "Test CA 1", "Test Root")
	case "gpgsm":
		home, err := os.MkdirTemp("", "sm") // short: a socket is in it
		if err != nil {
			return err
		}
		defer func() {
			_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() // also after the test's end
			_ = os.RemoveAll(home)
		}()
		gpgsm := []string{"--homedir", home, "--batch", "--no-tty", "--pinentry-mode", "loopback", "--passphrase-fd", "0"}
		if _, err := f.run(t, "gpgsm", append(gpgsm, "--import", f.path)...); err != nil {
			return err
		}
		list := "--list-keys"
		if f.key {
			list = "--list-secret-keys"
		}
		out, err := f.run(t, "gpgsm", append(gpgsm, list, "*.example.com")...)
		return holds(out, err, "CN=*.example.com")
	}
	return errors.New("no such reader")
}

// isKey checks that a text has the leaf's key in PEM.
func (f matrixFile) isKey(text string) error {
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return errors.New("no private key")
		}
		if block.Type == "PRIVATE KEY" {
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err == nil && !f.leaf.Key.(interface{ Equal(crypto.PrivateKey) bool }).Equal(key) {
				err = errors.New("another private key")
			}
			return err
		}
	}
}

// isRequest checks that a text is a certificate request signed with the leaf's key.
func (f matrixFile) isRequest(text string) error {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return fmt.Errorf("no request in\n%.600s", text)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = request.CheckSignature()
	}
	if err == nil && !f.leaf.Key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(request.PublicKey) {
		err = errors.New("signed with another key")
	}
	return err
}

// pythonReads lets one process read all files, because its start takes longer than the reading.
func pythonReads(t *testing.T, files []matrixFile) {
	t.Helper()
	const script = `
import json, sys
from cryptography import x509
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.serialization import pkcs7, pkcs12
out = []
for f in json.load(sys.stdin):
    try:
        data, phrase, key, certs = open(f["path"], "rb").read(), f["passphrase"].encode(), None, []
        if f["kind"] in ("pkcs12", "pkcs12_truststore"):
            p = pkcs12.load_pkcs12(data, phrase)
            key = p.key
            certs = [c.certificate for c in ([p.cert] if p.cert else []) + p.additional_certs]
        elif f["kind"] == "pkcs7":
            certs = pkcs7.load_der_pkcs7_certificates(data)
        elif f["kind"] == "der":
            certs = [x509.load_der_x509_certificate(data)]
        elif f["key"]:
            key = s.load_pem_private_key(data, None)
        else:
            end = b"-----END CERTIFICATE-----\n"
            certs = [x509.load_pem_x509_certificate(c + end) for c in data.split(end) if c]
        spki = (key or certs[0]).public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo).decode()
        out.append({"certificates": len(certs), "key": key is not None, "spki": spki})
    except Exception as e:
        out.append({"error": repr(e)})
json.dump(out, sys.stdout)
`
	type task struct {
		Path       string `json:"path"`
		Kind       string `json:"kind"`
		Passphrase string `json:"passphrase"`
		Key        bool   `json:"key"`
	}
	var tasks []task
	for _, f := range files {
		tasks = append(tasks, task{f.path, f.settings.Kind, passphrase, f.key})
	}
	input, err := json.Marshal(tasks)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-W", "ignore", "-c", script)
	cmd.Stdin = bytes.NewReader(input)
	output, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var results []struct {
		Certificates int    `json:"certificates"`
		Key          bool   `json:"key"`
		SPKI         string `json:"spki"`
		Error        string `json:"error"`
	}
	if err := json.Unmarshal(output, &results); err != nil || len(results) != len(tasks) {
		t.Fatalf("%v: %d results, want %d", err, len(results), len(tasks))
	}
	for i, f := range files {
		got, why := results[i], f.cell("Python", f.kind)
		wantCertificates, fault := f.certificates, got.Error
		switch {
		case f.settings.Kind == DER:
			wantCertificates = 1
		case f.key && f.member != "":
			wantCertificates = 0
		}
		if fault == "" && (got.Key != f.key || got.Certificates != wantCertificates || f.settings.Kind != TrustStore && got.SPKI != f.spki) {
			fault = fmt.Sprintf("%d certificates, want %d; with a key %v; or another key", got.Certificates, wantCertificates, got.Key)
		}
		if (fault == "") != (why == "") {
			t.Errorf("Python, %s: %s: %q, and the table says %q", f.kind, f.name, fault, why)
		}
	}
}
