package secrets

import (
	"sync"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// A path that the token's policy does not allow is denied after at most one new login,
// and the error says what the policy needs; a thousand such deliveries do not cause a
// thousand logins.
//
// Fault: still denied after a new login. Result: dead (SECRET_DENIED).
func TestDenied(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	v.Put(t, "secret/private/y", map[string]any{"k": o.secret("private")})
	v.Policy(t, "narrow", `path "secret/data/x" { capabilities = ["read"] }`)
	role, secretID := v.AppRole(t, "1h", "narrow")
	store := o.open(t, v, Auth{Method: "approle", RoleID: Ref{Value: New([]byte(role))}, SecretID: Ref{Value: New([]byte(o.keep(secretID)))}})
	denied := mustRef(t, "vault:secret/private/y#k")
	wantError(t, o, store.Get, denied, ErrDenied,
		"vault:secret/private/y#k: Certpost's token may not read secret/data/private/y", `path "secret/data/private/y" { capabilities = ["read"] }`)
	// Vault does not say whether a path exists: one that does not exist is denied as well.
	wantError(t, o, store.Get, mustRef(t, "vault:secret/nothing#k"), ErrDenied)
	wantError(t, o, store.Get, mustRef(t, "vault:nowhere/x#k"), ErrDenied)

	// With a token that is older than youngToken, one new login is tried.
	age := func() {
		store.vault.session.mu.Lock()
		defer store.vault.session.mu.Unlock()
		store.vault.session.current.since = time.Now().Add(-2 * youngToken)
	}
	age()
	var workers sync.WaitGroup
	for range 50 {
		workers.Go(func() { wantError(t, o, store.Get, denied, ErrDenied) })
	}
	workers.Wait()
	if n := v.Requests(t)["update auth/approle/login"]; n != 2 {
		t.Errorf("%d logins", n)
	}

	// The role gets one more policy: a new login gets it.
	v.Policy(t, "more", readSecret)
	v.Call(t, "POST", "auth/approle/role/narrow", map[string]any{"token_policies": []string{"narrow", "more"}})
	wantError(t, o, store.Get, denied, ErrDenied)
	age()
	if _, err := store.Get(t.Context(), denied, nil); o.said(err) != nil {
		t.Errorf("after the role got one more policy: %v", err)
	}
	wantSecret(t, o, store.Get, ref, secret, "1")
}

func TestTransit(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "transit", "transit")
	for _, key := range []string{"certs", "other"} {
		v.Call(t, "POST", "transit/keys/"+key, nil)
	}
	plain := o.secret("envelope")
	encrypt := func(key string) string {
		made := v.Call(t, "POST", "transit/encrypt/"+key, map[string]any{"plaintext": []byte(plain)})
		return made["data"].(map[string]any)["ciphertext"].(string)
	}
	first := encrypt("certs")
	v.Call(t, "POST", "transit/keys/certs/rotate", nil)
	second := encrypt("certs")
	store := o.open(t, v, o.asAppRole(t, v, "", `path "transit/decrypt/certs" { capabilities = ["update"] }`))
	ref := func(key, ciphertext string) Ref {
		return Ref{Transit: &TransitRef{Mount: "transit", Key: key, Ciphertext: ciphertext}}
	}
	wantSecret(t, o, store.Uncached, ref("certs", first), plain, "v1")
	wantSecret(t, o, store.Get, ref("certs", second), plain, "v2")
	wantSecret(t, o, store.Get, ref("certs", second), plain, "v2")
	if n := v.Requests(t)["update transit/decrypt/certs"]; n != 3 {
		t.Errorf("%d decryptions for three uses: a key was cached", n)
	}
	wantError(t, o, store.Get, ref("certs", first[:len(first)-8]), ErrNotFound, "transit:transit/certs: ", "cannot decrypt", "cut off")
	wantError(t, o, store.Get, ref("certs", encrypt("other")), ErrNotFound, "another key")
	wantError(t, o, store.Get, ref("other", encrypt("other")), ErrDenied, `path "transit/decrypt/other" { capabilities = ["update"] }`)
	v.Call(t, "POST", "transit/keys/certs/config", map[string]any{"min_decryption_version": 2})
	wantError(t, o, store.Get, ref("certs", first), ErrNotFound, "no longer allowed")
}

// Every engine that is not KV is read at its plain path.
func TestPlainRead(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "pki", "pki")
	v.Call(t, "POST", "pki/root/generate/internal", map[string]any{"common_name": "test", "ttl": "1h"})
	store := o.open(t, v, o.asAppRole(t, v, "", `path "pki/cert/*" { capabilities = ["read"] }`))
	secret, err := store.Get(t.Context(), mustRef(t, "vault:pki/cert/ca#certificate"), nil)
	if o.said(err) != nil || string(secret.Value.Reveal()[:27]) != "-----BEGIN CERTIFICATE-----" {
		t.Errorf("the CA's certificate is not read: %v", err)
	}
	wantError(t, o, store.Get, mustRef(t, "vault:pki/cert/ca#certificat"), ErrNotFound, "vault:pki/cert/ca#certificat: ", "no field", "existing names: certificate,")
	wantError(t, o, store.Get, mustRef(t, "vault:pki/cert/ca#certificate@2"), ErrNotFound, "keeps no versions")
	wantError(t, o, store.Get, mustRef(t, "vault:pki/cert/11-22#certificate"), ErrNotFound, "no secret at pki/cert/11-22")
	wantError(t, o, store.Get, mustRef(t, "vault:pki/roles/x#k"), ErrDenied, "pki/roles/x")
}
