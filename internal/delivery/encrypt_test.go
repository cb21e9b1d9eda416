package delivery

import (
	"bytes"
	"crypto/x509"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// holder is a recipient with a key for one kind of encryption.
type holder struct {
	public []byte
	// open returns the text that a whole encrypted mail, or an encrypted file, has in it.
	open func(t *testing.T, sealed []byte) []byte
}

// mailCertificate issues an S/MIME certificate that is valid for so many days from now.
func mailCertificate(t testing.TB, kind, address string, days int, edit ...func(*x509.Certificate)) *lab.Issued {
	t.Helper()
	ca := lab.Issue(t, nil, lab.NewKey(t, "p256"), "Mail CA of "+address, lab.AsCA, validFor(time.Now(), 1000))
	forMail := func(c *x509.Certificate) {
		c.EmailAddresses = []string{address}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
		c.KeyUsage = x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement | x509.KeyUsageDigitalSignature
	}
	return lab.Issue(t, ca, lab.NewKey(t, kind), address, append([]func(*x509.Certificate){forMail, validFor(time.Now(), days)}, edit...)...)
}

func newHolder(t *testing.T, kind, address string) holder {
	t.Helper()
	switch kind {
	case encryption.SMIME:
		cert := mailCertificate(t, "rsa", address, 300)
		return holder{lab.PEM(cert), func(t *testing.T, mail []byte) []byte {
			dir := t.TempDir()
			lab.Write(t, filepath.Join(dir, "mail.eml"), mail)
			lab.Write(t, filepath.Join(dir, "cert.pem"), lab.PEM(cert))
			lab.Write(t, filepath.Join(dir, "key.pem"), lab.KeyPEM(t, cert.Key))
			return []byte(lab.Output(t, lab.Need(t, "openssl"), "cms", "-decrypt", "-binary", "-inform", "SMIME", "-in", filepath.Join(dir, "mail.eml"),
				"-recip", filepath.Join(dir, "cert.pem"), "-inkey", filepath.Join(dir, "key.pem")))
		}}
	case encryption.OpenPGP:
		entity, err := openpgp.NewEntity("Ada", "", address, nil)
		if err != nil {
			t.Fatal(err)
		}
		var public bytes.Buffer
		w, err := armor.Encode(&public, openpgp.PublicKeyType, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := entity.Serialize(w); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return holder{public.Bytes(), func(t *testing.T, raw []byte) []byte {
			msg, err := mail.ReadMessage(bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
			if err != nil || kind != "multipart/encrypted" || params["protocol"] != "application/pgp-encrypted" {
				t.Fatalf("%v: %s %v", err, kind, params)
			}
			parts := multipart.NewReader(msg.Body, params["boundary"])
			control, err := parts.NextPart()
			if err != nil || control.Header.Get("Content-Type") != "application/pgp-encrypted" {
				t.Fatalf("the first part: %v", err)
			}
			part, err := parts.NextPart()
			if err != nil {
				t.Fatal(err)
			}
			block, err := armor.Decode(part)
			if err != nil {
				t.Fatal(err)
			}
			read, err := openpgp.ReadMessage(block.Body, openpgp.EntityList{entity}, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			var plain bytes.Buffer
			if _, err := plain.ReadFrom(read.UnverifiedBody); err != nil {
				t.Fatal(err)
			}
			return plain.Bytes()
		}}
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return holder{[]byte(identity.Recipient().String()), func(t *testing.T, sealed []byte) []byte {
		r, err := age.Decrypt(bytes.NewReader(sealed), identity)
		if err != nil {
			t.Fatal(err)
		}
		var plain bytes.Buffer
		if _, err := plain.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		return plain.Bytes()
	}}
}

// encryptedFixture is a fixture whose target encrypts to two people, one with a key in a file
// of its own and one in a directory.
func encryptedFixture(t *testing.T, kind string, dir string, change func(*Target)) (*fixture, map[string]holder) {
	t.Helper()
	p := lab.NewPKI(t, "p256")
	key := filepath.Join(dir, "leaf.key")
	lab.Write(t, key, lab.KeyPEM(t, p.Leaf.Key))
	holders := map[string]holder{"ada@example.com": newHolder(t, kind, "ada@example.com"), "ops@example.com": newHolder(t, kind, "ops@example.com")}
	lab.Write(t, filepath.Join(dir, "ops@example.com"+keyFileEndings[kind]), holders["ops@example.com"].public)
	lab.Write(t, filepath.Join(dir, "ada.key"), holders["ada@example.com"].public)
	o := newFixture(t, "127.0.0.1:1", RelayLimits{}, func(target *Target) {
		target.Payload, target.Encryption, target.RecipientKeysDir = payload.PEMAndKey, kind, dir
		target.To, target.CC = []string{"Ops@EXAMPLE.com"}, []string{"ada@example.com"}
		target.RecipientKeys = map[string]secrets.Ref{"ada@example.com": {File: filepath.Join(dir, "ada.key")}}
		if change != nil {
			change(target)
		}
	})
	leaf := lab.Issue(t, p.Intermediate, p.Leaf.Key, "canary.example.com", lab.DNSNames("canary.example.com", "canary2.example.com"), validFor(time.Now(), 60))
	o.event.ID = "canary.example.com-2026"
	o.event.Certificate.PEM = string(lab.PEM(leaf, p.Intermediate))
	o.event.PrivateKey = &events.Reference{File: key}
	o.sources = newSourceBook(Sources{}, secrets.Policy{FileRoots: []string{dir}})
	return o, holders
}

// renderNow renders the mail that a delivery of the fixture's event would send.
func (o *fixture) renderNow() (*message, *verdict.Failure) {
	o.t.Helper()
	a := &attempt{Courier: o.Courier, order: verdict.Attempt{Target: o.target.ID, Number: 1}, event: o.event, defs: o.book.Current(), started: time.Now()}
	if failure := a.prepare(o.t.Context()); failure != nil {
		return nil, failure
	}
	return a.msg, nil
}

// Every recipient opens the mail, and reads the files of the certificate in it. Outside
// nothing tells which certificate it is.
func TestEncryptedMails(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{encryption.SMIME, encryption.OpenPGP, encryption.Age} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			o, holders := encryptedFixture(t, kind, t.TempDir(), nil)
			msg, failure := o.renderNow()
			if failure != nil {
				t.Fatal(failure)
			}
			goodWire(t, msg)
			outside := msg.raw
			if kind == encryption.Age {
				outside, _, _ = bytes.Cut(msg.raw, []byte("\r\n\r\n"))
			}
			for _, word := range []string{"canary", "2026-"} {
				if bytes.Contains(outside, []byte(word)) || strings.Contains(msg.envelopeID, word) {
					t.Errorf("%q is to be read outside", word)
				}
			}
			header, err := mail.ReadMessage(bytes.NewReader(msg.raw))
			if err != nil {
				t.Fatal(err)
			}
			if got := header.Header.Get("Subject"); got != "[PROD] Certpost: encrypted certificate" {
				t.Errorf("subject %q", got)
			}
			if got := header.Header.Get("To") + header.Header.Get("Cc"); !strings.Contains(got, "Ops@example.com") || !strings.Contains(got, "ada@example.com") {
				t.Errorf("recipients %q", got)
			}
			for address, h := range holders {
				if kind == encryption.Age {
					m := read(t, msg.raw)
					if len(m.files) != 2 {
						t.Fatalf("%d files", len(m.files))
					}
					for i, want := range []string{"canary.example.com.pem.age", "canary.example.com.key.pem.age"} {
						if m.files[i].Name != want || !bytes.Contains(h.open(t, m.files[i].Data), []byte("-----BEGIN ")) {
							t.Errorf("%s: file %s, want %s", address, m.files[i].Name, want)
						}
					}
					continue
				}
				inner := h.open(t, msg.raw)
				m := read(t, inner)
				if len(m.files) != 2 || !bytes.Contains(m.files[1].Data, []byte("PRIVATE KEY")) || !strings.Contains(m.text, "canary2.example.com") {
					t.Errorf("%s reads %d files and %q", address, len(m.files), m.text)
				}
				if !strings.Contains(m.text, "This mail was encrypted with") || strings.Contains(m.text, "not encrypted.") {
					t.Errorf("%s is told: %s", address, m.text)
				}
			}
		})
	}
}

// A mail that one recipient could not open is not sent: the delivery fails, with the reason,
// and so does the preflight.
//
// Fault: a recipient's key to encrypt to is missing, expired or for something else. Result: refused when targets are
// loaded, a warning if it has expired; later dead (SMTP_PAYLOAD, or SECRET_NOT_FOUND if it is missing), never sent in clear.
func TestRecipientsWithoutUsableKey(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text []byte // of ada's key
		code verdict.Code
		want string
	}{
		"expired":         {lab.PEM(mailCertificate(t, "rsa", "ada@example.com", -1)), verdict.SMTPPayload, "the key of ada@example.com to encrypt to cannot be used: the certificate expired on"},
		"for servers":     {lab.PEM(mailCertificate(t, "rsa", "ada@example.com", 10, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), verdict.SMTPPayload, "not for e-mail"},
		"only signs":      {lab.PEM(mailCertificate(t, "rsa", "ada@example.com", 10, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })), verdict.SMTPPayload, "keyEncipherment"},
		"Ed25519":         {lab.PEM(mailCertificate(t, "ed25519", "ada@example.com", 10)), verdict.SMTPPayload, "can only sign"},
		"another thing":   {[]byte("secret words"), verdict.SMTPPayload, "it has no PEM block"},
		"it is not there": {nil, verdict.SecretNotFound, "the key of ada@example.com to encrypt to is not there: file:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			o, _ := encryptedFixture(t, encryption.SMIME, dir, nil)
			if c.text == nil {
				if err := os.Remove(filepath.Join(dir, "ada.key")); err != nil {
					t.Fatal(err)
				}
			} else {
				lab.Write(t, filepath.Join(dir, "ada.key"), c.text)
			}
			_, failure := o.renderNow()
			if failure == nil || failure.Code != c.code || !strings.Contains(failure.Reason, c.want) || strings.Contains(failure.Reason, "secret words") {
				t.Fatalf("%v, want %s %q", failure, c.code, c.want)
			}
			if found := o.Inspector().Examine(t.Context(), verdict.Trial{Target: o.target.ID, Event: o.event.Encode()}); !finds(found, "error recipient key", "ada@example.com") {
				t.Errorf("the preflight says %q", spoken(found))
			}
			// The same is an error of the configuration when it is there at the start, unless it is only
			// time that has passed.
			v := &validation{}
			o.target.validateEncryption(v)
			severity, says := config.Error, "disabled: true"
			if name == "expired" {
				severity, says = config.Warning, "each mail becomes a dead letter"
			}
			if len(v.found) != 1 || v.found[0].Severity != severity || v.found[0].Path != "cc[0]" || !strings.Contains(v.found[0].Message, says) {
				t.Errorf("the configuration: %v", v.found)
			}
			// Until there is another key, the other targets can start.
			disabled, v := o.target, &validation{}
			disabled.Disabled = true
			disabled.validateEncryption(v)
			if len(v.found) != 1 || v.found[0].Severity != config.Warning || v.found[0].Path != "cc[0]" {
				t.Errorf("disabled: %v", v.found)
			}
			keys := o.Inspector().RecipientKeys(t.Context())
			if len(keys) != 2 || keys[0].Ends(time.Now(), KeyWarning) || !keys[1].Ends(time.Now(), KeyWarning) {
				t.Errorf("the keys: %v", keys)
			}
		})
	}
}

