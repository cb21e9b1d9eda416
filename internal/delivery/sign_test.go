package delivery

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// dkimRecord returns the public key as its DNS record has it.
func dkimRecord(t testing.TB, key crypto.Signer) string {
	t.Helper()
	switch public := key.Public().(type) {
	case ed25519.PublicKey:
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)
	case *rsa.PublicKey:
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
	}
	t.Fatal("no key for DKIM")
	return ""
}

// dkimpy verifies a mail with Python's dkimpy, whose DNS is the record alone.
func dkimpy(t testing.TB, record string, raw []byte) bool {
	t.Helper()
	script := "import dkim,sys\nprint(dkim.verify(sys.stdin.buffer.read(), dnsfunc=lambda name, timeout=5: sys.argv[1].encode()))\n"
	cmd := exec.CommandContext(t.Context(), lab.Need(t, "/usr/bin/python3"), "-c", script, record)
	cmd.Stdin = bytes.NewReader(raw)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("dkimpy: %v: %s", err, out)
	}
	return strings.Contains(string(out), "True")
}

// opendkim verifies a mail with OpenDKIM, and returns what it says.
func opendkim(t testing.TB, name, record string, raw []byte) string {
	t.Helper()
	dir := t.TempDir()
	keys, conf, mail := filepath.Join(dir, "keys"), filepath.Join(dir, "opendkim.conf"), filepath.Join(dir, "mail.eml")
	lab.Write(t, keys, []byte(name+" "+record+"\n"))
	lab.Write(t, conf, []byte("Mode v\nTestPublicKeys "+keys+"\n"))
	lab.Write(t, mail, raw)
	cmd := exec.CommandContext(t.Context(), lab.Need(t, "opendkim"), "-x", conf, "-t", mail, "-vvv")
	out, _ := cmd.CombinedOutput() // it exits with other codes for mails that it refuses
	return string(out)
}

// DKIM signatures verify with OpenDKIM and dkimpy, RSA and Ed25519, over plain and encrypted
// mails. A changed mail fails, and so does one with a second Subject on top.
func TestDKIM(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"rsa", "ed25519"} {
		for _, encrypted := range []string{encryption.None, encryption.SMIME} {
			t.Run(kind+" "+encrypted, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				key := lab.NewKey(t, kind)
				lab.Write(t, filepath.Join(dir, "dkim.key"), lab.KeyPEM(t, key))
				o, _ := encryptedFixture(t, encryption.SMIME, dir, func(target *Target) {
					target.Encryption = encrypted
					target.ReplyTo = "helpdesk-with-a-long-name-that-needs-a-line-of-its-own@example.com"
					target.DKIM = DKIM{Domain: "example.com", Selector: "c1", PrivateKey: secrets.Ref{File: filepath.Join(dir, "dkim.key")}}
				})
				msg, failure := o.renderNow()
				if failure != nil {
					t.Fatal(failure)
				}
				goodWire(t, msg)
				record, name := dkimRecord(t, key), "c1._domainkey.example.com"
				if !dkimpy(t, record, msg.raw) {
					t.Error("dkimpy does not verify the mail")
				}
				if out := opendkim(t, name, record, msg.raw); kind == "rsa" && !strings.Contains(out, "dkim=pass") {
					t.Errorf("OpenDKIM says: %s", out)
				}
				changed := bytes.Replace(msg.raw, []byte("From: "), []byte("From: Mallory "), 1)
				doubled := append([]byte("Subject: pay here\r\n"), msg.raw...)
				for what, raw := range map[string][]byte{"a changed sender": changed, "a second subject": doubled} {
					if dkimpy(t, record, raw) {
						t.Errorf("%s passes dkimpy", what)
					}
				}
			})
		}
	}
}

