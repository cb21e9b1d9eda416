package smime

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/lab"
)

// programs open a mail that is encrypted to a recipient, as the recipient does.
var programs = []struct {
	name string
	open func(t *testing.T, der []byte, to *lab.Issued) (string, error)
}{
	{"`openssl cms`", openWith("cms")},
	{"`openssl smime`", openWith("smime")},
	{"NSS", openWithNSS},
	{"gpgsm", openWithGpgsm},
}

// TestReadersOfMails lets each program open each kind of encrypted mail, as each of its
// recipients, and compares with the table in docs/payloads.md.
func TestReadersOfMails(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"openssl", "certutil", "pk12util", "cmsutil", "gpgsm"} {
		lab.Need(t, program)
	}
	all := map[string]*lab.Issued{}
	for _, kind := range []string{"rsa", "p256", "p384", "p521"} {
		all[kind] = recipient(t, kind)
	}
	page, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "payloads.md"))
	if err != nil {
		t.Fatal(err)
	}
	const yes, oaep, curves, noKey = "yes", "no: no OAEP", "no: no elliptic curves", "no: reads no such key"
	for _, row := range []struct {
		name    string
		to      []string
		options Options
		want    []string // by program, or by program and kind of recipient
	}{
		{"RSA", []string{"rsa"}, Options{}, []string{yes, yes, yes, yes}},
		{"RSA, with `smime_oaep`", []string{"rsa"}, Options{OAEP: true}, []string{yes, oaep, oaep, oaep}},
		{"P-256, P-384, P-521", []string{"p256", "p384", "p521"}, Options{}, []string{yes, curves, curves, noKey}},
		{"RSA and EC in one mail, as RSA", []string{"rsa", "p256"}, Options{}, []string{yes, curves, curves, yes}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			line := "| " + row.name + " | " + strings.Join(row.want, " | ") + " |\n"
			if !bytes.Contains(page, []byte(line)) {
				t.Errorf("docs/payloads.md has no row\n%s", line)
			}
			var to []*x509.Certificate
			for _, kind := range row.to {
				to = append(to, all[kind].Certificate)
			}
			der, err := Encrypt(to, []byte(mail), row.options)
			if err != nil {
				t.Fatal(err)
			}
			readers := row.to
			if strings.HasSuffix(row.name, "as RSA") {
				readers = readers[:1]
			}
			for i, p := range programs {
				for _, kind := range readers {
					got, err := p.open(t, der, all[kind])
					if opened := err == nil && got == mail; opened != (row.want[i] == yes) {
						t.Errorf("%s as %s: opened %v, want %s: %v", p.name, kind, opened, row.want[i], err)
					}
				}
			}
		})
	}
}

// run runs a program; what it prints on standard error is in the error.
func run(name string, input []byte, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return string(out), err
}

func openWith(command string) func(*testing.T, []byte, *lab.Issued) (string, error) {
	return func(t *testing.T, der []byte, to *lab.Issued) (string, error) {
		dir := t.TempDir()
		file, cert, key := filepath.Join(dir, "smime.p7m"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		lab.Write(t, file, der)
		lab.Write(t, cert, lab.PEM(to))
		lab.Write(t, key, lab.KeyPEM(t, to.Key))
		return run("openssl", nil, command, "-decrypt", "-binary", "-inform", "DER", "-in", file, "-recip", cert, "-inkey", key)
	}
}

const p12Passphrase = "secret"

func openWithNSS(t *testing.T, der []byte, to *lab.Issued) (string, error) {
	dir := t.TempDir()
	p12, store, file := filepath.Join(dir, "key.p12"), filepath.Join(dir, "nss"), filepath.Join(dir, "smime.p7m")
	data, err := pkcs12.Modern2023.Encode(to.Key, to.Certificate, nil, p12Passphrase)
	if err != nil {
		return "", err
	}
	lab.Write(t, p12, data)
	lab.Write(t, file, der)
	if err := os.Mkdir(store, 0o700); err != nil {
		return "", err
	}
	if _, err := run("certutil", nil, "-N", "-d", store, "--empty-password"); err != nil {
		return "", err
	}
	if _, err := run("pk12util", nil, "-i", p12, "-W", p12Passphrase, "-d", store); err != nil {
		return "", err
	}
	return run("cmsutil", nil, "-D", "-d", store, "-i", file)
}

func openWithGpgsm(t *testing.T, der []byte, to *lab.Issued) (string, error) {
	home, err := os.MkdirTemp("", "sm") // short: a socket is in it
	if err != nil {
		return "", err
	}
	defer func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	}()
	data, err := pkcs12.LegacyDES.Encode(to.Key, to.Certificate, nil, p12Passphrase)
	if err != nil {
		return "", err
	}
	p12, file := filepath.Join(home, "key.p12"), filepath.Join(home, "smime.p7m")
	lab.Write(t, p12, data)
	lab.Write(t, file, der)
	gpgsm := []string{"--homedir", home, "--batch", "--no-tty", "--pinentry-mode", "loopback", "--passphrase-fd", "0", "--disable-crl-checks"}
	if _, err := run("gpgsm", []byte(p12Passphrase+"\n"), append(gpgsm, "--import", p12)...); err != nil {
		return "", err
	}
	return run("gpgsm", []byte(p12Passphrase+"\n"), append(gpgsm, "--decrypt", file)...)
}
