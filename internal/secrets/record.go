package secrets

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
)

// record is a secret as Vault stores it: named fields, each still JSON.
type record struct {
	fields  map[string]json.RawMessage
	version string        // "" for engines without versions
	lease   time.Duration // 0 when the secret does not expire
}

// pick returns the field that ref names.
func (r *record) pick(ref Ref) (Secret, error) {
	key, err := r.field(ref)
	if err != nil {
		return Secret{}, err
	}
	raw, ok := r.fields[key]
	if !ok {
		return Secret{}, ref.notFound(existing(key, r.names()), "the secret has no field %s", clean(key))
	}
	var text string
	if raw[0] != '"' || json.Unmarshal(raw, &text) != nil {
		return Secret{}, ref.notFound("store it as a string", "the field %s is %s, not text", clean(key), jsonKind(raw))
	}
	value := New(trimmed([]byte(text)))
	if value.IsZero() {
		return Secret{}, ref.notFound("", "the field %s is empty", clean(key))
	}
	return Secret{Value: value, Version: r.version, Field: key}, nil
}

// field returns the key of ref. Without one it is password, else key, else the only
// field.
func (r *record) field(ref Ref) (string, error) {
	if ref.Vault.Key != "" {
		return ref.Vault.Key, nil
	}
	for _, usual := range []string{"password", "key"} {
		if _, ok := r.fields[usual]; ok {
			return usual, nil
		}
	}
	names := r.names()
	if len(names) == 1 {
		return names[0], nil
	}
	hint := "set key to one of its fields"
	if more := existing("password", names); more != "" {
		hint += "; " + more
	}
	return "", ref.notFound(hint, "the reference names no key, and the secret has %d fields, neither password nor key among them", len(names))
}

func (r *record) names() []string { return slices.Collect(maps.Keys(r.fields)) }

// clear overwrites the fields in memory.
func (r *record) clear() {
	for _, raw := range r.fields {
		clear(raw)
	}
}

func jsonKind(raw json.RawMessage) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}

// answered reports whether err is Vault's answer about the secret.
func answered(err error) bool { return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) }

// refusal returns the error for a status other than 200 and 404.
func refusal(ref Ref, status int, where, capability string) *Error {
	where = clean(where)
	switch status {
	case http.StatusForbidden:
		return ref.denied(fmt.Sprintf(`its policy needs: path "%s" { capabilities = ["%s"] }`, where, capability),
			"Certpost's token may not %s %s", capability, where)
	case http.StatusMethodNotAllowed:
		return ref.notFound("check mount and path", "Vault cannot %s %s", capability, where)
	}
	return ref.notFound("check mount and path", "Vault refuses to %s %s as a bad request (status %d)", capability, where, status)
}

// missing returns the error for a path without a secret, with the nearest names as a
// hint, if Certpost's token may list them.
func (v *vault) missing(ctx context.Context, ref Ref, listed string) *Error {
	parent, name := "", ref.Vault.Path
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		parent, name = "/"+name[:i], name[i+1:]
	}
	what := fmt.Sprintf("there is no secret at %s", ref.Vault.location())
	if ref.Vault.Version != 0 {
		what = fmt.Sprintf("there is no secret at %s, or no version %d of it", ref.Vault.location(), ref.Vault.Version)
	}
	return ref.notFound(existing(name, v.list(ctx, listed+parent)), "%s", what)
}

// list returns the names below a path, none if the token may not list them. It serves
// only for hints, so a 403 here does not cause a new login.
func (v *vault) list(ctx context.Context, where string) []string {
	t, err := v.session.token(ctx)
	if err != nil {
		return nil
	}
	ans, err := v.client.send(ctx, request{method: http.MethodGet, path: where, query: url.Values{"list": {"true"}}, token: t.value})
	if err != nil {
		return nil
	}
	var said struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	if ans.status != http.StatusOK || json.Unmarshal(ans.body, &said) != nil {
		return nil
	}
	return said.Data.Keys
}

// existing returns a hint with the names that there are, the most similar to the wanted one
// first, at most five; "" when there are no names.
func existing(want string, names []string) string {
	const most = 5
	if len(names) == 0 {
		return ""
	}
	const compared = 64 // bytes of each name
	similarity := func(name string) int {
		return legible.Distance(want[:min(len(want), compared)], name[:min(len(name), compared)])
	}
	names = slices.SortedFunc(slices.Values(names), func(a, b string) int {
		return cmp.Or(cmp.Compare(similarity(a), similarity(b)), cmp.Compare(a, b))
	})
	more := ""
	if len(names) > most {
		names, more = names[:most], ", ..."
	}
	return "existing names: " + clean(strings.Join(names, ", ")) + more
}
