package secrets

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// putError is the error of Put alone.
func putError(t *testing.T, s *Store, ref Ref, value Value) error {
	t.Helper()
	_, err := s.Put(t.Context(), ref, value)
	return err
}

// Put returns the version that has the value, and what the field held before if it may read it. A
// value that is there already makes no new version.
//
// Fault: several certificates whose keys --store-key writes to one path. Result: each write
// returns its version and what was there before.
func TestPutReturnsTheVersion(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "old", "kv-v1")
	reads := o.open(t, v, o.asAppRole(t, v, "1h", `path "+/*" { capabilities = ["create", "update", "patch", "read"] }`))
	blind := o.open(t, v, o.asAppRole(t, v, "1h", `path "secret/data/*" { capabilities = ["create", "patch"] }`))
	first, second := o.secret("first"), o.secret("second")
	for _, c := range []struct {
		name      string
		store     *Store
		at, value string
		version   int
		before    string
	}{
		{"new", reads, "vault:secret/x#k", first, 1, ""},
		{"the same again", reads, "vault:secret/x#k", first, 1, first},
		{"another", reads, "vault:secret/x#k", second, 2, first},
		{"another field", reads, "vault:secret/x#j", first, 3, ""},
		{"without the right to read", blind, "vault:secret/x#k", first, 4, ""},
		{"the same, without the right to read", blind, "vault:secret/x#k", first, 5, ""},
		{"new, without the right to read", blind, "vault:secret/y#k", first, 1, ""},
		{"version 1, new", reads, "vault:old/x#k", first, 0, ""},
		{"version 1, another", reads, "vault:old/x#k", second, 0, first},
	} {
		written, err := c.store.Put(t.Context(), mustRef(t, c.at), New([]byte(c.value)))
		if o.said(err) != nil || written.Version != c.version || !written.Before.Equal(New([]byte(c.before))) {
			t.Errorf("%s: version %d, want %d; before as expected: %v; %v", c.name, written.Version, c.version, written.Before.Equal(New([]byte(c.before))), err)
		}
	}
}

func TestPutKV2(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	spare := o.secret("spare")
	// Three policies that allow writing, the last with the fewest rights.
	for name, rules := range map[string]string{
		"patch":            `path "secret/data/*" { capabilities = ["create", "update", "patch", "read"] }`,
		"read and write":   `path "secret/data/*" { capabilities = ["create", "update", "read"] }`,
		"create and patch": `path "secret/data/*" { capabilities = ["create", "update", "patch"] }`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := o.open(t, v, o.asAppRole(t, v, "1h", rules))
			admin := o.open(t, v, asToken(v.RootToken))
			dir := "secret/" + name[:5] + "/"
			key := o.keep("-----BEGIN PRIVATE KEY-----\n" + o.secret("key") + "\"\\<&>é\n-----END PRIVATE KEY-----\n")
			put := func(ref Ref, secret string) {
				t.Helper()
				if err := putError(t, store, ref, New([]byte(secret))); o.said(err) != nil {
					t.Errorf("%s: %v", ref, err)
				}
			}

			created := mustRef(t, "vault:"+dir+"new#private_key")
			put(created, key)
			wantSecret(t, o, admin.Fresh, created, strings.TrimSuffix(key, "\n"), "1")

			v.Put(t, dir+"full", map[string]any{"other": spare, "number": 1, "list": []int{1, 2}})
			updated := mustRef(t, "vault:"+dir+"full#private_key")
			put(updated, key)
			put(updated, key+"2")
			wantSecret(t, o, admin.Fresh, updated, key+"2", "3")
			wantSecret(t, o, admin.Fresh, mustRef(t, "vault:"+dir+"full#other"), spare, "3")
			fields := v.Call(t, "GET", dir[:7]+"data/"+dir[7:]+"full", nil)["data"].(map[string]any)["data"]
			if got := fmt.Sprint(fields.(map[string]any)["number"], fields.(map[string]any)["list"]); got != "1 [1 2]" {
				t.Errorf("the other fields are now %v", got)
			}

			if name == "create and patch" {
				return // without read it cannot know the version of a deleted secret
			}
			v.Put(t, dir+"gone", map[string]any{"other": spare})
			v.Call(t, "DELETE", dir[:7]+"data/"+dir[7:]+"gone", nil)
			gone := mustRef(t, "vault:"+dir+"gone#private_key")
			put(gone, key)
			wantSecret(t, o, admin.Fresh, gone, strings.TrimSuffix(key, "\n"), "2")
		})
	}
}

