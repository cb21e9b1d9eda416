package secrets

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
)

func TestRefString(t *testing.T) {
	t.Parallel()
	value := New([]byte(canary))
	for want, ref := range map[string]Ref{
		"none":                            {},
		"vault:secret/p12/ops#passphrase": {Vault: &VaultRef{Mount: "secret", Path: "p12/ops", Key: "passphrase"}},
		"vault:secret/x#k@3":              {Vault: &VaultRef{Mount: "secret", Path: "x", Key: "k", Version: 3}},
		"vault:team/kv//certs/x#k":        {Vault: &VaultRef{Mount: "team/kv", Path: "certs/x", Key: "k"}},
		"vault:secret/{host}#k":           {Vault: &VaultRef{Mount: "secret", Path: "{host}", Key: "k"}},
		"vault:a b/c\ufffd#\ufffd[31m":    {Vault: &VaultRef{Mount: "a\r\nb", Path: "c\x00", Key: "\x1b[31m"}},
		"vault:/":                         {Vault: &VaultRef{}},
		"vault:secret/x":                  {Vault: &VaultRef{Mount: "secret", Path: "x"}},
		"vault:secret/x@3":                {Vault: &VaultRef{Mount: "secret", Path: "x", Version: 3}},
		"transit:transit/certs":           {Transit: &TransitRef{Mount: "transit", Key: "certs", Ciphertext: "vault:v1:" + canary}},
		"env:NAME":                        {Env: "NAME"},
		"file:/path":                      {File: "/path"},
		"file:/\ufffd":                    {File: "/\u202e"},
		"credential:smtp":                 {Credential: "smtp"},
		"value:[redacted]":                {Value: value},
		"file:" + strings.Repeat("é", 98) + "…": {File: strings.Repeat("é", 300)},
	} {
		if got := ref.String(); got != want {
			t.Errorf("got %q, not %q", got, want)
		}
	}
}

func TestRefIsZero(t *testing.T) {
	t.Parallel()
	if !(Ref{}).IsZero() {
		t.Error("the zero Ref is not zero")
	}
	full := reflect.ValueOf(Ref{Vault: &VaultRef{}, Transit: &TransitRef{}, Env: "x", File: "x", Credential: "x", Value: New([]byte("x"))})
	for i := range full.NumField() {
		var one Ref
		reflect.ValueOf(&one).Elem().Field(i).Set(full.Field(i))
		if one.IsZero() {
			t.Errorf("a Ref with %s is zero", full.Type().Field(i).Name)
		}
	}
}

// Fault: mounts and paths as they are pasted: /v1, URLs, quotes, ~. Result: refused when
// the configuration is read.
func TestRefValidate(t *testing.T) {
	t.Parallel()
	vault := func(mount, path, key string) Ref { return Ref{Vault: &VaultRef{Mount: mount, Path: path, Key: key}} }
	transit := func(mount, key, ciphertext string) Ref {
		return Ref{Transit: &TransitRef{Mount: mount, Key: key, Ciphertext: ciphertext}}
	}
	for _, good := range []Ref{
		vault("secret", "certs/x", "private_key"), vault("team/kv", "a b/ü", "k@x.example"), vault("secret", "smtp/{host}/{target}-{domain}", "k"),
		vault("secret", "{cn}", "k"), vault("secret", "..a/b..", "k"), transit("transit", "certs", "vault:v1:abc="), {Env: "_X1"}, {File: "x"},
		{Credential: "smtp.password"}, {Value: New([]byte("x"))}, {Vault: &VaultRef{Mount: "secret", Path: "x", Key: "k", Version: 7}},
	} {
		if err := good.Validate(); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []struct {
		ref  Ref
		says string
	}{
		{Ref{}, "names no secret"},
		{Ref{Env: "X", File: "/x"}, "more than one source (env, file)"},
		{Ref{Vault: &VaultRef{}, Value: New([]byte(canary))}, "more than one source (vault, value)"},
		{vault("", "x", "k"), "vault.mount: is empty"},
		{vault("secret", "", "k"), "vault.path: is empty"},
		{vault("secret/", "x", "k"), "has a slash at its beginning or end: write secret"},
		{vault("{host}", "x", "k"), "templates are allowed only in the path"},
		{vault("secret", "/x", "k"), "empty segment"},
		{vault("secret", "a//x", "k"), "empty segment"},
		{vault("secret", "../x", "k"), `".."`},
		{vault("secret", "a/./x", "k"), `"."`},
		{vault("..", "x", "k"), `".."`},
		{vault("secret", "a%2f..%2fx", "k"), "'%'"},
		{vault("secret", "a%2E%2E", "k"), "'%'"},
		{vault("secret", `a\..\x`, "k"), `'\\'`},
		{vault("secret", "x?version=1", "k"), "'?'"},
		{vault("secret", "x#y", "k"), "'#'"},
		{vault("secret", "x\ny", "k"), "U+000A"},
		{vault("secret", "x\x00", "k"), "U+0000"},
		{vault("secret", "x\u202ey", "k"), "U+202E"},
		{vault("secret", "x\xff", "k"), "not UTF-8"},
		{vault("secret", "{hots}", "k"), "{hots} is unknown: use {host}, {target}, {domain}, {cn}"},
		{vault("secret", "{host", "k"), "a { without"},
		{vault("secret", "host}", "k"), "a } without a {"},
		{vault("secret", "{}", "k"), "a { without a name"},
		{vault("secret", "{{host}}", "k"), "is unknown"},
		{Ref{Vault: &VaultRef{Mount: "secret", Path: "x", Key: "k", Version: -1}}, "vault.version: is negative"},
		{transit("", "certs", "vault:v1:x"), "transit.mount: is empty"},
		{transit("transit", "", "vault:v1:x"), "transit.key: is empty"},
		{transit("transit", "../x", "vault:v1:x"), `".."`},
		{transit("transit", "a/b", "vault:v1:x"), "not a path"},
		{transit("transit", "certs", ""), "transit.ciphertext"},
		{transit("transit", "certs", canary), "does not begin with"},
		{transit("transit", "certs", "vault:v1:\n"), "U+000A"},
		{Ref{Env: "1X"}, "name of an environment variable"},
		{Ref{Env: "A B"}, "name of an environment variable"},
		{Ref{Env: "A=B"}, "name of an environment variable"},
		{Ref{File: "/a\x00b"}, "U+0000"},
		{Ref{File: "file:///run/secrets/x"}, "is a URL: write the path alone"},
		{Ref{File: "~/secret"}, "only a shell replaces"},
		{Ref{File: "$HOME/secret"}, "only a shell replaces"},
		{Ref{File: " /run/x"}, "begins or ends with a space"},
		{Ref{File: "/run/x\n"}, "begins or ends with a space"},
		{Ref{File: `"/run/x"`}, "has quotes around it"},
		{vault("https://vault:8200/v1/secret", "x", "k"), "vault.mount: is a URL"},
		{vault("v1/secret", "x", "k"), "vault.mount: begins with v1/"},
		{vault("/v1/secret", "x", "k"), "vault.mount: begins with v1/"},
		{vault("secret/", "x", "k"), "write secret"},
		{vault("/secret", "x", "k"), "write secret"},
		{vault("secret ", "x", "k"), "begins or ends with a space"},
		{transit("v1/transit", "certs", "vault:v1:x"), "transit.mount: begins with v1/"},
		{Ref{Credential: "../x"}, "not a path"},
		{Ref{Credential: ".."}, "not a path"},
	} {
		err := bad.ref.Validate()
		if err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%s: the error is %v, want one with %q", bad.ref, err, bad.says)
		}
		if err != nil && leaks(err.Error()) != "" {
			t.Errorf("the error contains the secret: %v", err)
		}
	}
}

