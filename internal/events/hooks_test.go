package events

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// home is a directory with the files of ACME clients.
type home struct{ dir string }

func newHome(t *testing.T) home {
	t.Helper()
	h := home{t.TempDir()}
	key := string(keys(t)["P-256 as PKCS#8 in PEM"])

	// certbot: live/ has links into archive/, where each renewal's files are numbered.
	for i, file := range []string{"archive/www.example.com/fullchain1.pem", "archive/www.example.com/fullchain2.pem"} {
		h.write(t, file, []string{"an older certificate", chainPEM}[i])
	}
	h.write(t, "archive/www.example.com/privkey1.pem", "an older key")
	h.write(t, "archive/www.example.com/privkey2.pem", key)
	if err := os.MkdirAll(h.path("live/www.example.com"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fullchain", "privkey"} {
		if err := os.Symlink("../../archive/www.example.com/"+name+"2.pem", h.path("live/www.example.com/"+name+".pem")); err != nil {
			t.Fatal(err)
		}
	}
	h.write(t, "live/README", "This directory contains your keys and certificates.\n")

	h.write(t, "lego/certificates/_.example.com.crt", chainPEM)
	h.write(t, "lego/certificates/_.example.com.key", key)
	h.write(t, "acme/www.example.com_ecc/fullchain.cer", chainPEM)
	h.write(t, "acme/www.example.com_ecc/www.example.com.key", key)
	h.write(t, "dehydrated/www.example.com/fullchain-1769860800.pem", chainPEM)
	h.write(t, "dehydrated/www.example.com/privkey-1769860800.pem", key)
	h.write(t, "caddy/acme-ca.test-dir/www.example.com/www.example.com.crt", chainPEM)
	h.write(t, "caddy/acme-ca.test-dir/www.example.com/www.example.com.key", key)
	h.write(t, "both.pem", chainPEM+key)
	return h
}

func (h home) path(name string) string { return filepath.Join(h.dir, name) }

func (h home) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.path(name)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// host is the environment of a hook there. It records which files are read.
func (h home) host(env map[string]string, read *[]string, args ...string) Host {
	return Host{
		Name: "web1",
		Env:  func(name string) string { return env[name] },
		Args: args,
		ReadFile: func(path string) ([]byte, error) {
			*read = append(*read, path)
			return os.ReadFile(path)
		},
	}
}

func TestHooks(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	covered := map[string]bool{}
	for _, tt := range []struct {
		name, client string
		env          map[string]string
		args         []string
		source, key  string
		lineage      string // "" for www.example.com
		domains      []string
	}{
		{
			name: "certbot", client: "certbot",
			env:    map[string]string{"RENEWED_LINEAGE": h.path("live/www.example.com"), "RENEWED_DOMAINS": "www.example.com example.com"},
			source: "certbot://web1/www.example.com", key: h.path("live/www.example.com/privkey.pem"),
			domains: []string{"www.example.com", "example.com"},
		},
		{
			name: "certbot, lineage with a slash behind it", client: "certbot",
			env:    map[string]string{"RENEWED_LINEAGE": h.path("live/www.example.com") + "/"},
			source: "certbot://web1/www.example.com", key: h.path("live/www.example.com/privkey.pem"),
			domains: []string{"www.example.com", "example.com"},
		},
		{
			name: "lego 5", client: "lego",
			env: map[string]string{
				"LEGO_HOOK_CERT_NAME": "*.example.com", "LEGO_HOOK_CERT_PATH": h.path("lego/certificates/_.example.com.crt"),
				"LEGO_HOOK_CERT_KEY_PATH": h.path("lego/certificates/_.example.com.key"), "LEGO_HOOK_CERT_DOMAINS": "*.example.com,example.com",
			},
			lineage: "*.example.com",
			source:  "lego://web1/%2A.example.com", key: h.path("lego/certificates/_.example.com.key"),
			domains: []string{"*.example.com", "example.com"},
		},
		{
			name: "lego 4", client: "lego",
			env: map[string]string{
				"LEGO_ACCOUNT_EMAIL": "ops@example.com", "LEGO_CERT_DOMAIN": "www.example.com",
				"LEGO_CERT_PATH": h.path("lego/certificates/_.example.com.crt"), "LEGO_CERT_KEY_PATH": h.path("lego/certificates/_.example.com.key"),
			},
			source: "lego://web1/www.example.com", key: h.path("lego/certificates/_.example.com.key"),
			domains: []string{"www.example.com", "example.com"},
		},
		{
			name: "acme.sh", client: "acme.sh",
			env: map[string]string{
				"Le_Domain": "www.example.com", "CERT_PATH": h.path("acme/www.example.com_ecc/www.example.com.cer"), "CA_CERT_PATH": h.path("acme/www.example.com_ecc/ca.cer"),
				"CERT_KEY_PATH": h.path("acme/www.example.com_ecc/www.example.com.key"), "CERT_FULLCHAIN_PATH": h.path("acme/www.example.com_ecc/fullchain.cer"),
			},
			lineage: "www.example.com_ecc",
			source:  "acme.sh://web1/www.example.com", key: h.path("acme/www.example.com_ecc/www.example.com.key"),
			domains: []string{"www.example.com", "example.com"},
		},
		{
			name: "dehydrated", client: "dehydrated",
			args: []string{
				"deploy_cert", "www.example.com", h.path("dehydrated/www.example.com/privkey-1769860800.pem"), h.path("dehydrated/www.example.com/cert.pem"),
				h.path("dehydrated/www.example.com/fullchain-1769860800.pem"), h.path("dehydrated/www.example.com/chain.pem"), "1769860800",
			},
			source: "dehydrated://web1/www.example.com", key: h.path("dehydrated/www.example.com/privkey-1769860800.pem"),
			domains: []string{"www.example.com", "example.com"},
		},
		{
			name: "caddy", client: "caddy",
			args:   []string{h.path("caddy/acme-ca.test-dir/www.example.com/www.example.com.crt"), h.path("caddy/acme-ca.test-dir/www.example.com/www.example.com.key")},
			source: "caddy://web1/acme-ca.test-dir/www.example.com", key: h.path("caddy/acme-ca.test-dir/www.example.com/www.example.com.key"),
			domains: []string{"www.example.com", "example.com"},
		},
		{
			name: "step", client: "step",
			args:    []string{h.path("live/www.example.com/fullchain.pem"), h.path("live/www.example.com/privkey.pem")},
			lineage: "fullchain", source: "file://web1" + h.path("live/www.example.com/fullchain.pem"), key: h.path("live/www.example.com/privkey.pem"),
			domains: []string{"www.example.com", "example.com"},
		},
		{
			name: "files of any client", client: "files",
			args:    []string{h.path("live/www.example.com/fullchain.pem"), h.path("live/www.example.com/privkey.pem")},
			lineage: "fullchain", source: "file://web1" + h.path("live/www.example.com/fullchain.pem"), key: h.path("live/www.example.com/privkey.pem"),
			domains: []string{"www.example.com", "example.com"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var read []string
			host := h.host(tt.env, &read, tt.args...)
			issued, err := FromHook(tt.client, host)
			if err != nil {
				t.Fatal(err)
			}
			if string(issued.Chain) != chainPEM {
				t.Errorf("chain\n%s", issued.Chain)
			}
			if issued.Source != tt.source || issued.KeyFile != tt.key || !slices.Equal(issued.Domains, tt.domains) {
				t.Errorf("got %s, %s, %q\nwant %s, %s, %q", issued.Source, issued.KeyFile, issued.Domains, tt.source, tt.key, tt.domains)
			}
			if want := cmp.Or(tt.lineage, "www.example.com"); issued.Lineage != want {
				t.Errorf("lineage %s, want %s", issued.Lineage, want)
			}
			if slices.Contains(read, tt.key) || len(read) != 1 {
				t.Errorf("read %q; the hook must not read the key's file", read)
			}
			if _, err := os.Stat(issued.KeyFile); err != nil {
				t.Errorf("the referenced file cannot be read: %v", err)
			}

			// The hook makes an event, and the same one when it runs again.
			e := must(issued.Event())
			decoded, err := Decode(nil, e.CloudEvent())
			if err != nil {
				t.Fatal(err)
			}
			again := must(must(FromHook(tt.client, host)).Event())
			if decoded.ID != again.ID || decoded.Digest() != again.Digest() {
				t.Error("the hook makes another event when it runs again")
			}
		})
		covered[tt.client] = true
	}
	for _, client := range Hooks() {
		if !covered[client] {
			t.Errorf("no test for %s", client)
		}
	}
}

func TestHooksGoneWrong(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	for _, tt := range []struct {
		name, client string
		env          map[string]string
		args         []string
		reason       string
	}{
		{name: "unknown client", client: "certify\n", reason: `unknown ACME client "certify?"; expected one of certbot, lego, acme.sh, dehydrated, caddy, step, files`},
		{name: "by hand", client: "certbot", reason: `certbot passed no certificate: this works only as certbot's deploy hook: certbot ... --deploy-hook 'certpost publish --from certbot'`},
		{name: "acme.sh after a failure", client: "acme.sh", env: map[string]string{"Le_Domain": "www.example.com"}, reason: `acme.sh passed no certificate: this works only as acme.sh's post hook: acme.sh --issue ... --post-hook 'certpost publish --from acme.sh'`},
		{name: "dehydrated without arguments", client: "dehydrated", reason: `dehydrated passed no certificate: this works only as dehydrated's HOOK, with its arguments passed on: certpost publish --from dehydrated -- "$@"`},
		{name: "dehydrated with too few", client: "dehydrated", args: []string{"deploy_cert", "www.example.com", "key"}, reason: `dehydrated's deploy_cert has 2 arguments, expected at least DOMAIN KEYFILE CERTFILE FULLCHAINFILE`},
		{name: "a key in the certificate's file", client: "lego", env: map[string]string{"LEGO_CERT_DOMAIN": "x", "LEGO_CERT_PATH": h.path("both.pem")}, reason: h.path("both.pem") + `: the certificate file holds a private key, which must not be published: give a file with only the certificates, and name the key by a reference`},
		{name: "no certificate in the file", client: "lego", env: map[string]string{"LEGO_CERT_DOMAIN": "x", "LEGO_CERT_PATH": h.path("live/README")}, reason: h.path("live/README") + `: the certificate file cannot be used: it has no PEM block: no line starts with -----BEGIN`},
	} {
		var read []string
		if _, err := FromHook(tt.client, h.host(tt.env, &read, tt.args...)); err == nil || err.Error() != tt.reason {
			t.Errorf("%s:\n got %v\nwant %s", tt.name, err, tt.reason)
		}
	}

	var read []string
	_, err := FromHook("certbot", h.host(map[string]string{"RENEWED_LINEAGE": h.path("live/gone")}, &read))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "read the certificate that certbot wrote") {
		t.Errorf("a missing file: %v", err)
	}
	for _, step := range []string{"startup_hook", "deploy_challenge", "exit_hook", "this_hookscript_is_broken__dehydrated_is_working_fine__please_ignore_unknown_hooks_in_your_script"} {
		if _, err := FromHook("dehydrated", h.host(nil, &read, step, "x")); !errors.Is(err, ErrNotIssued) {
			t.Errorf("%s: %v, want ErrNotIssued", step, err)
		}
	}
}

func TestHookPathsBecomeAbsolute(t *testing.T) {
	h := newHome(t)
	t.Chdir(h.path("lego"))
	var read []string
	issued, err := FromHook("lego", h.host(map[string]string{
		"LEGO_CERT_DOMAIN": "x", "LEGO_CERT_PATH": "certificates/_.example.com.crt", "LEGO_CERT_KEY_PATH": "certificates/_.example.com.key",
	}, &read))
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(issued.KeyFile) || !strings.HasSuffix(issued.KeyFile, "/lego/certificates/_.example.com.key") {
		t.Errorf("the key's file is %s", issued.KeyFile)
	}
}