// Several clients write different fields of one secret at the same time: no field is
// lost.
func TestPutAtTheSameTime(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	for name, rules := range map[string]string{
		"patch": `path "secret/data/*" { capabilities = ["create", "update", "patch", "read"] }`,
		"cas":   `path "secret/data/*" { capabilities = ["create", "update", "read"] }`,
	} {
		store := o.open(t, v, o.asAppRole(t, v, "1h", rules))
		var workers sync.WaitGroup
		for i := range 4 {
			workers.Go(func() {
				ref := mustRef(t, fmt.Sprintf("vault:secret/%s#k%d", name, i))
				if err := putError(t, store, ref, New([]byte(o.secret("x")))); o.said(err) != nil {
					t.Errorf("%s: %v", ref, err)
				}
			})
		}
		workers.Wait()
		fields := v.Call(t, "GET", "secret/data/"+name, nil)["data"].(map[string]any)["data"].(map[string]any)
		if len(fields) != 4 {
			t.Errorf("%s: %d of four fields exist", name, len(fields))
		}
	}
}

func TestPutKV1(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "old", "kv-v1")
	store := o.open(t, v, o.asAppRole(t, v, "1h", `path "old/*" { capabilities = ["create", "update", "read"] }`))
	spare, key := o.secret("spare"), o.secret("key")
	v.Put(t, "old/full", map[string]any{"other": spare})
	for _, at := range []string{"old/full", "old/new"} {
		ref := mustRef(t, "vault:"+at+"#private_key")
		if err := putError(t, store, ref, New([]byte(key))); o.said(err) != nil {
			t.Errorf("%s: %v", ref, err)
		}
		wantSecret(t, o, store.Get, ref, key, "")
	}
	wantSecret(t, o, store.Get, mustRef(t, "vault:old/full#other"), spare, "")
}

// Get returns the value that was written, not an older one from the cache.
func TestPutAndGet(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	store := o.open(t, v, asToken(v.RootToken))
	ref := mustRef(t, "vault:secret/x#k")
	for i := range 3 {
		secret := o.secret("x")
		if err := putError(t, store, ref, New([]byte(secret))); o.said(err) != nil {
			t.Fatal(err)
		}
		wantSecret(t, o, store.Get, ref, secret, fmt.Sprint(i+1))
	}
}

func TestPutRefused(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "transit", "transit")
	v.Put(t, "secret/full", map[string]any{"other": o.secret("spare")})
	key := New([]byte(o.secret("key")))
	reader := o.open(t, v, o.asAppRole(t, v, "1h", readSecret))
	blind := o.open(t, v, o.asAppRole(t, v, "1h", `path "secret/data/full" { capabilities = ["create", "update"] }`))
	root := o.open(t, v, asToken(v.RootToken))
	for name, test := range map[string]struct {
		err  error
		kind error
		says string
	}{
		"no right":       {putError(t, reader, mustRef(t, "vault:secret/full#k"), key), ErrDenied, "may not create secret/data/full"},
		"no right, new":  {putError(t, reader, mustRef(t, "vault:secret/new#k"), key), ErrDenied, "may not create secret/data/new"},
		"would destroy":  {putError(t, blind, mustRef(t, "vault:secret/full#k"), key), ErrDenied, `capabilities = ["patch"]`},
		"no mount":       {putError(t, reader, mustRef(t, "vault:nowhere/x#k"), key), ErrDenied, "which engine is mounted at nowhere"},
		"no KV":          {putError(t, root, mustRef(t, "vault:transit/keys/x#k"), key), ErrDenied, "not a KV engine"},
		"version":        {putError(t, root, mustRef(t, "vault:secret/full#k@2"), key), ErrDenied, "version"},
		"nothing":        {putError(t, root, mustRef(t, "vault:secret/full#k"), Value{}), ErrDenied, "empty"},
		"not text":       {putError(t, root, mustRef(t, "vault:secret/full#k"), New([]byte{0xff})), ErrDenied, "UTF-8"},
		"elsewhere":      {putError(t, root, mustRef(t, "file:/tmp/x"), key), ErrDenied, "only to Vault"},
		"templates":      {putError(t, root, mustRef(t, "vault:secret/{host}#k"), key), ErrDenied, "no value here"},
		"not a good ref": {putError(t, root, Ref{Vault: &VaultRef{Mount: "secret", Path: "../sys", Key: "k"}}, key), ErrDenied, `".."`},
	} {
		t.Run(name, func(t *testing.T) { isError(t, o, test.err, test.kind, test.says) })
	}
	meta := v.Call(t, "GET", "secret/metadata/full", nil)["data"].(map[string]any)
	if meta["current_version"] != 1.0 {
		t.Errorf("the secret was overwritten: version %v", meta["current_version"])
	}
}

// The answer to a successful write is lost: the caller gets ErrUnavailable and may write
// again; the store does not retry by itself.
func TestPutWithTheAnswerLost(t *testing.T) {
	t.Parallel()
	o := observe(t)
	var writes atomic.Int64
	server := imitate(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet { // this token may not read
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"errors":["permission denied"]}`)
			return
		}
		writes.Add(1)
		panic(http.ErrAbortHandler)
	})
	store := o.openAt(t, server.URL, time.Second)
	isError(t, o, putError(t, store, mustRef(t, "vault:secret/x#k"), New([]byte(o.secret("key")))), ErrUnavailable, "cut off")
	if writes.Load() != 1 {
		t.Errorf("written %d times, want once", writes.Load())
	}
}
