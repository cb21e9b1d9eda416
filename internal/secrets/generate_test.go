package secrets

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// generatePolicy is that of the manual.
func generatePolicy(t testing.TB) string { return manual(t)["hcl certpost-generate"][0] }

// generated is Generate, which must succeed; the passphrase is searched for in logs and errors.
func (o *observer) generated(t testing.TB, s *Store, ref Ref, vars Vars, of string) Generated {
	t.Helper()
	made, err := s.Generate(t.Context(), ref, vars, of)
	if o.said(err) != nil {
		t.Fatal(err)
	}
	o.keep(revealed(made.Value))
	return made
}

// A passphrase is made once for each thing, whoever asks, and found again when others were
// made at the same path in between.
func TestGenerate(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	ref, vars := mustRef(t, "vault:secret/p12/{target}/{cn}#passphrase"), Vars{"target": "ops", "cn": "*.example.com"}
	first := o.open(t, v, o.asAppRole(t, v, "1h", generatePolicy(t)))
	second := o.open(t, v, o.asAppRole(t, v, "1h", generatePolicy(t)))

	if _, err := first.FindGenerated(t.Context(), ref, vars, "a"); !errors.Is(o.said(err), ErrNotFound) {
		t.Errorf("before it is made: %v", err)
	}
	a := o.generated(t, first, ref, vars, "a")
	if got := a.Ref.String(); got != "vault:secret/p12/ops/_wildcard.example.com#passphrase@1" || a.Version != "1" || a.Field != "passphrase" {
		t.Errorf("it is at %s, version %s, field %s", got, a.Version, a.Field)
	}
	if n := len(revealed(a.Value)); n != 26 {
		t.Errorf("it has %d characters", n)
	}
	b := o.generated(t, second, ref, vars, "b")
	if b.Value.Equal(a.Value) || b.Version != "2" {
		t.Errorf("for another certificate: the same passphrase, or version %s", b.Version)
	}
	for name, s := range map[string]*Store{"the process that made it": first, "another process": second} {
		if again := o.generated(t, s, ref, vars, "a"); !again.Value.Equal(a.Value) || again.Version != "1" {
			t.Errorf("%s gets another passphrase, of version %s", name, again.Version)
		}
		if found, err := s.FindGenerated(t.Context(), ref, vars, "b"); err != nil || !found.Value.Equal(b.Value) {
			t.Errorf("%s does not find it: %v", name, err)
		}
	}
	// A recipient reads what the mail says.
	if read, err := second.Get(t.Context(), a.Ref, nil); err != nil || !read.Value.Equal(a.Value) {
		t.Errorf("the place does not lead to the passphrase: %v", err)
	}

	// Other fields stay, deleted versions are passed over, and a fixed passphrase that is there
	// is not replaced in its version.
	v.Put(t, "secret/p12/old", map[string]any{"passphrase": o.secret("fixed"), "note": "of the owner"})
	old := mustRef(t, "vault:secret/p12/old#passphrase")
	made := o.generated(t, first, old, nil, "a")
	if made.Version != "2" {
		t.Errorf("version %s", made.Version)
	}
	if note, err := first.Get(t.Context(), mustRef(t, "vault:secret/p12/old#note"), nil); err != nil || revealed(note.Value) != "of the owner" {
		t.Errorf("the other field: %v", err)
	}
	v.Call(t, "POST", "secret/delete/p12/old", map[string]any{"versions": []int{2}})
	if made = o.generated(t, first, old, nil, "a"); made.Version != "3" {
		t.Errorf("after its deletion: version %s", made.Version)
	}
	v.Call(t, "POST", "secret/destroy/p12/old", map[string]any{"versions": []int{1}})
	if again := o.generated(t, second, old, nil, "a"); again.Version != "3" {
		t.Errorf("with a destroyed version: version %s", again.Version)
	}
}

