package delivery

import (
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
)

// previewOf previews the mail of one target, by a courier without a store: whoever asked it
// for a secret would panic.
func previewOf(t *testing.T, ev *events.Event, edit func(*Target)) (subject, to, text string, files, instead []string) {
	t.Helper()
	target := testTarget()
	target.SetDefaults()
	edit(target)
	defined, problems := (Relays{}).Define([]Target{*target})
	if defined == nil {
		t.Fatal(problems)
	}
	courier := NewCourier(NewBook(defined, Source{}), nil, Options{})
	defer courier.Close()
	v, failure := courier.Preview(ev, target.ID, nil)
	if failure != nil {
		t.Fatal(failure)
	}
	inspectMail(t, v.Raw, func(mailPart) {})
	for _, f := range v.Files {
		files = append(files, f.Name)
	}
	if v.Bytes != len(v.Raw) || v.HTML == "" || !strings.Contains(v.Text, "www.example.com") {
		t.Errorf("%d bytes, text\n%s", v.Bytes, v.Text)
	}
	return v.Subject, v.To, v.Text, files, v.Instead
}

// A preview needs no secret and no network, whatever the target.
func TestPreview(t *testing.T) {
	t.Parallel()
	vault := secrets.Ref{Vault: &secrets.VaultRef{Mount: "secret", Path: "x", Key: "y"}}
	for _, kind := range payload.Kinds {
		_, to, text, files, instead := previewOf(t, nil, func(target *Target) {
			target.Payload = kind
			switch target.settings(nil).Passphrase() {
			case "pkcs12_passphrase":
				target.PKCS12Passphrase.Ref = vault
			case "keystore_password":
				target.KeystorePassword.Ref = vault
			}
		})
		if to != "<ops@example.com>" || len(files) == 0 || instead[0] != "a sample certificate that nobody uses" || !strings.Contains(text, files[0]) {
			t.Errorf("%s: to %s, files %q, instead %q", kind, to, files, instead)
		}
	}
	_, _, text, _, _ := previewOf(t, nil, func(target *Target) {
		target.Payload = payload.PKCS12
		target.PKCS12Passphrase.Generate.Vault = &secrets.VaultRef{Mount: "secret", Path: "p12/{cn}"}
		withTemplates(t, target, "", "Kennwort für {{.Name}}: {{.PassphraseVault}} {{.Warnings}}", "<p>{{.Warnings}}</p>")
	})
	if !strings.Contains(text, "Kennwort für www.example.com: secret/p12/www.example.com#passphrase") {
		t.Errorf("the text is %s", text)
	}
	subject, to, _, files, instead := previewOf(t, nil, func(target *Target) {
		target.To, target.ToDomains, target.RecipientKeysDir = []string{"{email}", "{labels.owner}", "ops@example.com"}, []string{"*.example.org"}, t.TempDir()
		target.RecipientKeys = map[string]secrets.Ref{"ops@example.com": vault}
		target.Encryption, target.Username, target.Password = encryption.SMIME, Text{Ref: vault}, vault
		target.DKIM = DKIM{Domain: "example.com", Selector: "c1", PrivateKey: vault}
	})
	want := []string{"a sample certificate that nobody uses", "no encryption, so that it can be read: it would be encrypted with smime", "no signature",
		"owner@www.example.org as the recipient that each event names"}
	if subject != "[PROD] Certpost: encrypted certificate" || to != "<owner@www.example.org>, <ops@example.com>" || !slices.Equal(files, []string{"www.example.com.pem"}) || !slices.Equal(instead, want) {
		t.Errorf("got %q, %q, %q, %q", subject, to, files, instead)
	}
}

// That of an event has the event's certificate, and one like it where it has no key.
func TestPreviewOfAnEvent(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "rsa")
	leaf := lab.Issue(t, p.Intermediate, p.Leaf.Key, "www.example.com", lab.DNSNames("www.example.com", "host.example.org"), validFor(lab.TestNow, 20_000))
	ev := &events.Event{ID: "e1", Certificate: events.Certificate{PEM: string(lab.PEM(leaf, p.Intermediate))}, Labels: map[string]string{"owner": "web@example.com"}}
	_, to, text, _, instead := previewOf(t, ev, func(target *Target) {
		target.To, target.ToDomains = []string{"{labels.owner}"}, []string{"example.com"}
	})
	if to != "<web@example.com>" || !strings.Contains(text, "RSA, 2048 bits") || len(instead) > 0 {
		t.Errorf("to %s, instead %q, text\n%s", to, instead, text)
	}
	_, _, text, files, instead := previewOf(t, ev, func(target *Target) { target.Payload = payload.PEMAndKey })
	if len(files) != 2 || !strings.Contains(text, "host.example.org") || !strings.Contains(text, "Test CA 1") || len(instead) != 1 || !strings.HasPrefix(instead[0], "a new key that nobody uses") {
		t.Errorf("files %q, instead %q, text\n%s", files, instead, text)
	}
	if ev.Labels["owner"] != "web@example.com" || ev.ID != "e1" {
		t.Error("the event was changed")
	}
}
