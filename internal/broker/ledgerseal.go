package broker

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strconv"
)

// A signed entry ends with two more fields: `,"after":<revision>,"seal":"<key id>:<HMAC>"}`.
// after is the revision that the entry replaced (0: none), so that a stored value that is
// written once more is seen to be an old one. The HMAC covers it, the key and all that stands
// before it.
const (
	sealAfter = `,"after":`
	sealMark  = `,"seal":"`
	sealEnd   = `"}`
)

// sealEntry signs the value of a key, which replaces a revision.
func (k *auditKey) sealEntry(key string, value []byte, revision uint64) []byte {
	open := value[:len(value)-1]
	proof := k.proof(labelEntry, revision, key, open)
	sealed := make([]byte, 0, len(value)+len(sealAfter)+len(sealMark)+len(sealEnd)+len(proof)+20)
	sealed = append(append(sealed, open...), sealAfter...)
	sealed = strconv.AppendUint(sealed, revision, 10)
	sealed = append(append(sealed, sealMark...), proof...)
	return append(sealed, sealEnd...)
}

// entrySeal is what a stored entry's seal says.
type entrySeal struct {
	result checked
	key    string // the id of the key
	after  uint64 // the revision that the entry replaced
}

// checkEntry checks the seal of a stored value.
func (k *AuditKeys) checkEntry(key string, stored []byte) entrySeal {
	at := bytes.LastIndex(stored, []byte(sealAfter))
	if at < 0 || !bytes.HasSuffix(stored, []byte(sealEnd)) {
		return entrySeal{}
	}
	tail := stored[at+len(sealAfter) : len(stored)-len(sealEnd)]
	number, proof, found := bytes.Cut(tail, []byte(sealMark))
	after, err := strconv.ParseUint(string(number), 10, 64)
	if !found || err != nil {
		return entrySeal{}
	}
	result, id := k.check(string(proof), labelEntry, after, key, stored[:at])
	return entrySeal{result, id, after}
}

// leaf identifies one entry with a receipt, for a checkpoint.
type leaf struct {
	revision uint64
	key      uint64 // the beginning of the SHA-256 of the key
	hash     [sha256.Size]byte
	// recovered: no checkpoint of the process that wrote the entry covers it. It is not a part
	// of what is stored.
	recovered bool
}

func leafOf(key string, stored []byte, revision uint64) leaf {
	return leaf{revision: revision, key: leafKey(key), hash: sha256.Sum256(stored)}
}

func leafKey(key string) uint64 {
	sum := sha256.Sum256([]byte(key))
	return binary.BigEndian.Uint64(sum[:8])
}
