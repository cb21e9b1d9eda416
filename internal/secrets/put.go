package secrets

import (
	"context"
	"encoding/json"
	"net/http"
)

// putTries is how often a write is tried against others who write the same
// secret at the same time.
const putTries = 5

// put writes one field and leaves the others of the secret as they are.
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
		// Version 1 would take what is written for version 2 as a secret of another
		// name, and nobody would ever look there.
		return ref.denied("check the mount, and that the policy of our token has a path below it",
			"Vault does not tell us what is mounted at %s, so nothing is written there", printable(ref.Vault.Mount))
	default:
		return ref.refuse("what is mounted at %s is no KV engine, so nothing is written there", printable(ref.Vault.Mount))
	}
	v.fields.drop(ref.key())
	return err
}

// putKV2 patches the field. Vault merges, so it needs no right to read. Where
// there is nothing to patch, or patching is not allowed, the whole secret is
// written, on condition that it is still the version we know.
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
		// 400: somebody else wrote in between. What he wrote must survive.
	}
	return ref.unavailable("", "others keep writing the same secret")
}

// current reads what a write has to keep: the fields, and the version that must
// still be the newest; 0 when there is no secret yet.
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
		// It may be that we can create and not read. Patching told whether there is
		// anything to lose.
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

// putKV1 reads, merges and writes: version 1 knows no other way, so a field that
// somebody else writes in that moment is lost.
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
		return ref.notFound("", "what Vault answers is not a secret with fields")
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