// A key that was renewed in its file is used for the next mail, and a warning says in time
// that one ends.
func TestRecipientKeyIsRenewed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o, _ := encryptedFixture(t, encryption.SMIME, dir, nil)
	soon := mailCertificate(t, "rsa", "ada@example.com", 20)
	lab.Write(t, filepath.Join(dir, "ada.key"), lab.PEM(soon))
	found := o.Inspector().Check(t.Context(), o.target.ID)
	if !finds(found, "warning recipient key", "key of ada@example.com expires on "+soon.NotAfter.UTC().Format(time.DateOnly)) {
		t.Errorf("the check says %q", spoken(found))
	}
	if finds(found, "warning recipient key", "ops@example.com") {
		t.Errorf("the check says %q", spoken(found))
	}
	next := mailCertificate(t, "p256", "somebody@example.com", 300)
	lab.Write(t, filepath.Join(dir, "ada.key"), lab.PEM(next))
	msg, failure := o.renderNow()
	if failure != nil {
		t.Fatal(failure)
	}
	dirOf := t.TempDir()
	lab.Write(t, filepath.Join(dirOf, "mail.eml"), msg.raw)
	lab.Write(t, filepath.Join(dirOf, "cert.pem"), lab.PEM(next))
	lab.Write(t, filepath.Join(dirOf, "key.pem"), lab.KeyPEM(t, next.Key))
	if out := lab.Output(t, lab.Need(t, "openssl"), "cms", "-decrypt", "-inform", "SMIME", "-in", filepath.Join(dirOf, "mail.eml"),
		"-recip", filepath.Join(dirOf, "cert.pem"), "-inkey", filepath.Join(dirOf, "key.pem")); !strings.Contains(out, "multipart/mixed") {
		t.Errorf("the new key reads %.100q", out)
	}
	if found := o.Inspector().Check(t.Context(), o.target.ID); !finds(found, "warning recipient key", "the key of ada@example.com is that of somebody@example.com") {
		t.Errorf("the check says %q", spoken(found))
	}
}

