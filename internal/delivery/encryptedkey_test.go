package delivery

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// An encrypted key is decrypted with the target's passphrase, and what stands in the way is said
// with the code of its cause.
//
// Fault: the passphrase of a key is not there, wrong, or not configured. Result: dead, with the code of
// the cause and the setting.
// Fault: key and passphrase are replaced together. Result: the new ones are used.
func TestEncryptedKeys(t *testing.T) {
	t.Parallel()
	const phrase = "canary-correct-horse"
	relay, err := devrelay.Start(devrelay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	v := lab.Vault(t)
	o := newFixture(t, relay.Plain(), RelayLimits{}, func(target *Target) { target.Payload = payload.PEMAndKey })
	o.withVault(v, `path "secret/data/certs/*" { capabilities = ["read"] }`)
	key := o.withKey()
	dir := t.TempDir()
	seal := func(name, with string) {
		t.Helper()
		lab.Write(t, filepath.Join(dir, "plain.pem"), key)
		lab.Write(t, filepath.Join(dir, "with"), []byte(with))
		lab.Output(t, lab.Need(t, "openssl"), "pkcs8", "-topk8", "-in", filepath.Join(dir, "plain.pem"), "-passout", "file:"+filepath.Join(dir, "with"), "-out", filepath.Join(dir, name))
	}
	use := func(name string) {
		o.event.PrivateKey = &events.Reference{File: filepath.Join(dir, name)}
		o.sources = newSourceBook(Sources{}, secrets.Policy{FileRoots: []string{dir}})
	}
	seal("key.pem", phrase)
	use("key.pem")
	v.Put(t, "secret/certs/_wildcard.example.com", map[string]any{"passphrase": phrase})
	inVault := func(path string) secrets.Ref {
		return secrets.Ref{Vault: &secrets.VaultRef{Mount: "secret", Path: path, Key: "passphrase"}}
	}

	fails := func(name string, code verdict.Code, says string) {
		t.Helper()
		_, failure := o.deliver(t.Context())
		if failure == nil || failure.Code != code || !strings.Contains(failure.Reason, says) || strings.Contains(failure.Reason, "canary") {
			t.Errorf("%s: %v, want %s with %q", name, failure, code, says)
		}
		if found := o.Inspector().Examine(t.Context(), verdict.Trial{Target: o.target.ID, Event: o.event.Encode()}); !finds(found, "error key", says) {
			t.Errorf("%s: the preflight says\n%s", name, strings.Join(spoken(found), "\n"))
		}
	}
	fails("without private_key_passphrase", verdict.SMTPPayload, "set the target's private_key_passphrase")
	o.redefine(func(t *Target) { t.PrivateKeyPassphrase = inVault("certs/none") })
	fails("no such secret", verdict.SecretNotFound, "there is no secret at secret/certs/none")
	o.redefine(func(t *Target) { t.PrivateKeyPassphrase = inVault("other/x") })
	fails("not allowed", verdict.SecretDenied, "may not read secret/data/other/x")
	o.redefine(func(t *Target) { t.PrivateKeyPassphrase = secrets.Ref{Value: secrets.New([]byte("canary-wrong"))} })
	fails("a wrong passphrase", verdict.SMTPPayload, "cannot be decrypted with private_key_passphrase")

	o.redefine(func(t *Target) { t.PrivateKeyPassphrase = inVault("certs/{cn}") })
	receipt := o.mustDeliver()
	if got := receipt.Secrets["vault:secret/certs/{cn}#passphrase"]; got != "1" {
		t.Errorf("the receipt has the secrets %v", receipt.Secrets)
	}
	if found := o.Inspector().Check(t.Context(), o.target.ID); !finds(found, "ok secret", "depends on the certificate") {
		t.Errorf("the check says\n%s", strings.Join(spoken(found), "\n"))
	}
	// The passphrase is in the cache when both are replaced.
	seal("key.pem", "canary-the-next")
	v.Put(t, "secret/certs/_wildcard.example.com", map[string]any{"passphrase": "canary-the-next"})
	if receipt = o.mustDeliver(); receipt.Secrets["vault:secret/certs/{cn}#passphrase"] != "2" {
		t.Errorf("after both were replaced: %v", receipt.Secrets)
	}
	for _, mail := range relay.Mails() {
		if m := read(t, mail.Raw); len(m.files) != 2 || !bytes.Equal(m.files[1].Data, key) {
			t.Error("the mail has another key")
		}
		if bytes.Contains(mail.Raw, []byte("canary")) {
			t.Error("the mail contains the passphrase")
		}
	}
	// A key that is not encrypted needs no passphrase, and the setting does not disturb it.
	use("plain.pem")
	o.redefine(func(t *Target) { t.PrivateKeyPassphrase = inVault("certs/none") })
	o.mustDeliver()
}