// Many processes that make a passphrase at one path at the same time get the same one for the
// same certificate, and different ones for different certificates.
//
// Fault: processes that make a passphrase for one certificate at the same time. Result: they get the same one.
func TestGenerateAtTheSameTime(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	ref := mustRef(t, "vault:secret/p12/x#passphrase")
	var mu sync.Mutex
	got := map[string]map[string]bool{}
	var all sync.WaitGroup
	for range 4 {
		s := o.open(t, v, o.asAppRole(t, v, "1h", generatePolicy(t)))
		for _, of := range []string{"a", "a", "b"} {
			all.Go(func() {
				made, err := s.Generate(t.Context(), ref, nil, of)
				if o.said(err) != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if got[of] == nil {
					got[of] = map[string]bool{}
				}
				got[of][revealed(made.Value)+" @"+made.Version] = true
			})
		}
	}
	all.Wait()
	if len(got["a"]) != 1 || len(got["b"]) != 1 {
		t.Errorf("%d different passphrases for one certificate and %d for the other", len(got["a"]), len(got["b"]))
	}
}

// What stands in the way is said, by the check without writing anything.
//
// Fault: a token that may not write where passphrases are made, or an engine without versions. Result:
// dead (SECRET_DENIED) with the line that the policy needs; `check --live` and preflight say so before.
func TestGenerateRefused(t *testing.T) {
	t.Parallel()
	v, o := lab.Vault(t), observe(t)
	v.Mount(t, "old", "kv-v1")
	ask := func(rules string) *Store { return o.open(t, v, o.asAppRole(t, v, "1h", rules)) }
	for name, c := range map[string]struct {
		store *Store
		ref   string
		kind  error
		says  string
	}{
		"may only read":     {ask(`path "secret/data/p12/*" { capabilities = ["read"] }`), "vault:secret/p12/x#passphrase", ErrDenied, `capabilities = ["read", "create", "update"]`},
		"may only write":    {ask(`path "secret/data/p12/*" { capabilities = ["create", "update"] }`), "vault:secret/p12/x#passphrase", ErrDenied, "may not read"},
		"may nothing there": {ask(`path "secret/data/smtp/*" { capabilities = ["read"] }`), "vault:secret/p12/x#passphrase", ErrDenied, "may not read"},
		"KV version 1":      {ask(`path "old/*" { capabilities = ["read", "create", "update"] }`), "vault:old/x#passphrase", ErrDenied, "is not KV version 2"},
		"a version":         {ask(generatePolicy(t)), "vault:secret/p12/x#passphrase@3", ErrDenied, "a version cannot be written"},
		"no Vault":          {o.openWith(t, Config{}), "vault:secret/p12/x#passphrase", ErrNotFound, "Vault is not configured"},
		"a variable":        {o.openWith(t, Config{}), "env:PASSPHRASE", ErrDenied, "only in Vault"},
	} {
		t.Run(name, func(t *testing.T) {
			for what, run := range map[string]func() error{
				"check":    func() error { _, err := c.store.CheckGenerate(t.Context(), mustRef(t, c.ref), nil); return err },
				"generate": func() error { _, err := c.store.Generate(t.Context(), mustRef(t, c.ref), nil, "a"); return err },
			} {
				if err := o.said(run()); !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.says) {
					t.Errorf("%s: %v, want %q", what, err, c.says)
				}
			}
		})
	}
	// The check of one that works writes nothing.
	found, err := ask(generatePolicy(t)).CheckGenerate(t.Context(), mustRef(t, "vault:secret/p12/{cn}#passphrase"), Vars{"cn": "a"})
	if err != nil || len(found.Warnings) > 0 {
		t.Errorf("%v, %v", found.Warnings, err)
	}
	if _, err := o.open(t, v, asToken(v.RootToken)).Get(t.Context(), mustRef(t, "vault:secret/p12/a#passphrase"), nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("the check has written: %v", err)
	}
	more, err := ask(`path "secret/data/*" { capabilities = ["read", "create", "update", "delete"] }`).CheckGenerate(t.Context(), mustRef(t, "vault:secret/p12/x#passphrase"), nil)
	if err != nil || len(more.Warnings) != 1 || !strings.Contains(more.Warnings[0], "may also delete") {
		t.Errorf("%v, %v", more.Warnings, err)
	}
}
