package secrets

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// kvData is the answer of KV version 2 to a read.
type kvData struct {
	Data struct {
		Data     map[string]json.RawMessage `json:"data"`
		Metadata struct {
			Version      int    `json:"version"`
			DeletionTime string `json:"deletion_time"` // "" when the version is not deleted
			Destroyed    bool   `json:"destroyed"`
		} `json:"metadata"`
	} `json:"data"`
}

// read reads the whole secret that contains the field of ref.
func (v *vault) read(ctx context.Context, ref Ref, eng engine) (*record, error) {
	switch eng {
	case kv2:
		return v.readKV2(ctx, ref)
	case kvGuessed:
		rec, err := v.readKV2(ctx, ref)
		if answered(err) {
			if plain, err := v.readPlain(ctx, ref); err == nil {
				return plain, nil
			}
		}
		return rec, err
	}
	return v.readPlain(ctx, ref)
}

// readPlain reads the plain path: KV version 1, and every engine that is not KV.
func (v *vault) readPlain(ctx context.Context, ref Ref) (*record, error) {
	if ref.Vault.Version != 0 {
		return nil, ref.notFound("leave the version out", "the engine mounted at %s keeps no versions", clean(ref.Vault.Mount))
	}
	where := ref.Vault.Mount + "/" + ref.Vault.Path
	ans, err := v.do(ctx, request{method: http.MethodGet, path: where})
	if err != nil {
		return nil, err
	}
	defer clear(ans.body)
	var said struct {
		LeaseID string                     `json:"lease_id"`
		Lease   int                        `json:"lease_duration"` // seconds
		Data    map[string]json.RawMessage `json:"data"`
	}
	switch {
	case ans.status == http.StatusNotFound:
		return nil, v.missing(ctx, ref, ref.Vault.Mount)
	case ans.status != http.StatusOK:
		return nil, refusal(ref, ans.status, where, "read")
	case json.Unmarshal(ans.body, &said) != nil || said.Data == nil:
		return nil, ref.notFound("", "Vault's answer is not a secret with fields")
	}
	rec := &record{fields: said.Data}
	if said.LeaseID != "" {
		rec.lease = time.Duration(said.Lease) * time.Second
	}
	return rec, nil
}

func (v *vault) readKV2(ctx context.Context, ref Ref) (*record, error) {
	where := ref.Vault.Mount + "/data/" + ref.Vault.Path
	query := url.Values{}
	if ref.Vault.Version != 0 {
		query.Set("version", strconv.Itoa(ref.Vault.Version))
	}
	ans, err := v.do(ctx, request{method: http.MethodGet, path: where, query: query})
	if err != nil {
		return nil, err
	}
	defer clear(ans.body)
	if ans.status != http.StatusOK && ans.status != http.StatusNotFound {
		return nil, refusal(ref, ans.status, where, "read")
	}
	var said kvData
	parsed := json.Unmarshal(ans.body, &said) == nil
	meta := said.Data.Metadata
	switch {
	case parsed && meta.Destroyed:
		return nil, ref.notFound("name another version, or write the secret again", "version %d is destroyed", meta.Version)
	case parsed && meta.DeletionTime != "" && said.Data.Data == nil:
		return nil, ref.notFound("undelete it, name another version, or write the secret again", "version %d is deleted", meta.Version)
	case ans.status == http.StatusNotFound && strings.HasPrefix(ref.Vault.Path, "data/"):
		return nil, ref.notFound("leave out data/ at the beginning of the path, which belongs to the API of KV version 2 and which Certpost adds by itself",
			"there is no secret at %s", ref.Vault.location())
	case ans.status == http.StatusNotFound:
		return nil, v.missing(ctx, ref, ref.Vault.Mount+"/metadata")
	case !parsed || meta.Version == 0 || said.Data.Data == nil:
		return nil, ref.notFound("", "Vault's answer is not a KV version 2 secret")
	}
	return &record{fields: said.Data.Data, version: strconv.Itoa(meta.Version)}, nil
}

// leased reads a dynamic secret. Its fields are created together and expire together,
// so they are cached together, for half the lease: each read creates a new credential
// in the system behind Vault, such as a database user.
func (v *vault) leased(ctx context.Context, ref Ref, since time.Time) (Secret, error) {
	key := fmt.Sprintf("%q %q %d", ref.Vault.Mount, ref.Vault.Path, ref.Vault.Version)
	rec, err := v.leases.get(ctx, key, since, func(ctx context.Context) (*record, time.Duration, error) {
		rec, err := v.readPlain(ctx, ref)
		if err != nil {
			return nil, 0, err
		}
		if rec.lease > 0 {
			return rec, rec.lease / 2, nil
		}
		return rec, v.cacheTTL, nil
	})
	if err != nil {
		return Secret{}, about(ref, err)
	}
	return rec.pick(ref)
}