// An attachment or a mail above its limit ends before a relay is dialled, with both numbers.
//
// Fault: larger than `max_attachment_bytes` or `max_message_bytes`. Result: dead (SMTP_PAYLOAD) with both numbers;
// no relay is dialled.
func TestSizeLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Target)
		want   string
	}{
		"attachment": {func(t *Target) { t.MaxAttachmentBytes = 500 }, "max_attachment_bytes allows 500"},
		"mail":       {func(t *Target) { t.MaxMessageBytes = 5000 }, "max_message_bytes allows 5000"},
	} {
		o := newFixture(t, "127.0.0.1:1", RelayLimits{}, c.change)
		_, failure := o.deliver(t.Context())
		if failure == nil || failure.Code != verdict.SMTPPayload || !strings.Contains(failure.Reason, c.want) || failure.Phase == verdict.PhaseConnect {
			t.Errorf("%s: %v", name, failure)
		}
	}
	exact := newFixture(t, "127.0.0.1:1", RelayLimits{}, nil)
	msg, failure := exact.renderNow()
	if failure != nil {
		t.Fatal(failure)
	}
	exact.redefine(func(t *Target) { t.MaxMessageBytes = len(msg.raw) })
	if _, failure := exact.renderNow(); failure != nil {
		t.Errorf("a mail of exactly the limit: %v", failure)
	}
	exact.redefine(func(t *Target) { t.MaxMessageBytes = len(msg.raw) - 1 })
	if _, failure := exact.renderNow(); failure == nil {
		t.Error("a mail one byte above the limit is sent")
	}
}

// A key that ends soon is a warning when the targets are loaded: no store has to answer for it.
func TestKeyThatEndsSoonIsAWarning(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for days, want := range map[int]bool{20: true, 300: false} {
		c := mailCertificate(t, "rsa", "ops@example.com", days)
		lab.Write(t, filepath.Join(dir, "ops@example.com.pem"), lab.PEM(c))
		target := *testTarget()
		target.To, target.Encryption, target.RecipientKeysDir = []string{"ops@example.com"}, encryption.SMIME, dir
		target.SetDefaults()
		definitions, problems := Relays{}.Define([]Target{target})
		if definitions == nil {
			t.Fatal(problems)
		}
		warned := slices.ContainsFunc(problems, func(p config.Problem) bool {
			return p.Severity == config.Warning && p.Path == "targets[0].to[0]" && strings.Contains(p.Message, "expires on "+c.NotAfter.UTC().Format(time.DateOnly))
		})
		if warned != want {
			t.Errorf("%d days: %v", days, problems)
		}
	}
}
