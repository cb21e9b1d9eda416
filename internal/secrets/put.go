package secrets

import (
	"context"
	"encoding/json"
	"net/http"
)

// putTries is the number of attempts at a write while other clients write the same
// secret.
const putTries = 5

// put writes one field of a secret and leaves the others unchanged.
func (v *vault) put(ctx context.Context, ref Ref, value Value) error {
	eng, err := v.engine(ctx, ref)
	if err != nil {
		return err
	}
	switch eng {
	case kv1:
		err = v.putKV1(ctx, ref, value)
	case kv2:
		err = v.putKV2(ctx, ref, value)
	case kvGuessed:
		// A version 1 engine would store a write for version 2 as a secret of another
		// name, which is never read.
		return ref.denied("check the mount, and that the policy of Certpost's token has a path below it",
			"Vault does not say which engine is mounted at %s, so nothing is written there", clean(ref.Vault.Mount))
	default:
		return ref.refuse("the engine mounted at %s is not a KV engine, so nothing is written there", clean(ref.Vault.Mount))
	}
	v.fields.drop(ref.key())
	return err
}

// putKV2 patches the field. Vault merges, so no right to read is needed. If there is
// nothing to patch, or patching is not allowed, the whole secret is written, on
// condition that its version has not changed since it was read (cas).
func (v *vault) putKV2(ctx context.Context, ref Ref, value Value) error {
	where := ref.Vault.Mount + "/data/" + ref.Vault.Path
	for range putTries {
		patched, err := v.write(ctx, http.MethodPatch, where, map[string]any{
			"data": map[string]string{ref.Vault.Key: revealed(value)},
		})
		if err != nil || patched == http.StatusOK {
			return err
		}
		fields, version, err := v.current(ctx, ref, where, patched)
		if err != nil {
			return err
		}
		if fields[ref.Vault.Key], err = json.Marshal(revealed(value)); err != nil {
			return err
		}
		written, err := v.write(ctx, http.MethodPut, where, map[string]any{
			"data": fields, "options": map[string]int{"cas": version},
		})
		rec := record{fields: fields}
		rec.clear()
		switch {
		case err != nil || written == http.StatusOK:
			return err
		case written != http.StatusBadRequest:
			return refusal(ref, written, where, "create")
		}
		// 400: another client has written in between. Its write must not be lost.
	}
	return ref.unavailable("", "other clients keep writing the same secret")
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

// putKV1 reads, merges and writes. Version 1 has no patch and no cas, so a field that
// another client writes in between is lost.
func (v *vault) putKV1(ctx context.Context, ref Ref, value Value) error {
	where := ref.Vault.Mount + "/" + ref.Vault.Path
	ans, err := v.do(ctx, request{method: http.MethodGet, path: where})
	if err != nil {
		return err
	}
	defer clear(ans.body)
	var said struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	switch {
	case ans.status == http.StatusNotFound:
	case ans.status != http.StatusOK:
		return refusal(ref, ans.status, where, "read")
	case json.Unmarshal(ans.body, &said) != nil:
		return ref.notFound("", "Vault's answer is not a secret with fields")
	}
	if said.Data == nil {
		said.Data = map[string]json.RawMessage{}
	}
	rec := record{fields: said.Data}
	defer rec.clear()
	if said.Data[ref.Vault.Key], err = json.Marshal(revealed(value)); err != nil {
		return err
	}
	status, err := v.write(ctx, http.MethodPut, where, said.Data)
	if err != nil || status < 300 {
		return err
	}
	return refusal(ref, status, where, "update")
}

// write sends body as JSON and returns the status.
func (v *vault) write(ctx context.Context, method, where string, body any) (status int, err error) {
	sent, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	ans, err := v.do(ctx, request{method: method, path: where, body: sent})
	clear(ans.body)
	return ans.status, err
}