func TestRefWarning(t *testing.T) {
	t.Parallel()
	if (Ref{Env: "X"}).Warning() != "" || !strings.Contains((Ref{Value: New([]byte("x"))}).Warning(), "configuration") {
		t.Error("want a warning only for a secret in the configuration")
	}
	for pasted, want := range map[string]string{
		"vault:secret/data/certs/x#k":        "vault.path begins with data/, which belongs to the API of KV version 2 and which Certpost adds by itself: write certs/x, unless",
		"vault:secret/secret/certs/x#k":      "vault.path begins with the mount: write certs/x, unless",
		"vault:secret/secret/data/certs/x#k": "vault.path begins with the mount: write certs/x, unless",
		"vault:secret/certs/data/x#k":        "",
		"vault:secret/database/x#k":          "",
	} {
		if got := mustRef(t, pasted).Warning(); got == "" != (want == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q", pasted, got)
		}
	}
}

func TestParseRef(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"vault:secret/certs/x#private_key", "vault:secret/x#k@3", "vault:team/kv//certs/x#k", "vault:secret/x#k@x.example", "vault:secret/{host}/a b#k",
		"env:SMTP_PASSWORD", "file:/run/secret:1", "file:relative", "credential:smtp",
	} {
		ref, err := ParseRef(text)
		if err != nil || ref.String() != text {
			t.Errorf("%s became %s, %v", text, ref, err)
		}
	}
	for text, says := range map[string]string{
		"":                    "looks like",
		"secret/x#k":          "looks like",
		"vault:secret/x":      "after a #",
		"vault:secret#k":      "mount and path",
		"vault:/x#k":          "vault.mount: is empty",
		"vault:secret/#k":     "vault.path: is empty",
		"vault:secret/x#":     "vault.key: is empty",
		"vault:secret/../x#k": `".."`,
		"vault:a//b//c#k":     "empty segment",
		"env:":                "names no secret",
		"value:" + canary:     "is not allowed on a command line",
		"VAULT:secret/x#k":    "looks like",
		canary:                "looks like",
	} {
		ref, err := ParseRef(text)
		if err == nil || !strings.Contains(err.Error(), says) || leaks(err.Error()) != "" || !ref.IsZero() {
			t.Errorf("%q became %s, %v", text, ref, err)
		}
	}
}

// Every parsed reference is safe to print, and its text parses to the same reference.
func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"vault:secret/certs/x#k@3", "vault:team/kv//x#k", "env:X", "file:/a", "credential:x", "vault:a/b#c@@1", "vault:a/..#k", "vault:a%2f/b#c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseRef(s)
		if err != nil {
			return
		}
		text := ref.String()
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\r\n\x00\x1b") {
			t.Fatalf("%q is printed as %q", s, text)
		}
		if strings.HasSuffix(text, "...") || strings.Contains(text, "...#") || strings.Contains(text, ".../") {
			return // cut
		}
		again, err := ParseRef(text)
		if err != nil || again.String() != text {
			t.Fatalf("%q is printed as %q, which reads as %v, %v", s, text, again, err)
		}
	})
}

func TestRefFromYAML(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"vault: {mount: secret, path: p12/ops, key: passphrase, version: 2}":  "vault:secret/p12/ops#passphrase@2",
		"transit: {mount: transit, key: certs, ciphertext: \"vault:v1:abc\"}": "transit:transit/certs",
		"env: NAME": "env:NAME", "file: /x": "file:/x", "credential: smtp": "credential:smtp", "value: x": "value:[redacted]", "plain": "value:[redacted]",
	} {
		var ref Ref
		if err := yaml.Unmarshal([]byte(text), &ref); err != nil || ref.String() != want {
			t.Errorf("%q became %s, %v", text, ref, err)
		}
	}
}
