package secrets

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// putTries is the number of attempts at a write while other clients write the same
// secret.
const putTries = 5

// put writes one field of a secret and leaves the others unchanged.
func (v *vault) put(ctx context.Context, ref Ref, value Value) (Written, error) {
	eng, err := v.engine(ctx, ref)
	if err != nil {
		return Written{}, err
	}
	var written Written
	switch eng {
	case kv1:
		written.Before, err = v.putKV1(ctx, ref, value)
	case kv2:
		written, err = v.putKV2(ctx, ref, value)
	case kvGuessed:
		// A version 1 engine would store a write for version 2 as a secret of another
		// name, which is never read.
		return Written{}, ref.denied("check the mount, and that the policy of Certpost's token has a path below it",
			"Vault does not say which engine is mounted at %s, so nothing is written there", clean(ref.Vault.Mount))
	default:
		return Written{}, ref.refuse("the engine mounted at %s is not a KV engine, so nothing is written there", clean(ref.Vault.Mount))
	}
	v.fields.drop(ref.key())
	return written, err
}

// putKV2 writes the field, unless the newest version has it already: an ACME client's hook may
// run twice for one certificate.
func (v *vault) putKV2(ctx context.Context, ref Ref, value Value) (written Written, err error) {
	if strings.HasPrefix(ref.Vault.Path, "data/") {
		return Written{}, ref.refuse("the path begins with data/, which belongs to the API of KV version 2 and which Certpost adds by itself: leave it out")
	}
	there, err := v.readKV2(ctx, ref)
	switch {
	case err == nil:
		defer there.clear()
		// A field that is absent or no text is replaced, like any other.
		before, _ := there.pick(ref)
		written.Before = before.Value
		// It is read without the line break at its end that the value may have.
		if !before.Value.IsZero() && before.Value.Equal(New(trimmed(value.Reveal()))) {
			written.Version, err = strconv.Atoi(there.version)
			return written, err
		}
	case !answered(err):
		return Written{}, err
	}
	written.Version, err = v.replaceKV2(ctx, ref, value)
	return written, err
}

// replaceKV2 patches the field and returns the new version. Vault merges, so no right to read is
// needed. If there is nothing to patch, or patching is not allowed, the whole secret is written, on
// condition that its version has not changed since it was read (cas).
func (v *vault) replaceKV2(ctx context.Context, ref Ref, value Value) (version int, err error) {
	where := ref.Vault.Mount + "/data/" + ref.Vault.Path
	for range putTries {
		patched, version, err := v.write(ctx, http.MethodPatch, where, map[string]any{
			"data": map[string]string{ref.Vault.Key: revealed(value)},
		})
		if err != nil || patched == http.StatusOK {
			return version, err
		}
		fields, before, err := v.current(ctx, ref, where, patched)
		if err != nil {
			return 0, err
		}
		if fields[ref.Vault.Key], err = json.Marshal(revealed(value)); err != nil {
			return 0, err
		}
		written, version, err := v.write(ctx, http.MethodPut, where, map[string]any{
			"data": fields, "options": map[string]int{"cas": before},
		})
		rec := record{fields: fields}
		rec.clear()
		switch {
		case err != nil || written == http.StatusOK:
			return version, err
		case written != http.StatusBadRequest:
			return 0, refusal(ref, written, where, "create")
		}
		// 400: another client has written in between. Its write must not be lost.
	}
	return 0, ref.unavailable("", "other clients keep writing the same secret")
}

// current reads what a write must keep: the fields, and the version that must still be
// the newest at the write; 0 when the secret does not exist yet.
func (v *vault) current(ctx context.Context, ref Ref, where string, patched int) (map[string]json.RawMessage, int, error) {
	ans, err := v.do(ctx, request{method: http.MethodGet, path: where})
	if err != nil {
		return nil, 0, err
	}
	defer clear(ans.body)
	var said kvData
	switch ans.status {
	case http.StatusOK, http.StatusNotFound: // 404 with a body is a deleted version
		_ = json.Unmarshal(ans.body, &said)
	case http.StatusForbidden:
		// The token may create but not read. The status of the patch says whether the
		// secret exists: 404 means that no field can be lost.
		if patched != http.StatusNotFound {
			return nil, 0, refusal(ref, ans.status, where, "patch")
		}
	default:
		return nil, 0, refusal(ref, ans.status, where, "read")
	}
	fields := said.Data.Data
	if fields == nil {
		fields = map[string]json.RawMessage{}
	}
	return fields, said.Data.Metadata.Version, nil
}

// putKV1 reads, merges and writes, and returns the field's value before. Version 1 has no patch and no cas, so a field that
// another client writes in between is lost.
func (v *vault) putKV1(ctx context.Context, ref Ref, value Value) (before Value, err error) {
	where := ref.Vault.Mount + "/" + ref.Vault.Path
	ans, err := v.do(ctx, request{method: http.MethodGet, path: where})
	if err != nil {
		return Value{}, err
	}
	defer clear(ans.body)
	var said struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	switch {
	case ans.status == http.StatusNotFound:
	case ans.status != http.StatusOK:
		return Value{}, refusal(ref, ans.status, where, "read")
	case json.Unmarshal(ans.body, &said) != nil:
		return Value{}, ref.notFound("", "Vault's answer is not a secret with fields")
	}
	if said.Data == nil {
		said.Data = map[string]json.RawMessage{}
	}
	rec := record{fields: said.Data}
	defer rec.clear()
	old, _ := rec.pick(ref)
	before = old.Value
	if said.Data[ref.Vault.Key], err = json.Marshal(revealed(value)); err != nil {
		return Value{}, err
	}
	status, _, err := v.write(ctx, http.MethodPut, where, said.Data)
	if err != nil || status < 300 {
		return before, err
	}
	return Value{}, refusal(ref, status, where, "update")
}

// write sends body as JSON and returns the status, and the version that KV version 2 made.
func (v *vault) write(ctx context.Context, method, where string, body any) (status, version int, err error) {
	sent, err := json.Marshal(body)
	if err != nil {
		return 0, 0, err
	}
	ans, err := v.do(ctx, request{method: method, path: where, body: sent})
	var said struct {
		Data struct {
			Version int `json:"version"`
		} `json:"data"`
	}
	_ = json.Unmarshal(ans.body, &said) // KV version 1 answers nothing
	clear(ans.body)
	return ans.status, said.Data.Version, err
}
