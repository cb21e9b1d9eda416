package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"
)

// Hash is an Argon2id hash (RFC 9106) of a password. The zero Hash fits no password.
type Hash struct {
	memory, passes uint32 // memory in KiB; number of passes over it
	lanes          uint8
	salt, sum      []byte
}

// Limits of hashes in a configuration. The lower limit of memory is the least in the
// list of OWASP's cheat sheet on password storage; the upper limits keep one sign-in
// from using up the machine.
const (
	minMemory, maxMemory = 7 << 10, 256 << 10 // KiB
	maxPasses            = 16
	maxLanes             = 16
	maxHashText          = 512

	// MaxPassword is the maximum length of a password, in bytes.
	MaxPassword = 1024
)

// phc is the PHC string of Argon2id: parameters in this order, no others, numbers
// without leading zeros, base64 without padding.
var phc = regexp.MustCompile(`^\$argon2id\$v=19\$m=([1-9][0-9]{0,9}),t=([1-9][0-9]{0,2}),p=([1-9][0-9]{0,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)$`)

// ParseHash parses the output of `certpost hash-password`, or of another program that
// writes the same form: $argon2id$v=19$m=32768,t=3,p=1$salt$hash. Its errors never
// quote the text.
func ParseHash(text string) (Hash, error) {
	if len(text) > maxHashText {
		return Hash{}, fmt.Errorf("is longer than %d characters", maxHashText)
	}
	parts := phc.FindStringSubmatch(text)
	if parts == nil {
		return Hash{}, errors.New("is not an Argon2id string such as $argon2id$v=19$m=32768,t=3,p=1$...$...: `certpost hash-password` makes one")
	}
	h := Hash{memory: number(parts[1]), passes: number(parts[2])}
	lanes := number(parts[3])
	switch {
	case h.memory < minMemory || h.memory > maxMemory:
		return Hash{}, fmt.Errorf("has a memory of %d KiB: want m=%d to m=%d", h.memory, minMemory, maxMemory)
	case h.passes > maxPasses:
		return Hash{}, fmt.Errorf("has more than %d passes (t)", maxPasses)
	case lanes > maxLanes:
		return Hash{}, fmt.Errorf("has more than %d lanes (p)", maxLanes)
	}
	h.lanes = uint8(lanes)
	var err error
	if h.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return Hash{}, errors.New("has a salt that is not 8 to 64 bytes of base64")
	}
	if h.sum, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil || len(h.sum) < 16 || len(h.sum) > 64 {
		return Hash{}, errors.New("has a hash that is not 16 to 64 bytes of base64")
	}
	return h, nil
}

// number parses a decimal of at most ten digits; above 32 bits it returns the largest uint32.
func number(digits string) uint32 {
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return ^uint32(0)
	}
	return uint32(n)
}

// NewHash hashes a password with 32 MiB of memory, three passes and a new salt: about
// 60 ms.
func NewHash(password string) Hash {
	h := Hash{memory: 32 << 10, passes: 3, lanes: 1, salt: make([]byte, 16)}
	_, _ = rand.Read(h.salt) // never fails
	h.sum = h.derive(password, 32)
	return h
}

// String is the PHC string. It is less secret than the password, but should not be
// published: with it, passwords can be tried offline at the speed of the hardware.
func (h Hash) String() string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=%d$%s$%s", h.memory, h.passes, h.lanes, b64(h.salt), b64(h.sum))
}

// Fits says whether the hash is that of the password.
func (h Hash) Fits(password string) bool {
	if len(h.sum) == 0 || len(password) > MaxPassword {
		return false
	}
	return subtle.ConstantTimeCompare(h.derive(password, uint32(len(h.sum))), h.sum) == 1
}

// derive normalises first (NFC): an é may be typed as one character or as two.
func (h Hash) derive(password string, length uint32) []byte {
	return argon2.IDKey([]byte(norm.NFC.String(password)), h.salt, h.passes, h.memory, h.lanes, length)
}

// equal says whether two hashes have the same PHC string.
func (h Hash) equal(other Hash) bool { return h.String() == other.String() }

// atOnce is how many passwords are hashed at the same time, because each needs memory;
// patience is how long the next one waits for its turn.
const (
	atOnce   = 2
	patience = 10 * time.Second
)

var errBusy = errors.New("too many sign-ins at the same time")

// keeper checks passwords against those of the accounts.
type keeper struct {
	secret [32]byte
	turns  chan struct{}
}

func newKeeper(secret [32]byte) *keeper {
	return &keeper{secret: secret, turns: make(chan struct{}, atOnce)}
}

// check says whether the password is that of the named account. For an unknown name it
// compares with the hash of another account, always the same one for that name, so that
// the time it takes does not show which names exist.
func (k *keeper) check(ctx context.Context, accounts []Account, name, password string) (Account, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case k.turns <- struct{}{}:
		defer func() { <-k.turns }()
	case <-ctx.Done():
		return Account{}, false, errBusy
	}
	account, known := Account{}, false
	for _, a := range accounts {
		if a.Name == name {
			account, known = a, true
		}
	}
	if !known && len(accounts) > 0 {
		mac := hmac.New(sha256.New, k.secret[:])
		mac.Write([]byte("unknown name " + name))
		account = accounts[binary.BigEndian.Uint64(mac.Sum(nil))%uint64(len(accounts))]
	}
	fits := account.Hash.Fits(password)
	return account, fits && known, nil
}
