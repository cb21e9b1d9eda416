package delivery

import (
	"bytes"
	"context"
	"crypto/fips140"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// fipsCase is one thing that a mail can be made with. refused is the key that a problem names with
// fips140=only; "" says that it works there, too.
type fipsCase struct {
	name, refused string
	change        func(t *Target, dir string)
}

func fipsPayload(name, refused string, s func(*Target)) fipsCase {
	return fipsCase{name, refused, func(t *Target, _ string) { s(t) }}
}

// protected sets the passphrase of a payload.
func protected(t *Target, kind, encodingOf string) {
	t.Payload, t.PKCS12Encoding = kind, encodingOf
	phrase := Passphrase{Ref: secrets.Ref{Value: secrets.New([]byte("correct-horse-battery"))}}
	if kind == payload.PKCS12 {
		t.PKCS12Passphrase = phrase
	} else {
		t.KeystorePassword = phrase
	}
}

func login(t *Target, method string) {
	t.AuthMethod, t.Username.Plain, t.Password = method, "certs", secrets.Ref{Value: secrets.New([]byte("correct-horse-battery"))}
}

// to encrypts to the one recipient, with a key from a file.
func to(kind, file string, oaep bool) func(*Target, string) {
	return func(t *Target, dir string) {
		t.Encryption, t.SMIMEOAEP = kind, oaep
		t.RecipientKeys = map[string]secrets.Ref{t.To[0]: {File: filepath.Join(dir, file)}}
	}
}

var fipsCases = []fipsCase{
	fipsPayload("`pem`", "", func(t *Target) { t.Payload = payload.PEM }),
	fipsPayload("`pem_and_key`", "", func(t *Target) { t.Payload = payload.PEMAndKey }),
	fipsPayload("`der`", "", func(t *Target) { t.Payload = payload.DER }),
	fipsPayload("`pkcs7`", "", func(t *Target) { t.Payload = payload.PKCS7 }),
	fipsPayload("`zip`, with `zip_private_key`", "", func(t *Target) { t.Payload, t.ZipPrivateKey = payload.ZIP, true }),
	fipsPayload("`pkcs12`, `modern2023`", "payload", func(t *Target) { protected(t, payload.PKCS12, payload.Modern2023) }),
	fipsPayload("`pkcs12`, `legacydes`", "payload", func(t *Target) { protected(t, payload.PKCS12, payload.LegacyDES) }),
	fipsPayload("`pkcs12`, `modern2026`", "payload", func(t *Target) { protected(t, payload.PKCS12, payload.Modern2026) }),
	fipsPayload("`jks`", "payload", func(t *Target) { protected(t, payload.JKS, "") }),
	fipsPayload("`pkcs12_truststore`, `modern2023`", "", func(t *Target) { protected(t, payload.TrustStore, payload.Modern2023) }),
	fipsPayload("`pkcs12_truststore`, `legacydes`", "payload", func(t *Target) { protected(t, payload.TrustStore, payload.LegacyDES) }),
	fipsPayload("`pkcs12_truststore`, `modern2026`", "", func(t *Target) { protected(t, payload.TrustStore, payload.Modern2026) }),
	{"`smime` to RSA", "to[0]", to(encryption.SMIME, "rsa.pem", false)},
	{"`smime` to RSA, with `smime_oaep`", "", to(encryption.SMIME, "rsa.pem", true)},
	{"`smime` to EC", "", to(encryption.SMIME, "p256.pem", false)},
	{"`openpgp`", "encryption", to(encryption.OpenPGP, "key.asc", false)},
	{"`age`", "encryption", to(encryption.Age, "key.pub", false)},
	{"`sign.smime`, RSA", "", func(t *Target, dir string) {
		t.Sign.SMIME = SignSMIME{Certificate: secrets.Ref{File: filepath.Join(dir, "sign.pem")}, PrivateKey: secrets.Ref{File: filepath.Join(dir, "sign.key")}}
	}},
	{"`dkim`, RSA", "", func(t *Target, dir string) {
		t.DKIM = DKIM{Domain: "example.com", Selector: "c1", PrivateKey: secrets.Ref{File: filepath.Join(dir, "dkim-rsa.key")}}
	}},
	{"`dkim`, Ed25519", "", func(t *Target, dir string) {
		t.DKIM = DKIM{Domain: "example.com", Selector: "c1", PrivateKey: secrets.Ref{File: filepath.Join(dir, "dkim-ed25519.key")}}
	}},
	fipsPayload("`auth_method: cram-md5`", "auth_method", func(t *Target) { login(t, smtp.AuthCRAMMD5) }),
	fipsPayload("`auth_method: scram-sha-256`, password from 14 characters", "", func(t *Target) { login(t, smtp.AuthSCRAMSHA256) }),
}

// fipsResult is what became of a case: Refused has the key of the first problem.
type fipsResult struct{ Refused, Problem, Failure string }

// Every payload, encryption and signature works with fips140=on, and with fips140=only works or is
// refused when the targets are loaded. Neither panics, nor takes for ever.
//
// Fault: a payload, an encryption or a signature that GODEBUG=fips140=only does not allow. Result: refused when
// targets are loaded, with what to use instead; no panic and no endless loop.
func TestFIPS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, data []byte) { lab.Write(t, filepath.Join(dir, name), data) }
	p := lab.NewPKI(t, "p256")
	write("event.pem", lab.PEM(p.Leaf, p.Intermediate))
	write("event.key", lab.KeyPEM(t, p.Leaf.Key))
	for _, kind := range []string{"rsa", "p256"} {
		write(kind+".pem", lab.PEM(mailCertificate(t, kind, testTarget().To[0], 300)))
	}
	write("key.asc", newHolder(t, encryption.OpenPGP, testTarget().To[0]).public)
	write("key.pub", newHolder(t, encryption.Age, testTarget().To[0]).public)
	signer := mailCertificate(t, "rsa", testTarget().FromAddress, 300)
	write("sign.pem", lab.PEM(signer))
	write("sign.key", lab.KeyPEM(t, signer.Key))
	write("dkim-rsa.key", lab.KeyPEM(t, lab.NewKey(t, "rsa")))
	write("dkim-ed25519.key", lab.KeyPEM(t, lab.NewKey(t, "ed25519")))

	for _, mode := range []string{"on", "only"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // an endless loop ends here
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestFIPSChild$", "-test.count", "1")
			cmd.Env = append(os.Environ(), "GODEBUG=fips140="+mode, "FIPS_CHILD="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%.3000s", err, out)
			}
			text, err := os.ReadFile(filepath.Join(dir, "results-"+mode))
			if err != nil {
				t.Fatal(err)
			}
			var results map[string]fipsResult
			if err := json.Unmarshal(text, &results); err != nil {
				t.Fatal(err)
			}
			for _, c := range fipsCases {
				want := ""
				if mode == "only" {
					want = c.refused
				}
				got, there := results[c.name]
				if !there || got.Failure != "" || got.Refused != want {
					t.Errorf("%s: %+v, want refused at %q", c.name, got, want)
				}
				if want != "" && !strings.Contains(got.Problem, "fips140=only") {
					t.Errorf("%s: the problem is %q", c.name, got.Problem)
				}
			}
		})
	}
	// The page says the same.
	page, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "payloads.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range fipsCases {
		row := "| " + c.name + " | works | works |\n"
		if c.refused != "" {
			row = "| " + c.name + " | works | refused |\n"
		}
		if !bytes.Contains(page, []byte(row)) {
			t.Errorf("docs/payloads.md has no row %s", row)
		}
	}
}

