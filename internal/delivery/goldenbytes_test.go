package delivery

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"

	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
)

// The same event makes the same bytes, for each kind of payload, encryption and template, if
// randomness is the same. testdata/mails.sha256 has their hashes, and testdata/mail_*.eml
// those that are encrypted. CERTPOST_UPDATE_GOLDEN=1 rewrites them; a new version of Go may
// use randomness otherwise.
func TestGoldenBytes(t *testing.T) { // not parallel: the randomness is that of the whole process
	type mail struct {
		name string
		edit func(*Target)
	}
	var all []mail
	for _, kind := range payload.Kinds {
		all = append(all, mail{kind, func(target *Target) { target.Payload = kind }})
	}
	for kind, file := range map[string]string{encryption.SMIME: "smime.pem", encryption.OpenPGP: "openpgp.asc", encryption.Age: "age.pub"} {
		all = append(all, mail{kind, func(target *Target) {
			target.Encryption = kind
			target.RecipientKeys = map[string]secrets.Ref{"ops@example.com": {File: filepath.Join("testdata", "recipients", file)}}
		}})
	}
	for _, language := range []string{"de", "fr", "ja"} {
		all = append(all, mail{language, func(target *Target) {
			dir := "../../examples/templates/" + language
			target.Templates = Templates{Subject: dir + "/subject.txt", Text: dir + "/text.txt", HTML: dir + "/mail.html"}
			target.words = ReadTemplates(target.Templates)
		}})
	}
	golden := map[string]string{}
	list := filepath.Join("testdata", "mails.sha256")
	update := os.Getenv("CERTPOST_UPDATE_GOLDEN") == "1"
	if text, err := os.ReadFile(list); err == nil {
		for line := range strings.Lines(string(text)) {
			if hash, name, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
				golden[name] = hash
			}
		}
	}
	var hashes []string
	for _, c := range all {
		raw := goldenBytes(t, c.edit)
		if again := goldenBytes(t, c.edit); !bytes.Equal(raw, again) {
			t.Errorf("%s: two mails of one event differ", c.name)
		}
		hash := fmt.Sprintf("%x", sha256.Sum256(raw))
		hashes = append(hashes, hash+"  "+c.name+"\n")
		if golden[c.name] != hash && !update {
			t.Errorf("%s: the mail is not the one in %s:\n%.3000s", c.name, list, raw)
		}
		if !slices.Contains([]string{encryption.SMIME, encryption.OpenPGP, encryption.Age}, c.name) {
			continue
		}
		file := filepath.Join("testdata", "mail_"+c.name+".eml")
		if update {
			lab.Write(t, file, raw)
		}
		if want, err := os.ReadFile(file); err != nil || !bytes.Equal(raw, want) {
			t.Errorf("%s differs: %v", file, err)
		}
	}
	if update {
		lab.Write(t, list, []byte(strings.Join(hashes, "")))
	}
	if len(golden) != len(all) && !update {
		t.Errorf("%s has %d mails, want %d", list, len(golden), len(all))
	}
}

// goldenBytes renders a mail with the randomness of a fixed seed, and checks it.
func goldenBytes(t *testing.T, edit func(*Target)) []byte {
	t.Helper()
	cryptotest.SetGlobalRandom(t, 1)
	target := testTarget()
	edit(target)
	facts := goldenFacts(t, target)
	if target.encrypts() {
		text, err := os.ReadFile(target.recipientKeyRef("ops@example.com").File)
		if err != nil {
			t.Fatal(err)
		}
		key, err := encryption.Parse(target.Encryption, text)
		if err == nil {
			err = key.Usable(encryption.Options{}, lab.TestNow)
		}
		if err != nil {
			t.Fatal(err)
		}
		facts.sealing = &sealing{kind: target.Encryption, keys: []*encryption.Key{key}, now: lab.TestNow}
		if facts.attachments, err = facts.sealing.files(facts.attachments); err != nil {
			t.Fatal(err)
		}
	}
	m, err := renderMail(target, facts)
	if err != nil {
		t.Fatal(err)
	}
	goodWire(t, m)
	inspectMail(t, m.raw, func(p mailPart) {
		if p.depth == 0 && target.encrypts() {
			for name, values := range p.header {
				if strings.Contains(strings.Join(values, " "), "*.example.com") || strings.Contains(name, "References") {
					t.Errorf("outside of the encryption: %s: %s", name, values)
				}
			}
		}
	})
	return m.raw
}