// S/MIME signatures verify with OpenSSL; an encrypted mail is signed inside.
func TestSMIMESignatures(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"rsa", "p256"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			signer := mailCertificate(t, kind, "certs@example.com", 100)
			lab.Write(t, filepath.Join(dir, "sign.pem"), lab.PEM(signer))
			lab.Write(t, filepath.Join(dir, "sign.key"), lab.KeyPEM(t, signer.Key))
			signed := func(target *Target) {
				target.Sign.SMIME = SignSMIME{Certificate: secrets.Ref{File: filepath.Join(dir, "sign.pem")}, PrivateKey: secrets.Ref{File: filepath.Join(dir, "sign.key")}}
			}
			verify := func(raw []byte) string {
				lab.Write(t, filepath.Join(dir, "mail.eml"), raw)
				return lab.Output(t, lab.Need(t, "openssl"), "cms", "-verify", "-noverify", "-inform", "SMIME", "-in", filepath.Join(dir, "mail.eml"), "-certfile", filepath.Join(dir, "sign.pem"))
			}
			o, holders := encryptedFixture(t, encryption.SMIME, dir, signed)
			msg, failure := o.renderNow()
			if failure != nil {
				t.Fatal(failure)
			}
			goodWire(t, msg)
			if text := verify(holders["ada@example.com"].open(t, msg.raw)); !strings.Contains(text, "canary2.example.com") {
				t.Errorf("inside: %.200s", text)
			}
			o.redefine(func(target *Target) { target.Encryption = encryption.None })
			if msg, failure = o.renderNow(); failure != nil {
				t.Fatal(failure)
			}
			goodWire(t, msg)
			if text := verify(msg.raw); !strings.Contains(text, "canary2.example.com") {
				t.Errorf("not encrypted: %.200s", text)
			}
		})
	}
}

// Keys that cannot sign end the delivery with the reason, and are found before.
//
// Fault: a key or certificate that mails cannot be signed with: of another certificate, expired, for servers, too short.
// Result: dead (SMTP_PAYLOAD), never sent unsigned; `check --live` says so before.
func TestUnusableSigners(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, text []byte) secrets.Ref {
		lab.Write(t, filepath.Join(dir, name), text)
		return secrets.Ref{File: filepath.Join(dir, name)}
	}
	good, old, server := mailCertificate(t, "rsa", "certs@example.com", 100), mailCertificate(t, "rsa", "certs@example.com", -1),
		mailCertificate(t, "rsa", "certs@example.com", 100, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	edwards := mailCertificate(t, "ed25519", "certs@example.com", 100)
	smime := func(c *lab.Issued, key crypto.Signer, name string) func(*Target) {
		s := SignSMIME{Certificate: file(name+".pem", lab.PEM(c)), PrivateKey: file(name+".key", lab.KeyPEM(t, key))}
		return func(t *Target) { t.Sign.SMIME = s }
	}
	dkim := func(ref secrets.Ref) func(*Target) {
		return func(t *Target) { t.DKIM = DKIM{Domain: "example.com", Selector: "c1", PrivateKey: ref} }
	}
	for name, c := range map[string]struct {
		change func(*Target)
		want   string
	}{
		"another key":    {smime(good, old.Key, "other"), "do not belong together"},
		"expired":        {smime(old, old.Key, "old"), "expired on"},
		"for servers":    {smime(server, server.Key, "server"), "not for e-mail"},
		"Ed25519":        {smime(edwards, edwards.Key, "ed"), "must be RSA or ECDSA"},
		"DKIM no key":    {dkim(file("words", []byte("secret words"))), "not a private key in PEM"},
		"DKIM ECDSA":     {dkim(file("ec.key", lab.KeyPEM(t, lab.NewKey(t, "p256")))), "must be RSA or Ed25519"},
		"DKIM too short": {dkim(file("short.key", lab.KeyPEM(t, shortKey(t)))), "1024 bits: at least 2048"},
	} {
		o := newFixture(t, "127.0.0.1:1", RelayLimits{}, c.change)
		_, failure := o.renderNow()
		if failure == nil || failure.Code != verdict.SMTPPayload || !strings.Contains(failure.Reason, c.want) || strings.Contains(failure.Reason, "secret words") {
			t.Errorf("%s: %v, want %q", name, failure, c.want)
		}
		if found := o.Inspector().Check(t.Context(), o.target.ID); !finds(found, "error signature", c.want) || strings.Contains(strings.Join(spoken(found), " "), "secret words") {
			t.Errorf("%s: the check says %q", name, spoken(found))
		}
	}
	// What recipients would complain about is a warning.
	soon := mailCertificate(t, "rsa", "somebody@example.com", 20)
	o := newFixture(t, "127.0.0.1:1", RelayLimits{}, smime(soon, soon.Key, "soon"))
	found := o.Inspector().Check(t.Context(), o.target.ID)
	for _, want := range []string{"does not name from_address", "expires on " + soon.NotAfter.UTC().Format(time.DateOnly)} {
		if !finds(found, "warning signature", want) {
			t.Errorf("the check says %q, want %q", spoken(found), want)
		}
	}
}

// shortKey returns an RSA key of 1,024 bits.
func shortKey(t testing.TB) crypto.Signer {
	t.Helper()
	text := lab.Output(t, lab.Need(t, "openssl"), "genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024")
	block, _ := pem.Decode([]byte(text))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(crypto.Signer)
}
