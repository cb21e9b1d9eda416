package secrets

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Generated is a passphrase that Generate has stored or found.
type Generated struct {
	Secret
	// Ref says where it is: the templates of the path are filled, and the version is pinned.
	Ref Ref
}

// Limits of Generate: attempts at a write while other clients write the same secret, and
// earlier versions that are searched. Vault keeps 10 versions unless it is told otherwise.
const (
	generateTries = 10
	maxSearched   = 32
)

// markSuffix makes the name of the field that says what a passphrase was made for. It is
// stored in the same version as the passphrase.
const markSuffix = "_for_sha256"

// Generate returns the passphrase that was made for one thing, of, and makes it first if
// there is none: 26 characters with 128 random bits, stored in Vault before it is returned,
// together with of. It never replaces a passphrase that it cannot see: the write is conditional
// on the version that was read (check-and-set), so of two processes that make one for the
// same thing the second gets that of the first, and so does a retry whose first answer was lost.
// A passphrase for another thing stays in the secret's earlier versions, where it is found again.
// ref names a field of a KV v2 secret; the other fields of the secret are kept.
func (s *Store) Generate(ctx context.Context, ref Ref, vars Vars, of string) (Generated, error) {
	return s.generate(ctx, ref, vars, of, true)
}

// FindGenerated is Generate without making one: ErrNotFound if there is none.
func (s *Store) FindGenerated(ctx context.Context, ref Ref, vars Vars, of string) (Generated, error) {
	return s.generate(ctx, ref, vars, of, false)
}

func (s *Store) generate(ctx context.Context, ref Ref, vars Vars, of string, create bool) (Generated, error) {
	ref, err := s.generating(ref, vars)
	if err != nil {
		return Generated{}, err
	}
	// Deliveries of one event to several targets ask at the same time for the same thing.
	key := fmt.Sprintf("generated %s %q %v", ref.key(), of, create)
	secret, err := s.vault.fields.get(ctx, key, time.Now(), func(ctx context.Context) (Secret, time.Duration, error) {
		secret, err := s.vault.generate(ctx, ref, of, create)
		return secret, 0, err
	})
	if err != nil {
		return Generated{}, explained(ctx, ref, err)
	}
	pinned := *ref.Vault
	pinned.Version, _ = strconv.Atoi(secret.Version)
	return Generated{Secret: secret, Ref: Ref{Vault: &pinned}}, nil
}

// generating checks a reference for Generate and fills its templates.
func (s *Store) generating(ref Ref, vars Vars) (Ref, error) {
	switch {
	case ref.Vault == nil:
		return ref, ref.refuse("passphrases can be made only in Vault")
	case ref.Vault.Key == "":
		return ref, ref.refuse("a passphrase is stored in a field: set key")
	case ref.Vault.Version != 0:
		return ref, ref.refuse("a version cannot be written: leave it out, and Vault makes a new one")
	}
	if err := ref.Validate(); err != nil {
		return ref, ref.refuse("invalid reference: %v", err)
	}
	ref, err := ref.fill(vars)
	if err == nil && s.vault == nil {
		err = noVault(ref)
	}
	return ref, err
}

func (v *vault) generate(ctx context.Context, ref Ref, of string, create bool) (Secret, error) {
	if err := v.keepsVersions(ctx, ref); err != nil {
		return Secret{}, err
	}
	for range generateTries {
		newest, before, err := v.versionFor(ctx, ref, 0)
		if err != nil {
			return Secret{}, err
		}
		found, err := v.madeFor(ctx, ref, of, newest, before)
		if err != nil || !found.Value.IsZero() {
			newest.clear()
			return found, err
		}
		if !create {
			newest.clear()
			return Secret{}, ref.notFound("it is made by the first delivery", "there is no passphrase for this certificate yet")
		}
		secret, stored, err := v.store(ctx, ref, of, newest, before)
		newest.clear()
		if err != nil || stored {
			return secret, err
		}
		// Another client has written in between: perhaps for the same thing.
	}
	return Secret{}, ref.unavailable("", "other clients keep writing the same secret")
}

// keepsVersions refuses engines without check-and-set: one process could replace the
// passphrase of another there, whose mail could then not be opened.
func (v *vault) keepsVersions(ctx context.Context, ref Ref) error {
	eng, err := v.engine(ctx, ref)
	switch {
	case err != nil || eng == kv2:
		return err
	case eng == kvGuessed:
		return ref.denied("check the mount, and that the policy of Certpost's token has a path below it",
			"Vault does not say which engine is mounted at %s, so no passphrase is made there", clean(ref.Vault.Mount))
	}
	return ref.denied("use a KV engine of version 2, which has check-and-set",
		"the engine mounted at %s is not KV version 2, so no passphrase is made there", clean(ref.Vault.Mount))
}

