package delivery

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/secrets"
)

func (t *Target) validateEncryption(v *validation) {
	for _, address := range slices.Sorted(maps.Keys(t.RecipientKeys)) {
		at := config.Join("recipient_keys", address)
		v.address(at, address)
		ref := t.RecipientKeys[address]
		v.ref(at, ref)
		if needsCertificate(ref) {
			v.err(at, "depends on the certificate of an event: a recipient has the same key for all of them")
		}
	}
	if !t.encrypts() {
		if len(t.RecipientKeys) > 0 {
			v.warn("recipient_keys", "is not used: want also encryption smime, openpgp or age")
		}
		if t.RecipientKeysDir != "" {
			v.warn("recipient_keys_dir", "is not used: want also encryption smime, openpgp or age")
		}
		return
	}
	if problem := encryption.FIPSProblem(t.Encryption); problem != "" {
		v.err("encryption", "%s %s", t.Encryption, problem)
		return
	}
	if t.SMIMEOAEP && t.Encryption != encryption.SMIME {
		v.warn("smime_oaep", "is not used with encryption %s", t.Encryption)
	}
	if len(t.BCC) > 0 {
		v.err("bcc", "cannot be used with encryption: the encrypted text tells who else can open it; want these addresses in to or cc, or in a target of their own")
	}
	for key, list := range map[string][]string{"to": t.To, "cc": t.CC} {
		for i, address := range list {
			if hasPlace(address) {
				if t.RecipientKeysDir == "" {
					v.err(fmt.Sprintf("%s[%d]", key, i), "is filled by each event: want recipient_keys_dir with the keys of all who may get a mail")
				}
				continue
			}
			if wrongAddress(address) == "" {
				t.validateRecipientKey(v, fmt.Sprintf("%s[%d]", key, i), address)
			}
		}
	}
}

// validateRecipientKey checks the key of one recipient. A key in Vault is checked when it is
// fetched. A target that is disabled sends nothing, so its keys are only warned about: a
// person may take their time to renew one, while all other targets start.
func (t *Target) validateRecipientKey(v *validation, at, address string) {
	problem, advice := v.err, "put a usable one in its place; until then disabled: true lets the other targets start"
	if t.Disabled {
		problem, advice = v.warn, "put a usable one in its place before the target is enabled"
	}
	ref := t.recipientKeyRef(address)
	if ref.IsZero() {
		problem(at, "has no key to encrypt to: want one in recipient_keys, or a file in recipient_keys_dir")
		return
	}
	text, err := localKey(ref)
	if err != nil {
		problem(at, "its key, %s, cannot be read: %v; %s", ref, err, advice)
		return
	}
	if text == nil {
		return
	}
	key, err := encryption.Parse(t.Encryption, text)
	if err == nil && !key.Expires().IsZero() && time.Now().After(key.Expires()) {
		// Time alone must not keep the program from starting, with all other targets.
		v.warn(at, "its key, %s, expired on %s: until the next one is in its place, each mail becomes a dead letter", ref, key.Expires().UTC().Format(time.DateOnly))
		return
	}
	if err == nil {
		err = key.Usable(encryption.Options{OAEP: t.SMIMEOAEP}, time.Now())
	}
	if err != nil {
		problem(at, "its key, %s, cannot be used: %v; %s", ref, err, advice)
		return
	}
	if end := key.Expires(); !end.IsZero() && time.Until(end) < KeyWarning {
		v.warn(at, "its key, %s, expires on %s: put the next one in its place before", ref, end.UTC().Format(time.DateOnly))
	}
}

// localKey returns the text of a key in a file or in the configuration; nil if it is
// elsewhere.
func localKey(ref secrets.Ref) ([]byte, error) {
	if ref.File == "" {
		if ref.Value.IsZero() {
			return nil, nil
		}
		return ref.Value.Reveal(), nil
	}
	text, err := readRegular(ref.File)
	if of := (*fs.PathError)(nil); errors.As(err, &of) {
		err = of.Err // the problem names the file already
	}
	return text, err
}
