package secrets

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// engine is the kind of secrets engine at a mount.
type engine string

const (
	kv1 engine = "kv version 1"
	kv2 engine = "kv version 2"
	// kvGuessed: Certpost's token may not ask what is mounted, so both versions of KV
	// are tried.
	kvGuessed engine = "kv, of an unknown version"
	// otherEngine is read at its plain path: dynamic secrets, PKI, cubbyhole.
	otherEngine engine = "other"
)

// engine returns the engine at the reference's mount, cached per mount.
func (v *vault) engine(ctx context.Context, ref Ref) (engine, error) {
	mount := ref.Vault.Mount
	return v.engines.get(ctx, mount, time.Time{}, func(ctx context.Context) (engine, time.Duration, error) {
		ans, err := v.do(ctx, request{method: http.MethodGet, path: "sys/internal/ui/mounts/" + mount})
		if err != nil {
			return "", 0, err
		}
		var said struct {
			Data struct {
				Path    string            `json:"path"`
				Type    string            `json:"type"`
				Options map[string]string `json:"options"`
			} `json:"data"`
		}
		if ans.status != http.StatusOK || json.Unmarshal(ans.body, &said) != nil {
			return kvGuessed, mountsTTL, nil
		}
		// Asked about a path inside a mount, Vault answers for the mount. What a Policy
		// allows must not depend on where a reference splits mount and path.
		if at := strings.Trim(said.Data.Path, "/"); at != mount {
			// Without the reference: this answer may serve others of the same mount.
			return "", 0, &Error{
				Kind: ErrNotFound, Hint: "use that as the mount, and the rest as the path",
				What: fmt.Sprintf("nothing is mounted at %s: its engine is mounted at %s", clean(mount), clean(at)),
			}
		}
		switch {
		case said.Data.Type != "kv" && said.Data.Type != "generic":
			return otherEngine, mountsTTL, nil
		case said.Data.Options["version"] == "2":
			return kv2, mountsTTL, nil
		}
		return kv1, mountsTTL, nil
	})
}

// decrypt lets the transit engine decrypt the reference's ciphertext.
func (v *vault) decrypt(ctx context.Context, ref Ref) (Secret, error) {
	where := ref.Transit.Mount + "/decrypt/" + ref.Transit.Key
	body, err := json.Marshal(map[string]string{"ciphertext": ref.Transit.Ciphertext})
	if err != nil {
		return Secret{}, ref.notFound("", "the ciphertext is not text")
	}
	ans, err := v.do(ctx, request{method: http.MethodPut, path: where, body: body})
	if err != nil {
		return Secret{}, err
	}
	defer clear(ans.body)
	switch ans.status {
	case http.StatusOK:
	case http.StatusForbidden:
		return Secret{}, refusal(ref, ans.status, where, "update")
	default:
		return Secret{}, ref.notFound("it was encrypted with another key, its key version is no longer allowed, or it is cut off",
			"Vault cannot decrypt the ciphertext with the key %s (status %d)", clean(ref.Transit.Key), ans.status)
	}
	var said struct {
		Data struct {
			Plaintext []byte `json:"plaintext"` // base64 in JSON
		} `json:"data"`
	}
	err = json.Unmarshal(ans.body, &said)
	defer clear(said.Data.Plaintext)
	plaintext := trimmed(said.Data.Plaintext)
	if err != nil || len(plaintext) == 0 {
		return Secret{}, ref.notFound("", "the decrypted ciphertext is empty")
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(ref.Transit.Ciphertext, "vault:"), ":")
	return Secret{Value: New(plaintext), Version: version}, nil
}
