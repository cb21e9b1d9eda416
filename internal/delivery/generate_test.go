package delivery

import (
	"bytes"
	"encoding/base64"
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// withVault gives the fixture a store at a Vault, with a policy of its own; a second call is
// the start of another process.
func (o *fixture) withVault(v *lab.VaultServer, rules string) {
	o.t.Helper()
	v.Policy(o.t, "certpost", rules)
	store, err := secrets.Open(secrets.Config{Address: v.Address, Auth: secrets.Auth{Method: "token", Token: secrets.Ref{Value: secrets.New([]byte(v.Token(o.t, "1h", "certpost")))}}}, zerolog.Nop())
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(store.Close)
	sources := o.sources
	o.Courier = NewCourier(o.book, store, o.opts)
	o.sources = sources
	o.t.Cleanup(o.Close)
}

var p12Part = regexp.MustCompile(`(?s)Content-Type: application/x-pkcs12.*?\r?\n\r?\n(.*?)\r?\n--`)

// fileIn returns the PKCS#12 file of a mail.
func fileIn(t testing.TB, raw []byte) []byte {
	t.Helper()
	part := p12Part.FindSubmatch(raw)
	if part == nil {
		t.Fatalf("no PKCS#12 file in\n%.2000s", raw)
	}
	file, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\r", "", "\n", "").Replace(string(part[1])))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

const p12Policy = `path "secret/data/p12/*" { capabilities = ["read", "create", "update"] }`

// The passphrase is in Vault before the mail is sent, stays the same for retries, replays and
// other processes, opens the file, and is in no mail, receipt or failure.
//
// Fault: one that dies between the passphrase and the mail. Result: the next one uses the same
// passphrase.
func TestGeneratedPassphrase(t *testing.T) {
	t.Parallel()
	relay, err := devrelay.Start(devrelay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	v := lab.Vault(t)
	o := newFixture(t, relay.Plain(), RelayLimits{}, func(target *Target) {
		target.Payload = payload.PKCS12
		target.PKCS12Passphrase.Generate.Vault = &secrets.VaultRef{Mount: "secret", Path: "p12/{target}/{cn}"}
	})
	key := o.withKey()
	o.withVault(v, p12Policy)
	stored := func() (passphrase string, version float64) {
		t.Helper()
		data := v.Call(t, "GET", "secret/data/p12/"+o.target.ID+"/_wildcard.example.com", nil)["data"].(map[string]any)
		passphrase, _ = data["data"].(map[string]any)["passphrase"].(string)
		return passphrase, data["metadata"].(map[string]any)["version"].(float64)
	}

	// Looking at the mail makes none.
	if _, failure := o.Preview(o.event, o.target.ID, bytes.Clone(key)); failure != nil {
		t.Fatal(failure)
	}
	found := o.Inspector().Examine(t.Context(), verdict.Trial{Target: o.target.ID, Event: o.event.Encode()})
	if !finds(found, "ok secret", "passphrases can be stored there") || !finds(found, "ok key", "file can be made") || finds(found, "error", "") {
		t.Errorf("the preflight says\n%s", strings.Join(spoken(found), "\n"))
	}
	for request, n := range v.Requests(t) {
		if strings.Contains(request, "secret/data/p12") && !strings.HasPrefix(request, "read ") {
			t.Errorf("looking at a mail has made %d requests %s", n, request)
		}
	}

	// The first process dies at the claim: the passphrase is stored, the mail is not sent.
	claimed := ""
	_, failure := o.Deliver(t.Context(), o.event, verdict.Attempt{Target: o.target.ID, Number: 1, Claim: func(time.Time) error {
		claimed, _ = stored()
		return errors.New("killed")
	}})
	if failure == nil || relay.Count() != 0 || len(claimed) != 26 {
		t.Fatalf("%v, %d mails, a passphrase of %d characters at the claim", failure, relay.Count(), len(claimed))
	}
	o.withVault(v, p12Policy) // another process
	receipt := o.mustDeliver()
	o.mustDeliver() // a replay
	passphrase, version := stored()
	if passphrase != claimed || version != 1 {
		t.Errorf("the passphrase was made again: version %v", version)
	}
	if got := receipt.Secrets["vault:secret/p12/"+o.target.ID+"/_wildcard.example.com#passphrase"]; got != "1" {
		t.Errorf("the receipt has the secrets %v", receipt.Secrets)
	}
	for _, mail := range relay.Mails() {
		if _, _, _, err := pkcs12.DecodeChain(fileIn(t, mail.Raw), passphrase); err != nil {
			t.Errorf("the passphrase in Vault does not open the file: %v", err)
		}
		text := strings.Join(strings.Fields(read(t, mail.Raw).text), " ")
		if want := "secret/p12/" + o.target.ID + "/_wildcard.example.com#passphrase@1 (mount/path#field@version; version 1 was made for this certificate)"; !strings.Contains(text, want) {
			t.Errorf("the mail does not say where the passphrase is:\n%s", text)
		}
		if bytes.Contains(mail.Raw, []byte(passphrase)) {
			t.Error("the mail contains the passphrase")
		}
	}

	// A renewal gets its own, and a replay of the certificate before still has the first one.
	before := o.event.Certificate.PEM
	renewed := o.withKey()
	if receipt = o.mustDeliver(); receipt.Secrets["vault:secret/p12/"+o.target.ID+"/_wildcard.example.com#passphrase"] != "2" {
		t.Errorf("after a renewal the receipt has the secrets %v", receipt.Secrets)
	}
	if second, _ := stored(); second == passphrase {
		t.Error("two certificates have one passphrase")
	}
	o.useKey(key)
	o.event.Certificate.PEM = before
	if receipt = o.mustDeliver(); receipt.Secrets["vault:secret/p12/"+o.target.ID+"/_wildcard.example.com#passphrase"] != "1" {
		t.Errorf("a replay after a renewal has the secrets %v", receipt.Secrets)
	}

	// What cannot be delivered leaves nothing in Vault.
	o.useKey(renewed)
	if _, failure := o.deliver(t.Context()); failure == nil || failure.Code != verdict.SMTPPayload {
		t.Errorf("with another key: %v", failure)
	}
	if _, version := stored(); version != 2 {
		t.Errorf("a refused certificate has made version %v", version)
	}

	// Rights that are missing.
	o.useKey(key)
	v.Call(t, "DELETE", "secret/metadata/p12/"+o.target.ID+"/_wildcard.example.com", nil)
	o.withVault(v, `path "secret/data/p12/*" { capabilities = ["read"] }`)
	if _, failure := o.deliver(t.Context()); failure == nil || failure.Code != verdict.SecretDenied || !strings.Contains(failure.Reason, `["read", "create", "update"]`) {
		t.Errorf("without the right to write: %v", failure)
	}
	for _, found := range [][]verdict.Finding{o.Inspector().Check(t.Context(), o.target.ID), o.Inspector().Examine(t.Context(), verdict.Trial{Target: o.target.ID, Event: o.event.Encode()})} {
		if !finds(found, "error secret", "may not create secret/data/p12/"+o.target.ID+"/") {
			t.Errorf("the check says\n%s", strings.Join(spoken(found), "\n"))
		}
	}
	v.Seal(t)
	if _, failure := o.deliver(t.Context()); failure == nil || failure.Code != verdict.SecretUnavailable {
		t.Errorf("with a sealed Vault: %v", failure)
	}
}

// useKey makes a key that of the event.
func (o *fixture) useKey(key []byte) {
	dir := o.t.TempDir()
	lab.Write(o.t, filepath.Join(dir, "key.pem"), key)
	o.event.PrivateKey = &events.Reference{File: filepath.Join(dir, "key.pem")}
	o.sources = newSourceBook(Sources{}, secrets.Policy{FileRoots: []string{dir}})
}

// A target's definition says in time what cannot work.
func TestValidateGenerate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Target)
		path   string
		says   string
		warns  bool
	}{
		"a version":          {func(t *Target) { t.PKCS12Passphrase.Generate.Vault.Version = 2 }, "pkcs12_passphrase.generate.vault.version", "cannot be written", false},
		"no mount":           {func(t *Target) { t.PKCS12Passphrase.Generate.Vault.Mount = "" }, "pkcs12_passphrase.generate.vault", "vault.mount: is empty", false},
		"two sources":        {func(t *Target) { t.PKCS12Passphrase.Ref = secrets.Ref{Env: "X"} }, "pkcs12_passphrase", "another source", false},
		"one path for all":   {func(t *Target) { t.PKCS12Passphrase.Generate.Vault.Path = "p12/ops" }, "pkcs12_passphrase.generate.vault.path", "want {cn} in it", true},
		"of another payload": {func(t *Target) { t.Payload = payload.PEM }, "pkcs12_passphrase", "is not used", true},
	} {
		target := testTarget()
		target.SetDefaults()
		target.Payload = payload.PKCS12
		target.PKCS12Passphrase.Generate.Vault = &secrets.VaultRef{Mount: "secret", Path: "p12/{cn}"}
		c.change(target)
		v := &validation{}
		target.validatePayload(v)
		if len(v.found) != 1 || v.found[0].Path != c.path || !strings.Contains(v.found[0].Message, c.says) || (v.found[0].Severity == config.Warning) != c.warns {
			t.Errorf("%s: %v", name, v.found)
		}
	}
}
