package secrets

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
)

// Finding is the result of Check for a reference that can be read.
type Finding struct {
	// Version and Field as in Secret.
	Version, Field string
	// Read says whether the secret itself was read. A dynamic secret is not read,
	// because reading creates a new one.
	Read bool
	// Warnings name problems that do not prevent the use of the reference.
	Warnings []string
}

// Check verifies that the reference can be used now: that Certpost's token may read
// its path, and that the field exists. The value is read and dropped at once.
// References with templates need their Vars. Errors are those of Get.
func (s *Store) Check(ctx context.Context, ref Ref, vars Vars) (Finding, error) {
	if ref.Vault == nil && ref.Transit == nil || s.vault == nil {
		secret, err := s.Get(ctx, ref, vars)
		if err != nil {
			return Finding{}, err
		}
		found := Finding{Version: secret.Version, Read: true, Warnings: warnings(secret)}
		if warning := ref.Warning(); warning != "" {
			found.Warnings = append(found.Warnings, warning)
		}
		if info, err := os.Stat(ref.File); err == nil && othersRead(info.Mode()) {
			found.Warnings = append(found.Warnings, "every user of this machine can read the file: chmod o-r it")
		}
		return found, nil
	}
	if err := ref.Validate(); err != nil {
		return Finding{}, ref.notFound("", "invalid reference: %v", err)
	}
	ref, err := ref.fill(vars)
	if err != nil {
		return Finding{}, err
	}
	found, err := s.vault.check(ctx, ref)
	return found, explained(ctx, ref, err)
}

func (v *vault) check(ctx context.Context, ref Ref) (Finding, error) {
	where, needed, eng := "", "read", otherEngine
	if ref.Transit != nil {
		where, needed = ref.Transit.Mount+"/decrypt/"+ref.Transit.Key, "update"
	} else {
		var err error
		if eng, err = v.engine(ctx, ref); err != nil {
			return Finding{}, err
		}
		where = ref.Vault.Mount + "/" + ref.Vault.Path
		if eng == kv2 {
			where = ref.Vault.Mount + "/data/" + ref.Vault.Path
		}
	}
	var found Finding
	if eng != kvGuessed {
		may, known, err := v.capabilities(ctx, where)
		switch {
		case err != nil:
			return Finding{}, err
		case known && !slices.Contains(may, needed) && !slices.Contains(may, "root"):
			return Finding{}, refusal(ref, http.StatusForbidden, where, needed)
		case known:
			found.Warnings = excess(may, needed, where)
		}
	}
	if eng == otherEngine && ref.Transit == nil {
		return found, nil
	}
	secret, err := v.get(ctx, ref, readAndForget)
	if err != nil {
		return found, err
	}
	found.Version, found.Field, found.Read = secret.Version, secret.Field, true
	found.Warnings = append(found.Warnings, warnings(secret)...)
	return found, nil
}

// warnings names what looks like a mistake in a secret, without showing any of it.
func warnings(s Secret) (all []string) {
	for _, odd := range oddities(s.Value) {
		all = append(all, "the secret "+odd+": correct it if that is not meant")
	}
	return all
}

// capabilities returns what Certpost's token may do at a path; known is false when
// Vault does not say.
func (v *vault) capabilities(ctx context.Context, where string) (may []string, known bool, err error) {
	body, err := json.Marshal(map[string][]string{"paths": {where}})
	if err != nil {
		return nil, false, err
	}
	ans, err := v.do(ctx, request{method: http.MethodPut, path: "sys/capabilities-self", body: body})
	if err != nil || ans.status != http.StatusOK {
		return nil, false, err
	}
	var said struct {
		Data struct {
			Capabilities []string `json:"capabilities"`
		} `json:"data"`
	}
	parsed := json.Unmarshal(ans.body, &said) == nil
	return said.Data.Capabilities, parsed && said.Data.Capabilities != nil, nil
}

// excess warns about capabilities that the token has and does not need.
func excess(may []string, needed, where string) []string {
	if slices.Contains(may, "root") {
		return []string{"Certpost's token is a root token: give Certpost a policy of its own, see docs/vault.md"}
	}
	var more []string
	for _, capability := range []string{"create", "update", "patch", "delete", "sudo"} {
		if capability != needed && slices.Contains(may, capability) {
			more = append(more, capability)
		}
	}
	if more == nil {
		return nil
	}
	return []string{fmt.Sprintf("Certpost's token may also %s %s, but only needs %s", strings.Join(more, ", "), clean(where), needed)}
}
