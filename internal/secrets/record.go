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
)

// record is a secret as Vault stores it: named fields, each still JSON.
type record struct {
	fields  map[string]json.RawMessage
	version string        // "" where the engine keeps none
	lease   time.Duration // 0 when it does not expire
}

// pick takes out the one field that ref names.
func (r *record) pick(ref Ref) (Value, error) {
	raw, ok := r.fields[ref.Vault.Key]
	if !ok {
		names := slices.Collect(maps.Keys(r.fields))
		return Value{}, ref.notFound(nearest(ref.Vault.Key, names), "the secret has no field %s", printable(ref.Vault.Key))
	}
	var text string
	if raw[0] != '"' || json.Unmarshal(raw, &text) != nil {
		return Value{}, ref.notFound("store it as a string", "the field %s is %s, not text", printable(ref.Vault.Key), jsonKind(raw))
	}
	if text == "" {
		return Value{}, ref.notFound("", "the field %s is empty", printable(ref.Vault.Key))
	}
	return New([]byte(text)), nil
}

// clear overwrites the fields nobody asked for.
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

// answered reports whether err is Vault's answer about the secret, not the lack of one.
func answered(err error) bool { return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) }

// refusal says what a status other than 200 and 404 means for one secret.
func refusal(ref Ref, status int, where, capability string) *Error {
	where = printable(where)
	switch status {
	case http.StatusForbidden:
		return ref.denied(fmt.Sprintf(`its policy needs: path "%s" { capabilities = ["%s"] }`, where, capability),
			"our token may not %s %s", capability, where)
	case http.StatusMethodNotAllowed:
		return ref.notFound("check mount and path", "Vault cannot %s %s", capability, where)
	}
	return ref.notFound("check mount and path", "Vault calls it a bad request to %s %s (status %d)", capability, where, status)
}

// missing says that there is nothing at the reference's path, and what is there
// instead, when our token may list it.
func (v *vault) missing(ctx context.Context, ref Ref, listed string) *Error {
	parent, name := "", ref.Vault.Path
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		parent, name = "/"+name[:i], name[i+1:]
	}
	what := fmt.Sprintf("there is no secret at %s", ref.Vault.location())
	if ref.Vault.Version != 0 {
		what = fmt.Sprintf("there is no secret at %s, or no version %d of it", ref.Vault.location(), ref.Vault.Version)
	}
	return ref.notFound(nearest(name, v.list(ctx, listed+parent)), "%s", what)
}

// list gives the names below a path, none when we may not know them. It is for
// hints alone, so a 403 here is no reason to log in again.
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

// nearest is a hint with the few names that look most like the wanted one; ""
// when there are none.
func nearest(want string, names []string) string {
	const most = 5
	if len(names) == 0 {
		return ""
	}
	names = slices.SortedFunc(slices.Values(names), func(a, b string) int {
		return cmp.Or(cmp.Compare(distance(want, a), distance(want, b)), cmp.Compare(a, b))
	})
	more := ""
	if len(names) > most {
		names, more = names[:most], ", ..."
	}
	return "there is " + printable(strings.Join(names, ", ")) + more
}

// distance is Levenshtein's: how many characters have to be inserted, removed
// or replaced to make b of a. Long names count by their first 64 bytes.
func distance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