// TestFIPSChild makes a mail for each case, in the process that TestFIPS starts.
func TestFIPSChild(t *testing.T) {
	dir := os.Getenv("FIPS_CHILD")
	if dir == "" {
		return // it is only a part of TestFIPS
	}
	results := map[string]fipsResult{}
	for _, c := range fipsCases {
		results[c.name] = fipsMail(t, c, dir)
	}
	mode := "on"
	if fips140.Enforced() {
		mode = "only"
	}
	if !fips140.Enabled() {
		t.Fatal("FIPS 140-3 mode is off")
	}
	text, err := json.Marshal(results)
	if err != nil {
		t.Fatal(err)
	}
	lab.Write(t, filepath.Join(dir, "results-"+mode), text)
}

func fipsMail(t *testing.T, c fipsCase, dir string) (result fipsResult) {
	defer func() {
		if r := recover(); r != nil {
			result.Failure = fmt.Sprintf("panic: %v", r)
		}
	}()
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	target := *testTarget()
	target.TLSMode, target.Host = smtp.TLSStartTLS, "127.0.0.1"
	target.SetDefaults()
	c.change(&target, dir)
	target.SetDefaults()
	definitions, problems := Relays{}.Define([]Target{target})
	if definitions == nil {
		problem := problems[slices.IndexFunc(problems, func(p config.Problem) bool { return p.Severity == config.Error })]
		return fipsResult{Refused: strings.TrimPrefix(problem.Path, "targets[0]."), Problem: problem.Message}
	}
	store, err := secrets.Open(secrets.Config{}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	courier := NewCourier(NewBook(definitions, Source{}), store, Options{InvalidDates: "warn"})
	defer courier.Close()
	courier.sources = newSourceBook(Sources{}, secrets.Policy{FileRoots: []string{dir}})
	ev := &events.Event{ID: "e1", Source: "test://ca", Certificate: events.Certificate{PEM: string(read("event.pem"))},
		PrivateKey: &events.Reference{File: filepath.Join(dir, "event.key")}}
	a := &attempt{Courier: courier, order: verdict.Attempt{Target: target.ID, Number: 1}, event: ev, defs: definitions}
	defer a.clear()
	if failure := a.prepare(t.Context()); failure != nil {
		result.Failure = failure.Error()
	}
	return result
}
