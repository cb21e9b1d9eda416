package payload

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// Shared builds the files of deliveries that are in work at the same time, and builds equal
// ones once: an event for fifty targets with the same settings has its key encrypted once.
// Files are held only as long as a delivery holds them, and are then cleared, so no secret
// lives longer than without it. The zero Shared is empty. It is safe for concurrent use.
type Shared struct {
	// secret keys the digests: without it, a digest could be compared with those of guessed
	// passphrases.
	secret [sha256.Size]byte
	first  sync.Once // sets secret

	mu   sync.Mutex
	held map[[sha256.Size]byte]*sharedFiles
}

type sharedFiles struct {
	holders int                          // guarded by Shared.mu
	build   func() ([]Attachment, error) // builds when first called; panics again if that has panicked
	files   []Attachment                 // for the last holder, once built
}

// Build returns what the function Build returns for its arguments; dates in the files may be
// those of another delivery that holds them. Nobody may change the files. The caller calls
// release once, when it no longer reads them: the last one clears them.
func (s *Shared) Build(set Settings, b *Bundle, key, passphrase []byte, now time.Time) (files []Attachment, release func(), err error) {
	if !set.NeedsKey() && set.Passphrase() == "" { // costs less than to find out whether it is held
		files, err = Build(set, b, key, passphrase, now)
		return files, func() { clearFiles(files) }, err
	}
	digest := s.digest(set, b, key, passphrase)
	held := s.hold(digest, func() ([]Attachment, error) { return Build(set, b, key, passphrase, now) })
	built := false
	defer func() {
		if !built { // an error, or a panic, which every holder gets
			s.release(digest, held)
		}
	}()
	if files, err = held.build(); err != nil {
		if failure := (*verdict.Failure)(nil); errors.As(err, &failure) {
			own := *failure // callers add to it
			err = &own
		}
		return nil, func() {}, err
	}
	built = true
	return files, sync.OnceFunc(func() { s.release(digest, held) }), nil
}

func (s *Shared) hold(digest [sha256.Size]byte, build func() ([]Attachment, error)) *sharedFiles {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.held[digest]
	if held == nil {
		held = &sharedFiles{}
		held.build = sync.OnceValues(func() (_ []Attachment, err error) {
			held.files, err = build()
			return held.files, err
		})
		if s.held == nil {
			s.held = map[[sha256.Size]byte]*sharedFiles{}
		}
		s.held[digest] = held
	}
	held.holders++
	return held
}

func (s *Shared) release(digest [sha256.Size]byte, held *sharedFiles) {
	s.mu.Lock()
	held.holders--
	last := held.holders == 0
	if last {
		delete(s.held, digest)
	}
	s.mu.Unlock()
	if last {
		clearFiles(held.files)
	}
}

// Held returns how many different files, or groups of them, are held: 0 when no delivery is in
// work.
func (s *Shared) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// digest identifies all that the files are made of.
func (s *Shared) digest(set Settings, b *Bundle, key, passphrase []byte) (sum [sha256.Size]byte) {
	s.first.Do(func() { _, _ = rand.Read(s.secret[:]) }) // never fails (crypto/rand)
	mac := hmac.New(sha256.New, s.secret[:])
	part := func(data []byte) {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(data))))
		mac.Write(data)
	}
	for _, text := range []string{set.Kind, set.PKCS12Encoding, strconv.Itoa(set.Iterations), set.Alias, strconv.FormatBool(set.WithKey)} {
		part([]byte(text))
	}
	part(key)
	part(passphrase)
	part(b.Leaf.Raw)
	for _, issuer := range b.Chain {
		part(issuer.Raw)
	}
	mac.Sum(sum[:0])
	return sum
}

func clearFiles(files []Attachment) {
	for _, f := range files {
		clear(f.Data)
	}
}