// versionFor reads one version of the secret, 0 for the newest, and returns its number. The
// record has no fields if the version does not exist or is deleted; the number is 0 if there is
// no version at all.
func (v *vault) versionFor(ctx context.Context, ref Ref, version int) (*record, int, error) {
	where := ref.Vault.Mount + "/data/" + ref.Vault.Path
	query := url.Values{}
	if version != 0 {
		query.Set("version", strconv.Itoa(version))
	}
	ans, err := v.do(ctx, request{method: http.MethodGet, path: where, query: query})
	if err != nil {
		return nil, 0, err
	}
	defer clear(ans.body)
	var said kvData
	switch {
	case ans.status == http.StatusNotFound: // with a body: a deleted version
		_ = json.Unmarshal(ans.body, &said)
	case ans.status != http.StatusOK:
		return nil, 0, refusal(ref, ans.status, where, "read")
	case json.Unmarshal(ans.body, &said) != nil || said.Data.Metadata.Version == 0:
		return nil, 0, ref.notFound("", "Vault's answer is not a KV version 2 secret")
	}
	number := said.Data.Metadata.Version
	return &record{fields: said.Data.Data, version: strconv.Itoa(number)}, number, nil
}

// madeFor returns the passphrase that was made for of, from the newest version or an earlier
// one; zero if there is none.
func (v *vault) madeFor(ctx context.Context, ref Ref, of string, newest *record, number int) (Secret, error) {
	if secret := newest.madeFor(ref, of); !secret.Value.IsZero() {
		return secret, nil
	}
	for n := number - 1; n > max(0, number-1-maxSearched); n-- {
		earlier, _, err := v.versionFor(ctx, ref, n)
		if err != nil {
			return Secret{}, err
		}
		secret := earlier.madeFor(ref, of)
		earlier.clear()
		if !secret.Value.IsZero() {
			return secret, nil
		}
	}
	return Secret{}, nil
}

// madeFor returns the passphrase of the record if it was made for of.
func (r *record) madeFor(ref Ref, of string) Secret {
	var mark string
	if raw, ok := r.fields[ref.Vault.Key+markSuffix]; !ok || json.Unmarshal(raw, &mark) != nil || mark != of {
		return Secret{}
	}
	secret, err := r.pick(ref)
	if err != nil {
		return Secret{} // somebody has removed it
	}
	return secret
}

// store makes a passphrase and writes it with its mark, if before is still the newest
// version; stored says whether it was.
func (v *vault) store(ctx context.Context, ref Ref, of string, newest *record, before int) (_ Secret, stored bool, err error) {
	passphrase := New([]byte(rand.Text()))
	fields := newest.fields
	if fields == nil {
		fields = map[string]json.RawMessage{}
		newest.fields = fields // the caller clears them
	}
	key := ref.Vault.Key
	if fields[key], err = json.Marshal(revealed(passphrase)); err != nil {
		return Secret{}, false, err
	}
	if fields[key+markSuffix], err = json.Marshal(of); err != nil {
		return Secret{}, false, err
	}
	where := ref.Vault.Mount + "/data/" + ref.Vault.Path
	status, version, err := v.write(ctx, http.MethodPut, where, map[string]any{"data": fields, "options": map[string]int{"cas": before}})
	switch {
	case err != nil:
		return Secret{}, false, err
	case status == http.StatusBadRequest:
		return Secret{}, false, nil
	case status == http.StatusForbidden:
		return Secret{}, false, generateDenied(ref, where, "write")
	case status != http.StatusOK:
		return Secret{}, false, refusal(ref, status, where, "update")
	}
	v.fields.drop(ref.key())
	return Secret{Value: passphrase, Version: strconv.Itoa(version), Field: key}, true, nil
}

// generateRights are the capabilities that Generate needs, at a path below /data/.
var generateRights = []string{"read", "create", "update"}

// needsToGenerate is how a policy writes them.
var needsToGenerate = strings.Join(generateRights, `", "`)

// CheckGenerate verifies, without writing anything, that Generate could make a passphrase at
// the reference: that the engine keeps versions, and that Certpost's token may read, create
// and update there. With an error of kind ErrDenied it names what is missing.
func (s *Store) CheckGenerate(ctx context.Context, ref Ref, vars Vars) (Finding, error) {
	ref, err := s.generating(ref, vars)
	if err != nil {
		return Finding{}, err
	}
	found, err := s.vault.checkGenerate(ctx, ref)
	return found, explained(ctx, ref, err)
}

func (v *vault) checkGenerate(ctx context.Context, ref Ref) (Finding, error) {
	if err := v.keepsVersions(ctx, ref); err != nil {
		return Finding{}, err
	}
	where := ref.Vault.Mount + "/data/" + ref.Vault.Path
	may, known, err := v.capabilities(ctx, where)
	if err != nil {
		return Finding{}, err
	}
	found := Finding{Field: ref.Vault.Key}
	switch {
	case !known:
		found.Warnings = []string{"Vault does not say what Certpost's token may do there"}
	case slices.Contains(may, "root"):
		found.Warnings = excess(may, "", where)
	default:
		for _, right := range generateRights {
			if !slices.Contains(may, right) {
				return Finding{}, generateDenied(ref, where, right)
			}
		}
		may = slices.DeleteFunc(slices.Clone(may), func(c string) bool { return slices.Contains(generateRights, c) })
		found.Warnings = excess(may, strings.Join(generateRights, ", "), where)
	}
	return found, nil
}

// generateDenied says which right is missing, and all that are needed.
func generateDenied(ref Ref, where, right string) *Error {
	where = clean(where)
	return ref.denied(fmt.Sprintf(`its policy needs: path "%s" { capabilities = ["%s"] }`, where, needsToGenerate),
		"Certpost's token may not %s %s", right, where)
}
