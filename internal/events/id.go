package events

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// Token returns the subject token for an id: the id itself where NATS and the
// contract allow it ([A-Za-z0-9_-]{1,64}), else h_ and 32 hexadecimal digits of its
// SHA-256. An id that already looks like such a hash is hashed too, so that two ids
// share a token only if their hashes collide.
func Token(id string) string {
	if IsToken(id) && !looksHashed(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "h_" + hex.EncodeToString(sum[:16])
}

// IsToken reports whether s is [A-Za-z0-9_-]{1,64}.
func IsToken(s string) bool {
	if len(s) < 1 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

func looksHashed(s string) bool {
	digits, ok := strings.CutPrefix(s, "h_")
	return ok && len(digits) == 32 && strings.Trim(digits, "0123456789abcdef") == ""
}

// crockford is Crockford's base 32 (crockford.com/base32.html): no I, L, O, U.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// NewID returns a new event id of 26 characters: 48 bits of time in milliseconds,
// then 80 random bits, in Crockford's base 32, like a ULID. Ids of different
// milliseconds sort by time.
func NewID() string {
	var b [16]byte
	ms := time.Now().UnixMilli()
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	rand.Read(b[6:]) // never fails: crypto/rand crashes the program instead
	return base32(b)
}

// IDFor returns the id of the event for one certificate from one source. A hook that
// runs again for the same certificate publishes the same id, and so causes no second
// mail. fingerprint is the SHA-256 of the leaf's DER.
func IDFor(fingerprint [sha256.Size]byte, source string) string {
	h := sha256.New()
	h.Write([]byte("certpost event id\x00"))
	h.Write(fingerprint[:])
	h.Write([]byte(source))
	return base32([16]byte(h.Sum(nil)[:16]))
}

// base32 writes 128 bits as 26 digits, the first of them 0 to 7.
func base32(b [16]byte) string {
	var out [26]byte
	for i := range out {
		var digit byte
		for bit := i*5 - 2; bit < i*5+3; bit++ { // two zero bits in front make 130
			digit <<= 1
			if bit >= 0 {
				digit |= b[bit/8] >> (7 - bit%8) & 1
			}
		}
		out[i] = crockford[digit]
	}
	return string(out[:])
}
