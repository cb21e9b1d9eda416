package secrets

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/certpost/certpost/internal/lab"
)

// manual returns the fenced blocks of docs/vault.md, by the word after the fence.
func manual(t testing.TB) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "vault.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]string{}
	for _, m := range regexp.MustCompile("(?ms)^```([a-z -]+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		blocks[m[1]] = append(blocks[m[1]], m[2])
	}
	return blocks
}

// runCommand executes a command line of the manual as Vault's own command would.
func runCommand(t testing.TB, v *lab.VaultServer, blocks map[string][]string, line string) map[string]any {
	t.Helper()
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != "vault" {
		t.Fatalf("the manual has a command that no test knows: %s", line)
	}
	switch verb := words[1] + " " + words[2]; {
	case verb == "policy write":
		v.Policy(t, words[3], blocks["hcl "+strings.TrimSuffix(words[4], ".hcl")][0])
	case verb == "auth enable":
		v.Auth(t, words[3])
	case verb == "secrets enable":
		v.Mount(t, words[3], words[3])
	case words[1] == "read":
		return v.Call(t, "GET", words[2], nil)
	case words[1] == "write":
		body, path, wrap := map[string]string{}, "", ""
		for _, word := range words[2:] {
			name, value, pair := strings.Cut(word, "=")
			switch {
			case word == "-f":
			case name == "-wrap-ttl":
				wrap = value
			case !pair:
				path = word
			default:
				body[name] = value
			}
		}
		if path == "auth/kubernetes/config" {
			body["disable_local_ca_jwt"] = "true" // this Vault is not in a cluster
		}
		if wrap != "" {
			return map[string]any{"wrapped": v.Wrap(t, wrap, "PUT", path, body)}
		}
		return v.Call(t, "PUT", path, body)
	default:
		t.Fatalf("the manual has a command that no test knows: %s", line)
	}
	return nil
}

// The manual's policies, roles and configurations work, and allow exactly what the
// manual says.
func TestManual(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	blocks := manual(t)
	id := map[string]string{}
	for _, block := range blocks["sh"] {
		for line := range strings.Lines(block) {
			answer := runCommand(t, v, blocks, line)
			if data, ok := answer["data"].(map[string]any); ok {
				for _, name := range []string{"role_id", "secret_id"} {
					if text, ok := data[name].(string); ok {
						id[name] = o.keep(text)
					}
				}
			}
			if wrapped, ok := answer["wrapped"].(string); ok {
				id["wrapped"] = o.keep(wrapped)
			}
		}
	}
	v.Call(t, "PUT", "sys/policies/acl/certpost-list", map[string]string{"policy": blocks["hcl certpost-list"][0]})
	v.Call(t, "PUT", "sys/policies/acl/certpost-publish", map[string]string{"policy": blocks["hcl certpost-publish"][0]})

	approle := func(secretID string, wrapped bool) *Store {
		return o.open(t, v, Auth{Method: "approle", RoleID: Ref{Value: New([]byte(id["role_id"]))}, SecretID: Ref{Value: New([]byte(secretID))}, SecretIDWrapped: wrapped})
	}
	certpost := approle(id["secret_id"], false)
	publisher := o.open(t, v, asToken(o.keep(v.Token(t, "1h", "certpost-publish"))))
	lister := o.open(t, v, asToken(o.keep(v.Token(t, "1h", "certpost", "certpost-list"))))

	for _, at := range []string{"secret/smtp/relay", "secret/p12/ops", "secret/certs/web1", "secret/other/x"} {
		v.Put(t, at, map[string]any{"k": o.secret("manual")})
	}
	for _, text := range []string{"vault:secret/smtp/relay#k", "vault:secret/p12/ops#k", "vault:secret/certs/web1#k"} {
		found, err := certpost.Check(t.Context(), mustRef(t, text), nil)
		if o.said(err) != nil || len(found.Warnings) != 0 {
			t.Errorf("%s: %+v, %v", text, found, err)
		}
	}
	wantError(t, o, certpost.Get, mustRef(t, "vault:secret/other/x#k"), ErrDenied)
	wantError(t, o, lister.Get, mustRef(t, "vault:secret/certs/web#k"), ErrNotFound, "existing names: web1")

	key := o.secret("key")
	for _, text := range []string{"vault:secret/certs/web1#private_key", "vault:secret/certs/new#private_key"} {
		if err := putError(t, publisher, mustRef(t, text), New([]byte(key))); o.said(err) != nil {
			t.Errorf("%s: %v", text, err)
		}
		wantError(t, o, publisher.Get, mustRef(t, text), ErrDenied)
		got, err := certpost.Uncached(t.Context(), mustRef(t, text), nil)
		if o.said(err) != nil || string(got.Value.Reveal()) != key {
			t.Errorf("%s: %v", text, err)
		}
	}
	isError(t, o, putError(t, certpost, mustRef(t, "vault:secret/certs/web1#k"), New([]byte("x"))), ErrDenied)

	made := v.Call(t, "PUT", "transit/encrypt/certpost", map[string]any{"plaintext": []byte(key)})
	transit := Ref{Transit: &TransitRef{Mount: "transit", Key: "certpost", Ciphertext: made["data"].(map[string]any)["ciphertext"].(string)}}
	wantSecret(t, o, certpost.Get, transit, key, "v1")
	if _, err := approle(id["wrapped"], true).Get(t.Context(), mustRef(t, "vault:secret/p12/ops#k"), nil); o.said(err) != nil {
		t.Errorf("with a wrapped secret id: %v", err)
	}

	for _, block := range blocks["yaml"] {
		var cfg struct {
			Vault  Config
			Events struct {
				SecretPaths []string `yaml:"secret_paths"`
				FileRoots   []string `yaml:"file_roots"`
			}
		}
		if err := yaml.UnmarshalWithOptions([]byte(block), &cfg, yaml.Strict()); err != nil {
			t.Errorf("%s%v", block, err)
		}
		policy := Policy{Paths: cfg.Events.SecretPaths, FileRoots: cfg.Events.FileRoots}
		if problems := append(cfg.Vault.Validate(), policy.Validate()...); problems != nil {
			t.Errorf("%s%v", block, problems)
		}
		if policy.Paths != nil && (policy.Allows(mustRef(t, "vault:secret/certs/web1#k")) != nil || policy.Allows(transit) != nil) {
			t.Errorf("%sdoes not allow what the policy does", block)
		}
	}
}
