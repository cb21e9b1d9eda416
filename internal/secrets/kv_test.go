package secrets

import (
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

const readAll = `path "secret/*" { capabilities = ["read", "list"] }
path "old/*" { capabilities = ["read", "list"] }`

// Fault: path, field or version not found or of the wrong kind. Result: dead
// (SECRET_NOT_FOUND).
// Fault: data/. Result: or named in the reason.
func TestKV2(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	first, second, spare := o.secret("first"), o.secret("second"), o.secret("spare")
	v.Put(t, "secret/p12/ops", map[string]any{"passphrase": first, "spare": spare})
	v.Put(t, "secret/p12/ops", map[string]any{
		"passphrase": second, "passphrases": spare, "number": 12, "list": []string{spare}, "object": map[string]string{"k": spare},
		"nothing": nil, "empty": "", "yes": true,
	})
	store := o.open(t, v, o.asAppRole(t, v, "", readAll))

	wantSecret(t, o, store.Get, mustRef(t, "vault:secret/p12/ops#passphrase"), second, "2")
	wantSecret(t, o, store.Get, mustRef(t, "vault:secret/p12/ops#passphrase@1"), first, "1")
	wantSecret(t, o, store.Get, mustRef(t, "vault:secret/p12/ops#passphrase@2"), second, "2")
	for ref, texts := range map[string][]string{
		"vault:secret/p12/ops#passphase":       {"vault:secret/p12/ops#passphase: ", "no field passphase", "existing names: passphrase, passphrases"},
		"vault:secret/p12/ops#number":          {"the field number is a number", "string"},
		"vault:secret/p12/ops#list":            {"a list"},
		"vault:secret/p12/ops#object":          {"an object"},
		"vault:secret/p12/ops#nothing":         {"null"},
		"vault:secret/p12/ops#yes":             {"true or false"},
		"vault:secret/p12/ops#empty":           {"is empty"},
		"vault:secret/p12/opps#passphrase":     {"no secret at secret/p12/opps", "existing names: ops"},
		"vault:secret/none/ops#passphrase":     {"no secret at secret/none/ops"},
		"vault:secret/p12/ops#passphrase@9":    {"no version 9"},
		"vault:secret/data/p12/ops#passphrase": {"no secret at secret/data/p12/ops", "leave out data/"},
	} {
		wantError(t, o, store.Get, mustRef(t, ref), ErrNotFound, texts...)
	}

	v.Call(t, "POST", "secret/delete/p12/ops", map[string]any{"versions": []int{2}})
	wantError(t, o, store.Fresh, mustRef(t, "vault:secret/p12/ops#passphrase"), ErrNotFound, "version 2 is deleted", "undelete")
	wantSecret(t, o, store.Fresh, mustRef(t, "vault:secret/p12/ops#passphrase@1"), first, "1")
	v.Call(t, "POST", "secret/undelete/p12/ops", map[string]any{"versions": []int{2}})
	wantSecret(t, o, store.Fresh, mustRef(t, "vault:secret/p12/ops#passphrase"), second, "2")
	v.Call(t, "PUT", "secret/destroy/p12/ops", map[string]any{"versions": []int{1}})
	wantError(t, o, store.Fresh, mustRef(t, "vault:secret/p12/ops#passphrase@1"), ErrNotFound, "version 1 is destroyed")
}

// Fault: path, field or version not found or of the wrong kind. Result: dead
// (SECRET_NOT_FOUND).
func TestKV1(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "old", "kv-v1")
	secret := o.secret("old")
	v.Put(t, "old/smtp/relay", map[string]any{"password": secret})
	store := o.open(t, v, o.asAppRole(t, v, "", readAll))
	wantSecret(t, o, store.Get, mustRef(t, "vault:old/smtp/relay#password"), secret, "")
	wantError(t, o, store.Get, mustRef(t, "vault:old/smtp/relay#pass"), ErrNotFound, "no field pass", "existing names: password")
	wantError(t, o, store.Get, mustRef(t, "vault:old/smtp/relai#password"), ErrNotFound, "no secret at old/smtp/relai", "existing names: relay")
	wantError(t, o, store.Get, mustRef(t, "vault:old/smtp/relay#password@1"), ErrNotFound, "keeps no versions")
}

func TestUnusualNames(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "team/kv", "kv-v2")
	odd := o.secret("odd")
	for _, path := range []string{"secret/data/a%20b/c+d", "secret/data/%C3%BCn%C3%AF", "secret/data/a@b:c=d,e~f", "team/kv/data/deep/er"} {
		v.Call(t, "POST", path, map[string]any{"data": map[string]string{"k@x.example": odd}})
	}
	store := o.open(t, v, asToken(v.RootToken))
	for _, ref := range []string{
		"vault:secret/a b/c+d#k@x.example", "vault:secret/ünï#k@x.example", "vault:secret/a@b:c=d,e~f#k@x.example", "vault:team/kv//deep/er#k@x.example",
	} {
		wantSecret(t, o, store.Get, mustRef(t, ref), odd, "1")
	}
	// Another split of mount and path names the same place; it must not bypass a policy.
	wantError(t, o, store.Get, mustRef(t, "vault:secret/a b//c+d#k"), ErrNotFound, "nothing is mounted at secret/a b", "mounted at secret")
}

// A token that may not ask what is mounted still reads both versions of KV.
func TestEngineThatIsNotTold(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "old", "kv-v1")
	secret := o.secret("x")
	v.Put(t, "old/x", map[string]any{"k": secret})
	v.Put(t, "secret/x", map[string]any{"k": secret})
	store := o.open(t, v, o.asAppRole(t, v, "", readAll+`
path "sys/internal/ui/mounts/*" { capabilities = ["deny"] }`))
	wantSecret(t, o, store.Get, mustRef(t, "vault:secret/x#k"), secret, "1")
	wantSecret(t, o, store.Get, mustRef(t, "vault:old/x#k"), secret, "")
	wantError(t, o, store.Get, mustRef(t, "vault:secret/y#k"), ErrNotFound, "no secret at secret/y")
	wantError(t, o, store.Get, mustRef(t, "vault:old/y#k"), ErrNotFound, "no secret at old/y")
}
