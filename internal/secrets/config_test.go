package secrets

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// Fault: addresses, mounts and paths as they are pasted: /v1, /ui, auth/, ports. Result: refused
// when the configuration is read.
func TestConfigValidate(t *testing.T) {
	for _, name := range []string{"VAULT_ADDR", "VAULT_AGENT_ADDR", "VAULT_CLIENT_CERT"} {
		t.Setenv(name, "")
	}
	value := Ref{Value: New([]byte(canary))}
	const at = "https://vault.example.com:8200"
	for _, good := range []Config{
		{},
		{Address: at},
		{Address: "http://127.0.0.1:8200/prefix", Namespace: "team/a", Timeout: time.Second, CacheTTL: time.Hour},
		{Address: "unix:///run/vault.sock", Auth: Auth{Token: value}},
		{Address: at, Auth: Auth{Method: "approle", RoleID: value}},
		{Address: at, Auth: Auth{Method: "approle", Mount: "team/approle", RoleID: value, SecretID: Ref{File: "/run/id"}, SecretIDWrapped: true}},
		{Address: at, Auth: Auth{Method: "kubernetes", Role: "certpost"}},
		{Address: at, Auth: Auth{Method: "jwt", Role: "certpost", JWTFile: "/run/jwt"}},
		{Address: at, Auth: Auth{Method: "jwt", Role: "certpost", JWT: Ref{Env: "JWT"}}},
		{Address: at, Auth: Auth{Method: "cert"}, TLS: TLS{CertFile: "c", KeyFile: "k"}},
		{Address: at, Auth: Auth{Method: "userpass", Username: value, Password: Ref{Credential: "vault"}}},
	} {
		if problems := good.Validate(); problems != nil {
			t.Errorf("%+v: %v", good, problems)
		}
	}
	for _, bad := range []struct {
		cfg   Config
		path  string
		words string
	}{
		{Config{Address: "vault.example.com:8200"}, "address", "URL"},
		{Config{Address: "ftp://vault"}, "address", "URL"},
		{Config{Address: "https://"}, "address", "URL"},
		{Config{Address: "https://user:" + canary + "@vault"}, "address", "more than scheme"},
		{Config{Address: "https://" + canary + "\x00"}, "address", "URL"},
		{Config{Address: at + "?x=1"}, "address", "more than scheme"},
		{Config{Address: "https://vault:820000"}, "address", "has the port 820000: want 1 to 65535"},
		{Config{Address: "https://vault:"}, "address", "ends with a colon"},
		{Config{Address: at + "/v1"}, "address", "ends with the path /v1"},
		{Config{Address: at + "/v1/"}, "address", "ends with the path /v1"},
		{Config{Address: at + "/v1/sys/health"}, "address", "ends with the path /v1"},
		{Config{Address: at + "/prefix/v1"}, "address", "ends with the path /v1"},
		{Config{Address: at + "/ui"}, "address", "Vault's web page"},
		{Config{Address: at + "/ui/vault/secrets"}, "address", "Vault's web page"},
		{Config{Address: at + " "}, "address", "begins or ends with a space"},
		{Config{Address: at, Auth: Auth{Method: "approle", Mount: "auth/team", RoleID: value}}, "auth.mount", "begins with auth/, which Certpost adds by itself: write team"},
		{Config{Address: at, Auth: Auth{Method: "approle", Mount: "v1/auth/approle/login", RoleID: value}}, "auth.mount", "write approle"},
		{Config{Auth: Auth{Method: "approle", RoleID: value}}, "address", "is required"},
		{Config{Address: at, Namespace: "a b"}, "namespace", "space"},
		{Config{Address: at, Timeout: time.Millisecond}, "timeout", "want 1s to 1m0s"},
		{Config{Address: at, CacheTTL: -1}, "cache_ttl", "want 1s to 1h0m0s"},
		{Config{Address: at, TLS: TLS{CertFile: "c"}}, "tls", "both"},
		{Config{Address: at, Auth: Auth{Method: "oidc"}}, "auth.method", "is unknown"},
		{Config{Address: at, Auth: Auth{Mount: "../sys"}}, "auth.mount", `".."`},
		{Config{Address: at, Auth: Auth{RoleID: value}}, "auth.role_id", "is not used by auth.method token"},
		{Config{Address: at, Auth: Auth{Method: "approle", RoleID: value, Password: value}}, "auth.password", "is not used"},
		{Config{Address: at, Auth: Auth{Method: "approle"}}, "auth.role_id", "is required"},
		{Config{Address: at, Auth: Auth{Method: "approle", RoleID: value, SecretIDWrapped: true}}, "auth.secret_id", "is required"},
		{Config{Address: at, Auth: Auth{Method: "kubernetes"}}, "auth.role", "is required"},
		{Config{Address: at, Auth: Auth{Method: "jwt", Role: "r"}}, "auth.jwt", "either"},
		{Config{Address: at, Auth: Auth{Method: "jwt", Role: "r", JWT: value, JWTFile: "f"}}, "auth.jwt", "either"},
		{Config{Address: at, Auth: Auth{Method: "cert"}}, "tls.cert_file", "is required"},
		{Config{Address: at, Auth: Auth{Method: "userpass", Username: value}}, "auth.password", "is required"},
		{Config{Address: at, Auth: Auth{Token: Ref{Env: "1"}}}, "auth.token", "environment variable"},
		{Config{Address: at, Auth: Auth{Token: mustRef(t, "vault:secret/x#k")}}, "auth.token", "log in to Vault"},
	} {
		problems := bad.cfg.Validate()
		if len(problems) != 1 || problems[0].Path != bad.path || !strings.Contains(problems[0].Message, bad.words) {
			t.Errorf("%+v: found %v, not %s: %s", bad.cfg, problems, bad.path, bad.words)
		}
		if leaks(fmt.Sprint(problems)) != "" {
			t.Errorf("the problem contains the secret: %v", problems)
		}
	}
	t.Setenv("VAULT_ADDR", at+"/v1")
	if problems := (Config{}).Validate(); len(problems) != 1 || problems[0].Path != "address" || !strings.Contains(problems[0].Message, "the environment's VAULT_ADDR ends with the path /v1") {
		t.Errorf("VAULT_ADDR: found %v", problems)
	}
	t.Setenv("VAULT_ADDR", "")
	// All at once, in order.
	problems := Config{Address: "x", Timeout: -1, Auth: Auth{Method: "userpass", JWTFile: "x"}}.Validate()
	if len(problems) != 5 {
		t.Errorf("found %v", problems)
	}
	for address, want := range map[string]bool{"http://vault.example.com:8200": true, "http://10.0.0.1:8200": true, "http://127.0.0.1:8200": false, "http://localhost": false, "http://[::1]:8200": false, "https://vault": false, "unix:///run/vault.sock": false} {
		if got := (Config{Address: address}).Warnings(); len(got) > 0 != want || want && !strings.Contains(got[0].Message, "begins with http://") {
			t.Errorf("%s: %v", address, got)
		}
	}
	t.Setenv("VAULT_ADDR", "http://vault.example.com:8200")
	if got := (Config{}).Warnings(); len(got) != 1 || !strings.Contains(got[0].Message, "the environment's VAULT_ADDR begins with http://") {
		t.Errorf("VAULT_ADDR: %v", got)
	}
	t.Setenv("VAULT_ADDR", at)
	if problems := (Config{Auth: Auth{Method: "approle", RoleID: value}}).Validate(); problems != nil {
		t.Errorf("with VAULT_ADDR: %v", problems)
	}
}

