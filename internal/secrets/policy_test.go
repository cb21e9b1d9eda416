package secrets

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPolicyPaths(t *testing.T) {
	t.Parallel()
	policy := Policy{Paths: []string{"secret/certs/*", "secret/team-*/keys/*", "deep/**", "transit/certs", "team/kv/x"}}
	if problems := policy.Validate(); problems != nil {
		t.Fatal(problems)
	}
	vault := func(mount, path string) Ref {
		return Ref{Vault: &VaultRef{Mount: mount, Path: path, Key: "private_key"}}
	}
	transit := func(mount, key string) Ref {
		return Ref{Transit: &TransitRef{Mount: mount, Key: key, Ciphertext: "vault:v1:x"}}
	}
	for _, ref := range []Ref{
		vault("secret", "certs/web1"), vault("secret", "certs/_wildcard.example.com"), vault("secret", "team-a/keys/x"), vault("deep", "a"),
		vault("deep", "a/b/c/d"), vault("team/kv", "x"), transit("transit", "certs"), vault("secret", "certs/..hidden"),
	} {
		if err := policy.Allows(ref); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for _, ref := range []Ref{
		{}, vault("secret", "smtp/relay"), vault("secret", "certs"), vault("secret", "certs/a/b"), vault("secret", "certs/../smtp/relay"),
		vault("secret", "certs/x/../../smtp/relay"), vault("secret", "certs/..%2fsmtp%2frelay"), vault("secret", "certs/%2e%2e/smtp"), vault("secret", "certs//x"),
		vault("secret", "certs/./x"), vault("secret", "/certs/x"), vault("secret", "certs/"), vault("other", "certs/x"), vault("ns1/secret", "certs/x"),
		vault("../secret", "certs/x"), vault("secret", "certs/{cn}"), vault("Secret", "certs/x"), vault("secret", "certs\\x"), vault("secret", "certs/x?version=1"),
		vault("secret", "team-a/x/keys/y"), vault("secret", "certs/x\x00"), vault("", "secret/certs/x"), vault("secretcerts", "x"), vault("secret", "data/certs/x"),
		transit("transit", "other"), transit("secret", "certs"), {Env: "HOME"}, {Credential: "smtp"}, {Value: New([]byte(canary))}, {File: "/etc/passwd"},
		{Vault: &VaultRef{Mount: "secret", Path: "certs/x", Key: "k"}, Env: "HOME"},
	} {
		err := policy.Allows(ref)
		if !errors.Is(err, ErrDenied) || leaks(err.Error()) != "" {
			t.Errorf("%s: %v", ref, err)
		}
		if (Policy{}).Allows(ref) == nil {
			t.Errorf("%s: the zero policy allows it", ref)
		}
	}
}

// TestPolicyWithKV2Data: globs copied from Vault's policies have data/, references do not.
//
// Fault: data/. Result: or named in the reason.
func TestPolicyWithKV2Data(t *testing.T) {
	t.Parallel()
	policy := Policy{Paths: []string{"secret/data/certs/*"}}
	err := policy.Allows(Ref{Vault: &VaultRef{Mount: "secret", Path: "certs/web1", Key: "k"}})
	if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "write secret/certs/* in events.secret_paths") {
		t.Error(err)
	}
	if err := policy.Allows(Ref{Vault: &VaultRef{Mount: "secret", Path: "data/certs/web1", Key: "k"}}); err != nil {
		t.Errorf("a path that begins with data: %v", err)
	}
	if err := policy.Allows(Ref{Vault: &VaultRef{Mount: "secret", Path: "smtp/x", Key: "k"}}); !errors.Is(err, ErrDenied) || strings.Contains(err.Error(), "data/") {
		t.Error(err)
	}
}

func TestPolicyFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	write := func(elem ...string) string {
		t.Helper()
		path := filepath.Join(elem...)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(to string, elem ...string) string {
		t.Helper()
		path := filepath.Join(elem...)
		if err := os.Symlink(to, path); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
		return path
	}
	archived := write(root, "archive", "web1", "privkey1.pem")
	secret := write(outside, "secret.pem")
	write(dir, "root-and-more", "x.pem")
	if err := os.Mkdir(filepath.Join(root, "live"), 0o755); err != nil {
		t.Fatal(err)
	}
	policy := Policy{FileRoots: []string{filepath.Join(dir, "missing"), link(root, dir, "alias"), root}}
	for _, file := range []string{
		archived, link("../archive/web1/privkey1.pem", root, "live", "privkey.pem"), link("archive", root, "aliased") + "/web1/privkey1.pem",
		filepath.Join(dir, "alias", "archive", "web1", "privkey1.pem"),
	} {
		if err := policy.Allows(Ref{File: file}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, file := range []string{
		secret, link(secret, root, "climbs.pem"), link("../outside", root, "out") + "/secret.pem", root + "/../outside/secret.pem", root, root + "/", "archive/web1/privkey1.pem",
		filepath.Join(dir, "root-and-more", "x.pem"), root + "//archive/web1/privkey1.pem",
		link(root, root, "self"), "",
	} {
		if err := policy.Allows(Ref{File: file}); !errors.Is(err, ErrDenied) {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, file := range []string{filepath.Join(root, "none.pem"), filepath.Join(dir, "missing", "x"), filepath.Join(archived, "x"), link("none", root, "dangling")} {
		if err := policy.Allows(Ref{File: file}); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", file, err)
		}
	}
	// The author of an event does not learn which files exist.
	there, not := policy.Allows(Ref{File: secret}), policy.Allows(Ref{File: filepath.Join(outside, "none.pem")})
	if strings.ReplaceAll(there.Error(), "secret.pem", "") != strings.ReplaceAll(not.Error(), "none.pem", "") {
		t.Errorf("%v is not %v", there, not)
	}
}

// Fault: mounts and paths as they are pasted: /v1, URLs. Result: refused when the
// configuration is read.
func TestPolicyValidate(t *testing.T) {
	t.Parallel()
	found := Policy{
		Paths:     []string{"secret/certs/*", "secret", "", "secret/../x", "secret/[a", "secret/**/x", "secret/a**", "secret//x", "secret/certs/", "a/**", "v1/secret/certs/*", "https://vault/v1/secret/*"},
		FileRoots: []string{"/etc/letsencrypt", "relative", "/"},
	}.Validate()
	var at []string
	for _, p := range found {
		at = append(at, p.Path)
		if p.Message == "" {
			t.Errorf("%s: no message", p.Path)
		}
	}
	want := []string{"secret_paths[1]", "secret_paths[2]", "secret_paths[3]", "secret_paths[4]", "secret_paths[5]", "secret_paths[6]", "secret_paths[7]", "secret_paths[8]", "secret_paths[10]", "secret_paths[11]", "file_roots[1]", "file_roots[2]"}
	if !slices.Equal(at, want) {
		t.Errorf("found %v", found)
	}
}

// Every allowed path is still inside the glob after Vault or a proxy has cleaned it.
func FuzzPolicy(f *testing.F) {
	for _, s := range [][2]string{{"secret", "certs/x"}, {"secret", "certs/../smtp"}, {"secret/certs", "x"}, {"secret", "certs/%2e%2e/smtp"}, {"ns/secret", "certs/x"}} {
		f.Add(s[0], s[1])
	}
	policy := Policy{Paths: []string{"secret/certs/*"}}
	f.Fuzz(func(t *testing.T, mount, location string) {
		if policy.Allows(Ref{Vault: &VaultRef{Mount: mount, Path: location, Key: "k"}}) != nil {
			return
		}
		cleaned := path.Clean("/" + mount + "/" + location)
		name, ok := strings.CutPrefix(cleaned, "/secret/certs/")
		if !ok || name == "" || strings.ContainsAny(name, `/\%?#`) {
			t.Fatalf("%q and %q are allowed, and are %q", mount, location, cleaned)
		}
	})
}
