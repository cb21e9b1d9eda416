package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/secrets"
)

func hashFor(t testing.TB, password string) string {
	t.Helper()
	return access.NewHash(password).String()
}

func TestConfigHTTP(t *testing.T) {
	t.Parallel()
	hash := hashFor(t, "x")
	const (
		tls    = "tls: {cert_file: a, key_file: b}"
		oidc   = "oidc: {issuer: \"https://id.example.com\", client_id: c, roles: {viewer: [staff]}}"
		home   = "url: \"https://certpost.example.com\""
		beyond = "listen: \"0.0.0.0:8443\""
	)
	users := "users: [{name: ada, password_hash: \"" + hash + "\", role: admin}]"
	tests := []struct {
		name, text string
		want       []string
	}{
		{"loopback needs nothing", "http: {listen: \"127.0.0.1:8080\"}", nil},
		{"IPv6's loopback", "http: {listen: \"[::1]:8080\"}", nil},
		{"other machines", "http:\n  " + beyond + "\n  " + home + "\n  " + tls + "\n  sign_in: {" + users + "}\n", nil},
		{"both ways to sign in", "http:\n  " + beyond + "\n  " + home + "\n  " + tls + "\n  sign_in: {" + users + ", " + oidc + "}\n", nil},
		{"behind a proxy", "http:\n  " + home + "\n  trusted_proxies: [127.0.0.1, \"::1\", 10.0.0.0/8]\n  sign_in: {" + oidc + "}\n", nil},
		{"other machines, open", "http: {" + beyond + "}\n", []string{
			`c.yaml:1:16: http.listen: can be reached from other machines, which requires http.url and http.tls and http.sign_in: set them, or listen on 127.0.0.1`}},
		{"all addresses", "http:\n  listen: \":8080\"\n  " + home + "\n  sign_in: {" + users + "}\n", []string{
			`c.yaml:2:11: http.listen: can be reached from other machines, which requires http.tls: set them, or listen on 127.0.0.1`}},
		{"a name is no loopback", "http:\n  listen: \"certpost.example.com:443\"\n  " + home + "\n  " + tls + "\n", []string{
			`c.yaml:2:11: http.listen: can be reached from other machines, which requires http.sign_in: set them, or listen on 127.0.0.1`}},
		{"an open proxy", "http: {" + home + "}\n", []string{
			`c.yaml:1:13: http.url: makes the dashboard reachable from other machines, which requires http.sign_in`}},
		{"roles without sign-in", "http: {sign_in: {oidc: {roles: {admin: [ops]}}}}\n", []string{
			`c.yaml:1:24: http.sign_in.oidc.issuer: is required: client_id, client_secret and roles have no effect without it`}},
		{"url", "http: {url: \"https://u:hunter2@x/path\"}\n", []string{
			`c.yaml:1:13: http.url: want only scheme and host, such as https://certpost.example.com`}},
		{"url in the clear", "http:\n  url: http://certpost.example.com\n  sign_in: {" + users + "}\n", []string{
			`c.yaml:2:8: http.url: begins with http://: other machines can reach the dashboard only by https`}},
		{"url and tls", "http:\n  url: http://localhost\n  " + tls + "\n", []string{
			`c.yaml:2:8: http.url: begins with http://, but http.tls is on`}},
		{"tls twice", "http: {tls: {cert_file: a, key_file: b, pkcs12_file: c, pkcs12_passphrase: {env: X}}}\n", []string{
			`c.yaml:1:13: http.tls: has the certificate twice: set either cert_file and key_file, or pkcs12_file`}},
		{"half of tls", "http: {tls: {cert_file: a}}\n", []string{`c.yaml:1:13: http.tls: cert_file and key_file belong together: set both`}},
		{"pkcs12 without passphrase", "http: {tls: {pkcs12_file: a}}\n", []string{`c.yaml:1:13: http.tls.pkcs12_passphrase: is required: http.tls.pkcs12_file is set`}},
		{"passphrase without pkcs12", "http: {tls: {pkcs12_passphrase: {env: X}}}\n", []string{`c.yaml:1:13: http.tls.pkcs12_file: is required: http.tls.pkcs12_passphrase is set`}},
		{"passphrase in the open", "http: {tls: {pkcs12_file: a, pkcs12_passphrase: hunter2}, metrics_token: hunter2}\n", []string{
			`c.yaml:1:49: warning: http.tls.pkcs12_passphrase: the secret itself is in the configuration: move it to vault, env, file or credential`,
			`c.yaml:1:74: warning: http.metrics_token: the secret itself is in the configuration: move it to vault, env, file or credential`}},
		{"users", "http:\n  sign_in:\n    users:\n      - {name: ada, password_hash: hunter2, role: root}\n      - {name: ada, password_hash: \"" + hash + "\", role: viewer}\n      - {name: \" eve\", password_hash: \"" + hash + "\", role: viewer}\n      - {role: viewer}\n", []string{
			`c.yaml:4:36: http.sign_in.users[0].password_hash: is not an Argon2id string such as $argon2id$v=19$m=32768,t=3,p=1$...$...: ` + "`certpost hash-password` makes one",
			`c.yaml:4:51: http.sign_in.users[0].role: want viewer, operator or admin, got root`,
			`c.yaml:5:16: http.sign_in.users[1].name: is already the name of users[0]: names must be unique`,
			`c.yaml:6:16: http.sign_in.users[2].name: want 1 to 64 visible characters without spaces at the ends`,
			`c.yaml:7:9: http.sign_in.users[3].name: is required`,
			`c.yaml:7:9: http.sign_in.users[3].password_hash: is required`}},
		{"sessions", "http: {sign_in: {idle: 10s, max: 1s}}\n", []string{
			`c.yaml:1:24: http.sign_in.idle: is longer than http.sign_in.max, 1s`,
			`c.yaml:1:24: http.sign_in.idle: want 1m to 24h, got 10s`,
			`c.yaml:1:34: http.sign_in.max: want 5m to 168h, got 1s`}},
		{"oidc", "http:\n  sign_in:\n    oidc: {issuer: \"http://id.example.com\", role_claim: \"\", client_secret: {env: \"1X\"}}\n", []string{
			`c.yaml:3:11: http.sign_in.oidc.client_id: is required`,
			`c.yaml:3:11: http.sign_in.oidc.roles: gives no user a role: list the values of the claim that make a viewer, an operator or an admin`,
			`c.yaml:2:3: http.url: is required: the OpenID Connect provider sends users back to it`,
			`c.yaml:3:20: http.sign_in.oidc.issuer: want a URL such as https://id.example.com/realms/ops`,
			`c.yaml:3:57: http.sign_in.oidc.role_claim: is required`,
			`c.yaml:3:76: http.sign_in.oidc.client_secret: env: want the name of an environment variable: letters, digits and _, not beginning with a digit`}},
		{"a proxy that is not believed", "http:\n  " + home + "\n  sign_in: {" + users + "}\n", []string{
			`c.yaml:2:8: warning: http.url: is served by a proxy, but http.trusted_proxies is empty: all users then share the proxy's address, and one who guesses passwords delays the sign-in of all; list the proxy there`}},
		{"no proxy", "http:\n  url: http://localhost:8080\n  sign_in: {" + users + "}\n", nil},
		{"an empty value gives nobody a role", "http:\n  " + home + "\n  trusted_proxies: [127.0.0.1]\n  sign_in: {oidc: {issuer: \"https://id.example.com\", client_id: c, roles: {viewer: [\"\"]}}}\n", []string{
			`c.yaml:4:85: http.sign_in.oidc.roles.viewer[0]: is empty`}},
		{"proxies", "http: {trusted_proxies: [example.com]}\n", []string{
			`c.yaml:1:26: http.trusted_proxies[0]: want an address or a network such as 10.0.0.0/8`}},
		{"editing nothing", "http: {edit_and_replay: {enabled: true}}\n", []string{
			`c.yaml:1:25: http.edit_and_replay: is enabled, and nothing may be changed: give targets or recipients`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, got := load(t, test.text)
			slices.Sort(got)
			slices.Sort(test.want)
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			if text := strings.Join(got, "\n"); strings.Contains(text, "hunter2") || strings.Contains(text, hash) {
				t.Errorf("shows a secret: %s", text)
			}
		})
	}
}

