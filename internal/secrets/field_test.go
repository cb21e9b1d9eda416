package secrets

import (
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// A reference without a key takes password, else key, else the only field.
//
// Fault: a reference without a key, and several fields to choose from. Result: dead
// (SECRET_NOT_FOUND); the text names the fields.
func TestReferenceWithoutAKey(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "old", "kv-v1")
	secret, spare := o.secret("wanted"), o.secret("spare")
	for path, fields := range map[string]map[string]any{
		"password": {"password": secret, "key": spare, "username": spare},
		"key":      {"key": secret, "username": spare, "url": spare},
		"only":     {"token": secret},
		"several":  {"pass": spare, "user": spare},
		"number":   {"password": 12, "key": spare},
		"none":     {},
	} {
		v.Put(t, "secret/"+path, fields)
		if len(fields) > 0 {
			v.Put(t, "old/"+path, fields)
		}
	}
	store := o.open(t, v, o.asAppRole(t, v, "", readAll))
	keyless := func(mount, path string) Ref { return Ref{Vault: &VaultRef{Mount: mount, Path: path}} }
	for _, mount := range []string{"secret", "old"} {
		for path, field := range map[string]string{"password": "password", "key": "key", "only": "token"} {
			ref := keyless(mount, path)
			got, err := store.Get(t.Context(), ref, nil)
			if o.said(err) != nil || string(got.Value.Reveal()) != secret || got.Field != field {
				t.Errorf("%s: field %q, %v", ref, got.Field, err)
			}
			if named := ref.WithField(got).String(); named != "vault:"+mount+"/"+path+"#"+field {
				t.Errorf("%s is recorded as %s", ref, named)
			}
			found, err := store.Check(t.Context(), ref, nil)
			if o.said(err) != nil || found.Field != field || !found.Read {
				t.Errorf("%s: checked as %+v, %v", ref, found, err)
			}
		}
		wantError(t, o, store.Get, keyless(mount, "several"), ErrNotFound,
			"vault:"+mount+"/several: the reference names no key", "2 fields, neither password nor key", "set key", "existing names: pass, user")
		wantError(t, o, store.Get, keyless(mount, "number"), ErrNotFound, "the field password is a number")
	}
	wantError(t, o, store.Get, keyless("secret", "none"), ErrNotFound, "0 fields")
	if err := putError(t, store, keyless("secret", "only"), New([]byte("x"))); o.said(err) == nil || !strings.Contains(err.Error(), "into a field") {
		t.Errorf("written without a field: %v", err)
	}
}
