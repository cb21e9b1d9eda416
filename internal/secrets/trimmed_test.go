package secrets

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// A byte order mark and one line break at the end do not belong to a secret, wherever it
// is stored.
//
// Fault: a line break or a byte order mark that an editor added. Result: removed, by one
// rule for all sources; other blanks and line breaks are kept.
func TestOneRuleForAllSources(t *testing.T) {
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "old", "kv-v1")
	v.Mount(t, "transit", "transit")
	v.Call(t, "POST", "transit/keys/certs", nil)
	store := o.open(t, v, asToken(v.RootToken))
	file := filepath.Join(t.TempDir(), "secret")
	secret := o.secret("plain")
	for stored, want := range map[string]string{
		secret:                           secret,
		secret + "\n":                    secret,
		secret + "\r\n":                  secret,
		"\ufeff" + secret:                secret,
		"\ufeff" + secret + "\r\n":       secret,
		secret + "\n\n":                  secret + "\n",
		"\n" + secret:                    "\n" + secret,
		" " + secret + " \n":             " " + secret + " ",
		secret + "\n" + secret + "\n":    secret + "\n" + secret,
		"\ufeff\ufeff" + secret + "\xa0": "", // not UTF-8: not for Vault
	} {
		lab.Write(t, file, []byte(stored))
		t.Setenv("CERTPOST_TEST_SECRET", stored)
		refs := []Ref{{File: file}, {Env: "CERTPOST_TEST_SECRET"}}
		if want == "" {
			want = strings.TrimPrefix(stored, "\ufeff")
		} else {
			v.Put(t, "secret/trim", map[string]any{"k": stored})
			v.Put(t, "old/trim", map[string]any{"k": stored})
			sealed := v.Call(t, "POST", "transit/encrypt/certs", map[string]any{"plaintext": base64.StdEncoding.EncodeToString([]byte(stored))})
			ciphertext := sealed["data"].(map[string]any)["ciphertext"].(string)
			var written Ref
			if err := written.UnmarshalYAML(func(into any) error { *into.(*string) = stored; return nil }); err != nil {
				t.Fatal(err)
			}
			refs = append(refs, mustRef(t, "vault:secret/trim#k"), mustRef(t, "vault:old/trim#k"), written,
				Ref{Transit: &TransitRef{Mount: "transit", Key: "certs", Ciphertext: ciphertext}})
		}
		for _, ref := range refs {
			got, err := store.Uncached(t.Context(), ref, nil)
			if o.said(err) != nil || string(got.Value.Reveal()) != want {
				t.Errorf("%s: another value, %v", ref, err)
			}
		}
	}
	for _, empty := range []string{"\n", "\ufeff", "\ufeff\r\n"} {
		lab.Write(t, file, []byte(empty))
		t.Setenv("CERTPOST_TEST_SECRET", empty)
		v.Put(t, "secret/trim", map[string]any{"k": empty})
		for _, ref := range []Ref{{File: file}, {Env: "CERTPOST_TEST_SECRET"}, mustRef(t, "vault:secret/trim#k")} {
			wantError(t, o, store.Uncached, ref, ErrNotFound, "is empty")
		}
	}
}

// Check names what is probably a mistake in a secret, and shows none of it.
//
// Fault: blanks at the ends of a secret, quotes around it, control or invisible characters.
// Result: the check names them, and shows nothing of the secret.
func TestOddSecrets(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	store := o.open(t, v, o.asAppRole(t, v, "", readAll))
	secret := o.secret("odd")
	file := filepath.Join(t.TempDir(), "secret")
	for text, want := range map[string][]string{
		secret:                       nil,
		secret + " four words long":  nil,
		"ü" + secret + "€":           nil,
		secret + "\n":                nil, // removed
		" " + secret:                 {"begins with a space"},
		secret + "\t":                {"ends with a tab"},
		"\u00a0" + secret + "\u00a0": {"begins with a blank (U+00A0)", "ends with a blank (U+00A0)"},
		secret + "\n\n":              {"ends with a line break"},
		secret + "\n" + secret:       {"has a line break inside"},
		"-----BEGIN X-----\n" + secret + "\n-----END X-----": nil,
		secret + "\x00" + secret:                             {"has a control character"},
		secret + "\u200b" + secret:                           {"has an invisible character"},
		secret + "\u00a0" + secret:                           {"has an invisible character"},
		`"` + secret + `"`:                                   {"is in quotes"},
		"'" + secret + "' ":                                  {"ends with a space"},
		" \u202e" + secret + "\x1b[0m ":                      {"begins with a space", "ends with a space", "has a control character"},
		secret + "\xff":                                      {"is not UTF-8"},
	} {
		refs := []Ref{{File: file}}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text, "\xff") {
			v.Put(t, "secret/odd", map[string]any{"k": text})
			refs = append(refs, mustRef(t, "vault:secret/odd#k"))
		}
		for i := range want {
			want[i] = "the secret " + want[i] + ": correct it if that is not meant"
		}
		for _, ref := range refs {
			found, err := store.Check(t.Context(), ref, nil)
			if o.said(err) != nil || !slices.Equal(found.Warnings, want) {
				t.Errorf("%s: %q, %v; want %q", ref, found.Warnings, err, want)
			}
			for _, warning := range found.Warnings {
				if strings.Contains(warning, secret[:6]) {
					t.Errorf("shows the secret: %s", warning)
				}
			}
		}
	}
}
