package broker

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"sync"
)

// auditKeySize is the length of a new key in bytes: that of the HMAC's hash.
const auditKeySize = sha256.Size

// AuditKeys are the HMAC keys of the audit and the ledger, the one to be used from the next
// rotation on first. No NATS client can read them. A printed value shows no key: each is
// reachable only within a closure.
type AuditKeys struct{ all []auditKey }

// auditKey is one key. Its id is public: records and entries name the key by it.
type auditKey struct {
	id  string
	sum func(label string, number uint64, name string, data []byte) [sha256.Size]byte
}

// The labels keep an HMAC of one kind from being taken for one of another kind.
const (
	labelRecord = "certpost audit record"
	labelEntry  = "certpost ledger entry"
)

// NewAuditKey returns a new random key, as ParseAuditKeys reads it.
func NewAuditKey() string {
	key := make([]byte, auditKeySize)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	defer clear(key)
	return base64.StdEncoding.EncodeToString(key)
}

// ParseAuditKeys reads keys of 32 bytes in base64, separated by white space: the newest
// first, then older ones, with which earlier records are verified. What follows a # is a
// comment. The error never quotes the text.
func ParseAuditKeys(text []byte) (*AuditKeys, error) {
	keys := &AuditKeys{}
	for n, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		for word := range strings.FieldsSeq(line) {
			key, err := base64.StdEncoding.DecodeString(word)
			if err != nil || len(key) != auditKeySize {
				return nil, fmt.Errorf("line %d is not a key: want %d bytes in base64, as printed by `certpost audit key`", n+1, auditKeySize)
			}
			if k := newAuditKey(key); keys.find(k.id) == nil {
				keys.all = append(keys.all, k)
			}
		}
	}
	if len(keys.all) == 0 {
		return nil, errors.New("there is no key: want at least one, as printed by `certpost audit key`")
	}
	return keys, nil
}

func newAuditKey(key []byte) auditKey {
	id := sha256.Sum256(append([]byte("certpost audit key id\x00"), key...))
	// An HMAC that is set up once and reset for each use costs no allocation.
	states := sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}
	return auditKey{hex.EncodeToString(id[:4]), func(label string, number uint64, name string, data []byte) (sum [sha256.Size]byte) {
		mac := states.Get().(hash.Hash)
		defer states.Put(mac)
		mac.Reset()
		head := make([]byte, 0, 192)
		head = append(append(head, label...), 0)
		head = binary.BigEndian.AppendUint64(head, number)
		head = append(append(head, name...), 0)
		mac.Write(head)
		mac.Write(data)
		mac.Sum(sum[:0])
		return sum
	}}
}

// IDs returns the ids of the keys, the newest first.
func (k *AuditKeys) IDs() []string {
	ids := make([]string, len(k.all))
	for i, key := range k.all {
		ids[i] = key.id
	}
	return ids
}

// Newest returns the id of the key to be used from the next rotation on.
func (k *AuditKeys) Newest() string { return k.all[0].id }

// find returns the key with an id; nil if it is not among these, or if there are none.
func (k *AuditKeys) find(id string) *auditKey {
	if k == nil {
		return nil
	}
	i := slices.IndexFunc(k.all, func(key auditKey) bool { return key.id == id })
	if i < 0 {
		return nil
	}
	return &k.all[i]
}

// proof is the HMAC of a record or an entry, with the id of its key: "id:base64".
func (k *auditKey) proof(label string, number uint64, name string, data []byte) string {
	sum := k.sum(label, number, name, data)
	return k.id + ":" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// checked is the result of checking one HMAC.
type checked uint8

const (
	unsigned   checked = iota // without HMAC
	authentic                 // written by a process that has the key
	unknownKey                // the key is not among ours
	forged                    // the HMAC is wrong
)

// check checks a proof, and returns the id of its key.
func (k *AuditKeys) check(proof, label string, number uint64, name string, data []byte) (result checked, id string) {
	if proof == "" {
		return unsigned, ""
	}
	id, _, _ = strings.Cut(proof, ":")
	key := k.find(id)
	switch {
	case key == nil:
		return unknownKey, id
	case !hmac.Equal([]byte(key.proof(label, number, name, data)), []byte(proof)):
		return forged, id
	}
	return authentic, id
}
