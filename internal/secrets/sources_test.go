package secrets

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

func TestEnvironment(t *testing.T) {
	o := observe(t)
	store := o.openWith(t, Config{})
	secret := o.secret("env")
	t.Setenv("CERTPOST_TEST_SECRET", secret)
	ref := Ref{Env: "CERTPOST_TEST_SECRET"}
	wantSecret(t, o, store.Get, ref, secret, "")
	t.Setenv("CERTPOST_TEST_SECRET", secret+"2")
	wantSecret(t, o, store.Get, ref, secret+"2", "")
	t.Setenv("CERTPOST_TEST_SECRET", "")
	wantError(t, o, store.Get, ref, ErrNotFound, "env:CERTPOST_TEST_SECRET", "is empty")
	wantError(t, o, store.Get, Ref{Env: "CERTPOST_TEST_UNSET"}, ErrNotFound, "env:CERTPOST_TEST_UNSET", "is not set")
}

func TestInline(t *testing.T) {
	t.Parallel()
	o := observe(t)
	store := o.openWith(t, Config{})
	secret := o.secret("inline")
	ref := Ref{Value: New([]byte(secret))}
	for _, get := range []func(context.Context, Ref, Vars) (Secret, error){store.Get, store.Fresh, store.Uncached} {
		wantSecret(t, o, get, ref, secret, "")
	}
	found, err := store.Check(t.Context(), ref, nil)
	if err != nil || len(found.Warnings) != 1 || !strings.Contains(found.Warnings[0], "configuration") {
		t.Errorf("checked: %+v, %v", found, err)
	}
	wantError(t, o, store.Get, Ref{}, ErrNotFound, "names no secret")
	wantError(t, o, store.Get, Ref{Env: "1", Value: ref.Value}, ErrNotFound, "more than one source")
}

// Fault: path. Result: dead (SECRET_NOT_FOUND).
func TestFiles(t *testing.T) {
	t.Parallel()
	o := observe(t)
	store := o.openWith(t, Config{})
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	write := func(content string) Ref {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return Ref{File: file}
	}
	secret := o.secret("file")
	for content, want := range map[string]string{
		secret: secret, secret + "\n": secret, secret + "\r\n": secret, secret + "\n\n": secret + "\n", "\n" + secret: "\n" + secret, " " + secret + " ": " " + secret + " ",
	} {
		got, err := store.Get(t.Context(), write(content), nil)
		if o.said(err) != nil || string(got.Value.Reveal()) != want {
			t.Errorf("%q is read wrongly: %v", content, err)
		}
		if info, _ := os.Stat(file); got.Version != info.ModTime().UTC().Format("2006-01-02T15:04:05Z") {
			t.Errorf("its version is %q", got.Version)
		}
	}
	for _, content := range []string{"", "\n", "\r\n"} {
		wantError(t, o, store.Get, write(content), ErrNotFound, "file:"+file, "is empty")
	}
	wantError(t, o, store.Get, write(strings.Repeat("x", maxSecret+1)), ErrNotFound, "larger than 1 MiB")
	wantError(t, o, store.Get, Ref{File: file + ".none"}, ErrNotFound, "the file does not exist")
	wantError(t, o, store.Get, Ref{File: file + strings.Repeat("n", 255)}, ErrNotFound, "no file can have such a long name")
	wantError(t, o, store.Get, Ref{File: dir}, ErrNotFound, "not a regular file")
	wantError(t, o, store.Get, Ref{File: file + "/x"}, ErrNotFound)
	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	write(secret)
	for range 3 {
		wantSecretValue(t, o, store, Ref{File: file}, secret)
	}
	if n := o.count("every user of this machine can read"); n != 1 {
		t.Errorf("warned %d times about the mode", n)
	}
	if found, err := store.Check(t.Context(), Ref{File: file}, nil); err != nil || len(found.Warnings) != 1 || !strings.Contains(found.Warnings[0], "chmod o-r") {
		t.Errorf("checked: %+v, %v", found, err)
	}
	if os.Geteuid() != 0 { // root may read everything
		if err := os.Chmod(file, 0); err != nil {
			t.Fatal(err)
		}
		wantError(t, o, store.Get, Ref{File: file}, ErrDenied, "may not read the file", "the user that Certpost runs as")
	}
}

// Fault: a file that Certpost may not read; one that cannot be read at the moment. Result:
// dead (SECRET_DENIED); retried (SECRET_UNAVAILABLE).
func TestFileErrors(t *testing.T) {
	t.Parallel()
	o := observe(t)
	ref := Ref{File: "/x"}
	isError(t, o, fileError(ref, &os.PathError{Op: "open", Path: o.secret("path"), Err: os.ErrPermission}), ErrDenied, "may not read the file")
	isError(t, o, fileError(ref, errors.New(o.secret("system"))), ErrUnavailable, "cannot be read at present")
}

