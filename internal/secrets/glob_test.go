package secrets

import "testing"

// ** stands for one or more levels: the path above it may be a secret of its own.
func TestGlobLevels(t *testing.T) {
	t.Parallel()
	policy := Policy{Paths: []string{"secret/certs/**", "kv/*/tls/**"}}
	for location, want := range map[string]bool{
		"certs": false, "certs/a": true, "certs/a/b": true, "certs/a/b/c": true, "certsx/a": false, "other/certs/a": false,
	} {
		if err := policy.Allows(Ref{Vault: &VaultRef{Mount: "secret", Path: location, Key: "k"}}); (err == nil) != want {
			t.Errorf("secret/%s: %v", location, err)
		}
	}
	for location, want := range map[string]bool{"team/tls": false, "team/tls/a": true, "team/tls/a/b": true, "team/a/tls/b": false, "tls/a": false} {
		if err := policy.Allows(Ref{Vault: &VaultRef{Mount: "kv", Path: location, Key: "k"}}); (err == nil) != want {
			t.Errorf("kv/%s: %v", location, err)
		}
	}
}
