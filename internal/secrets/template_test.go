package secrets

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestFill(t *testing.T) {
	t.Parallel()
	ref := func(path string) Ref { return Ref{Vault: &VaultRef{Mount: "secret", Path: path, Key: "k", Version: 2}} }
	for _, good := range []struct {
		path string
		vars Vars
		want string
	}{
		{"smtp/{host}", Vars{"host": "smtp.example.com"}, "smtp/smtp.example.com"},
		{"{target}/{domain}-{cn}/x", Vars{"target": "ops", "domain": "example.com", "cn": "www"}, "ops/example.com-www/x"},
		{"{cn}", Vars{"cn": "*.example.com"}, "_wildcard.example.com"},
		{"{cn}", Vars{"cn": "Zertifikat für Köln"}, "Zertifikat für Köln"},
		{"{host}", Vars{"host": "2001:db8::1"}, "2001:db8::1"},
		{"plain", nil, "plain"},
	} {
		before := ref(good.path)
		got, err := before.fill(good.vars)
		if err != nil || got.Vault.Path != good.want || got.Vault.Mount != "secret" || got.Vault.Key != "k" || got.Vault.Version != 2 {
			t.Errorf("%s became %s, %v", before, got, err)
		}
		if before.Vault.Path != good.path {
			t.Error("the reference in the configuration was changed")
		}
	}
	for _, bad := range []string{
		"", ".", "..", "../..", "a/b", "/", "a/../b", `a\b`, "a%2fb", "%2e%2e", "a\x00b", "a\nb", "..example.com", "a?b", "a#b", "{host}", "*", "a*b", "**.x",
		"\u202e", "a;b", "a&b", "\xff",
	} {
		_, err := ref("certs/{cn}").fill(Vars{"cn": bad})
		if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "{cn}") && !strings.Contains(err.Error(), "after the templates were replaced") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// Each value is valid on its own.
	for _, path := range []string{".{cn}", "{cn}{host}", "a/{cn}{host}/b"} {
		if got, err := ref(path).fill(Vars{"cn": ".", "host": "."}); err == nil {
			t.Errorf("%s became %s", path, got)
		}
	}
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	for path, want := range map[string][]string{"x": nil, "{host}/{cn}/{host}": {"host", "cn"}} {
		if got := (Ref{Vault: &VaultRef{Path: path}}).Needs(); !slices.Equal(got, want) {
			t.Errorf("%s needs %v", path, got)
		}
	}
	if (Ref{Env: "X"}).Needs() != nil {
		t.Error("an environment variable needs something")
	}
}

// With any values, the path keeps its place: the same number of segments, unchanged
// literal segments, and none that leads to a parent path.
func FuzzFill(f *testing.F) {
	for _, s := range []string{"example.com", "*.example.com", "..", "a/b", "%2f", "", "a\x00", "．．", "..\u200b"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, cn, host string) {
		ref := Ref{Vault: &VaultRef{Mount: "secret", Path: "certs/{cn}/by-{host}/x{cn}{host}", Key: "k"}}
		got, err := ref.fill(Vars{"cn": cn, "host": host})
		if err != nil {
			return
		}
		segments := strings.Split(got.Vault.Path, "/")
		if len(segments) != 4 || segments[0] != "certs" || !strings.HasPrefix(segments[2], "by-") || !strings.HasPrefix(segments[3], "x") {
			t.Fatalf("%q and %q give %q", cn, host, got.Vault.Path)
		}
		for _, s := range segments {
			if s == "" || s == "." || s == ".." || strings.ContainsAny(s, `\%?#`) {
				t.Fatalf("%q and %q give %q", cn, host, got.Vault.Path)
			}
		}
		if err := got.Validate(); err != nil {
			t.Fatalf("%q and %q give a path that is not valid: %v", cn, host, err)
		}
	})
}
