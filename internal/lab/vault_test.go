package lab

import (
	"net/http"
	"testing"
)

func TestVaultServes(t *testing.T) {
	t.Parallel()
	v := Vault(t)
	v.Mount(t, "old", "kv-v1")
	v.Mount(t, "new", "kv-v2")
	for _, at := range []string{"secret/a", "old/a", "new/a"} {
		v.Put(t, at, map[string]any{"k": at})
	}
	for path, want := range map[string]string{"secret/data/a": "secret/a", "new/data/a": "new/a"} {
		data := v.Call(t, "GET", path, nil)["data"].(map[string]any)["data"].(map[string]any)
		if data["k"] != want {
			t.Errorf("%s holds %v", path, data)
		}
	}
	if data := v.Call(t, "GET", "old/a", nil)["data"].(map[string]any); data["k"] != "old/a" {
		t.Errorf("old/a holds %v", data)
	}

	v.Policy(t, "reader", `path "secret/data/a" { capabilities = ["read"] }`)
	role, secret := v.AppRole(t, "", "reader")
	if before := v.Requests(t); len(before) != 0 {
		t.Errorf("only root made requests, but it counts %v", before)
	}
	status, got := v.request(t, nil, "PUT", "auth/approle/login", map[string]string{"role_id": role, "secret_id": secret})
	if status != 200 {
		t.Fatalf("the login answers %d", status)
	}
	token := got["auth"].(map[string]any)["client_token"].(string)
	as := http.Header{"X-Vault-Token": {token}}
	v.Seal(t)
	if status, _ := v.request(t, as, "GET", "secret/data/a", nil); status != 503 {
		t.Errorf("a sealed server answers %d", status)
	}
	v.Unseal(t)
	for path, want := range map[string]int{"secret/data/a": 200, "secret/data/b": 403} {
		if status, _ := v.request(t, as, "GET", path, nil); status != want {
			t.Errorf("%s: status %d, not %d", path, status, want)
		}
	}
	counted := v.Requests(t)
	if counted["read secret/data/a"] != 1 || counted["read secret/data/b"] != 1 || counted["update auth/approle/login"] != 1 || len(counted) != 3 {
		t.Errorf("it counts %v", counted)
	}
}