func TestCredentials(t *testing.T) {
	o := observe(t)
	store := o.openWith(t, Config{})
	ref := Ref{Credential: "smtp"}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	wantError(t, o, store.Get, ref, ErrNotFound, "credential:smtp", "LoadCredential=smtp:PATH")
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	wantError(t, o, store.Get, ref, ErrNotFound, "credential:smtp", "the file does not exist")
	secret := o.secret("credential")
	if err := os.WriteFile(filepath.Join(dir, "smtp"), []byte(secret+"\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	wantSecretValue(t, o, store, ref, secret)
	wantError(t, o, store.Get, Ref{Credential: "../smtp"}, ErrNotFound, "not a path")
}

func wantSecretValue(t testing.TB, o *observer, store *Store, ref Ref, value string) {
	t.Helper()
	got, err := store.Get(t.Context(), ref, nil)
	if o.said(err) != nil || string(got.Value.Reveal()) != value {
		t.Errorf("%s: %v", ref, err)
	}
}

func TestTemplatesAreFilledIn(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	secret := o.secret("relay")
	v.Put(t, "secret/smtp-auth/relay.example.com", map[string]any{"password": secret})
	v.Put(t, "secret/other", map[string]any{"password": o.secret("other")})
	store := o.open(t, v, asToken(v.RootToken))
	ref := mustRef(t, "vault:secret/smtp-auth/{host}#password")
	got, err := store.Get(t.Context(), ref, Vars{"host": "relay.example.com", "target": "x"})
	if o.said(err) != nil || string(got.Value.Reveal()) != secret {
		t.Errorf("%s: %v", ref, err)
	}
	before := v.Requests(t)
	for _, host := range []string{"../other", "..", "x%2f..%2fother", ""} {
		_, err := store.Get(t.Context(), ref, Vars{"host": host})
		isError(t, o, err, ErrDenied, "vault:secret/smtp-auth/{host}#password: ", "{host} in the path cannot be replaced")
	}
	if len(v.Requests(t)) != len(before) {
		t.Error("Vault got a request for a refused path")
	}
	found, err := store.Check(t.Context(), ref, Vars{"host": "relay.example.com"})
	if o.said(err) != nil || !found.Read || found.Version != "1" || len(found.Warnings) != 1 || !strings.Contains(found.Warnings[0], "root token") {
		t.Errorf("checked: %+v, %v", found, err)
	}
}

func TestCheckVault(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "old", "kv-v1")
	v.Mount(t, "transit", "transit")
	v.Call(t, "POST", "transit/keys/certs", nil)
	secret := o.secret("checked")
	made := v.Call(t, "POST", "transit/encrypt/certs", map[string]any{"plaintext": []byte(secret)})
	transit := Ref{Transit: &TransitRef{Mount: "transit", Key: "certs", Ciphertext: made["data"].(map[string]any)["ciphertext"].(string)}}
	for _, at := range []string{"secret/good", "secret/wide", "secret/denied", "old/good"} {
		v.Put(t, at, map[string]any{"k": secret})
	}
	store := o.open(t, v, o.asAppRole(t, v, "1h", `
path "secret/data/good" { capabilities = ["read"] }
path "secret/data/wide" { capabilities = ["read", "update", "delete"] }
path "secret/data/write" { capabilities = ["update"] }
path "old/good" { capabilities = ["read"] }
path "transit/decrypt/certs" { capabilities = ["update"] }`))
	for _, good := range []struct {
		ref      Ref
		version  string
		warnings string
	}{
		{mustRef(t, "vault:secret/good#k"), "1", ""},
		{mustRef(t, "vault:old/good#k"), "", ""},
		{mustRef(t, "vault:secret/wide#k"), "1", "Certpost's token may also update, delete secret/data/wide, but only needs read"},
		{transit, "v1", ""},
	} {
		found, err := store.Check(t.Context(), good.ref, nil)
		if o.said(err) != nil || !found.Read || found.Version != good.version || strings.Join(found.Warnings, "|") != good.warnings {
			t.Errorf("%s: %+v, %v", good.ref, found, err)
		}
	}
	for text, bad := range map[string]struct {
		kind error
		says string
	}{
		"vault:secret/denied#k":  {ErrDenied, `path "secret/data/denied" { capabilities = ["read"] }`},
		"vault:secret/write#k":   {ErrDenied, "may not read secret/data/write"},
		"vault:secret/good#none": {ErrNotFound, "existing names: k"},
	} {
		_, err := store.Check(t.Context(), mustRef(t, text), nil)
		isError(t, o, err, bad.kind, text, bad.says)
	}
	if n := v.Requests(t)["read secret/data/denied"]; n != 0 {
		t.Error("the secret was read although the capabilities deny it")
	}
	_, err := store.Check(t.Context(), mustRef(t, "vault:secret/{cn}#k"), nil)
	isError(t, o, err, ErrDenied, "{cn}")
}