func TestOpenRefusesFilesItCannotUse(t *testing.T) {
	t.Parallel()
	o := observe(t)
	junk := inFile(t, o.secret("junk")).File
	cert, key, _ := clientCertificate(t, "x")
	_, otherKey, _ := clientCertificate(t, "y")
	for name, test := range map[string]struct {
		tls  TLS
		says string
	}{
		"no CA":        {TLS{CAFile: junk + "none"}, "vault.tls.ca_file"},
		"CA of junk":   {TLS{CAFile: junk}, "no PEM certificate"},
		"junk":         {TLS{CertFile: junk, KeyFile: junk}, "vault.tls.cert_file"},
		"another key":  {TLS{CertFile: cert, KeyFile: otherKey}, "vault.tls.cert_file"},
		"key and cert": {TLS{CertFile: key, KeyFile: cert}, "vault.tls.cert_file"},
	} {
		_, err := Open(Config{Address: "https://127.0.0.1:1", TLS: test.tls}, o.log())
		if o.said(err) == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Open does not connect: a process starts even if Vault is unavailable.
func TestOpenDoesNotDial(t *testing.T) {
	t.Parallel()
	store, err := Open(Config{Address: "https://vault.invalid:8200", Auth: asToken("x")}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	store.Close()
	store.Close()
}