// `run` exits with code 2 and names the line, before it opens anything.
func TestOpenDashboardIsNotStarted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(path, []byte("data_dir: "+dir+"/data\nhttp: {listen: \":0\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs writings
	if code := execute(t.Context(), []string{"--config", path, "run"}, nil, &out, &errs); code != exitUsage || !strings.Contains(errs.String(), "c.yaml:2:16: http.listen: can be reached from other machines") {
		t.Errorf("exit %d: %s", code, errs.String())
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("the store was opened")
	}
}

func TestOpenAccess(t *testing.T) {
	hash := hashFor(t, "correct horse battery staple")
	cfg, problems := load(t, `http:
  listen: 127.0.0.1:8080
  url: https://Certpost.Example.com/
  trusted_proxies: [10.0.0.5, 10.1.0.0/16]
  sign_in:
    oidc: {issuer: "https://id.example.com", client_id: certpost, client_secret: {env: CLIENT_SECRET}, roles: {viewer: [staff], admin: [root]}}
    users: [{name: ada, password_hash: "`+hash+`", role: operator}]
    idle: 5m
`, "CERTPOST_HTTP_SIGN_IN_OIDC_ROLES_OPERATOR=ops, on-call", "CERTPOST_HTTP_SIGN_IN_MAX=1h")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	h := cfg.HTTP
	if h.SignIn.Idle != 5*time.Minute || h.SignIn.Max != time.Hour || !slices.Equal(h.SignIn.OIDC.Roles.Operator, []string{"ops", "on-call"}) || h.SignIn.OIDC.RoleClaim != "groups" {
		t.Errorf("%+v", h.SignIn)
	}
	t.Setenv("CLIENT_SECRET", "canary") // read when it is needed
	store, err := secrets.Open(secrets.Config{}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	if secret, err := reader(store, h.SignIn.OIDC.ClientSecret)(t.Context()); err != nil || secret != "canary" {
		t.Errorf("%q %v", secret, err)
	}
	guard, err := h.openAccess(store, access.Pages{}, func(context.Context, access.Event) {}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	guard.Handle("GET /{$}", access.Viewer, func(http.ResponseWriter, *http.Request, access.Visit) {})
	var paths []string
	for _, r := range guard.Routes() {
		paths = append(paths, r.Pattern)
	}
	if want := []string{"GET /sign-in", "POST /sign-out", "POST /sign-in", "GET /sign-in/provider", "GET /sign-in/callback", "GET /{$}"}; !slices.Equal(paths, want) {
		t.Errorf("%q", paths)
	}
	accounts, err := h.SignIn.accounts()
	if err != nil || len(accounts) != 1 || accounts[0].Role != access.Operator || !accounts[0].Hash.Fits("correct horse battery staple") {
		t.Errorf("%+v %v", accounts, err)
	}
}

// TestAccessManual reads every YAML block of docs/dashboard-access.md. A block that is
// followed by a text block has exactly those problems, the others have none.
func TestAccessManual(t *testing.T) {
	page, err := os.ReadFile(root + "/docs/dashboard-access.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```(\n+```text\n(.*?)```)?").FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 8 {
		t.Fatalf("%d blocks of YAML", len(blocks))
	}
	for _, block := range blocks {
		if err := os.WriteFile("certpost.yaml", []byte(block[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, problems := loadConfig("", nil)
		var got strings.Builder
		for _, p := range problems {
			got.WriteString(p.Error() + "\n")
		}
		if got.String() != block[3] {
			t.Errorf("%s\nsays\n%s\nwant\n%s", block[1], got.String(), block[3])
		}
	}
}
