package payload

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"sync"

	"github.com/certpost/certpost/internal/oddities"
	"github.com/certpost/certpost/internal/pemtext"
	"github.com/certpost/certpost/internal/verdict"
)

// Limits of a Cache: entries, and bytes of certificate text in all of them.
const (
	maxCached      = 256
	maxCachedBytes = 8 << 20
)

// Cache keeps parsed bundles by the digest of their text: an event is parsed when it is
// resolved and again for each of its targets and attempts. It also keeps parsed issuers,
// because most events have the same few. The zero Cache is empty. It
// is safe for concurrent use; callers must not change the bundles that it returns.
type Cache struct {
	issuers issuers

	mu      sync.Mutex
	entries map[[sha256.Size]byte]*cached
	oldest  [][sha256.Size]byte // digests, in the order of their arrival
	bytes   int
}

type cached struct {
	once   sync.Once
	size   int
	bundle *Bundle
	err    error
}

// Parse returns what ParseBundle returns for the text, with the work of ParseVerified if
// verified is true. Callers with the same text wait for the first one.
func (c *Cache) Parse(pemText []byte, verified bool) (*Bundle, error) {
	if len(pemText) > pemtext.MaxCertificates {
		return ParseBundle(pemText) // refuses it
	}
	entry := c.entry(sha256.Sum256(pemText), len(pemText))
	entry.once.Do(func() {
		issued := signed
		if verified {
			issued = signedBefore
		}
		entry.bundle, entry.err = parse(pemText, c.issuers.read, issued)
	})
	if failure := (*verdict.Failure)(nil); errors.As(entry.err, &failure) {
		own := *failure // callers add to it
		return nil, &own
	}
	return entry.bundle, entry.err
}

func (c *Cache) entry(digest [sha256.Size]byte, size int) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	if entry := c.entries[digest]; entry != nil {
		return entry
	}
	if c.entries == nil {
		c.entries = map[[sha256.Size]byte]*cached{}
	}
	for len(c.oldest) > 0 && (len(c.oldest) >= maxCached || c.bytes+size > maxCachedBytes) {
		c.bytes -= c.entries[c.oldest[0]].size
		delete(c.entries, c.oldest[0])
		c.oldest = c.oldest[1:]
	}
	entry := &cached{size: size}
	c.entries[digest] = entry
	c.oldest = append(c.oldest, digest)
	c.bytes += size
	return entry
}

// maxIssuers is the number of issuers that a Cache keeps. Public CAs have some dozens in use.
const maxIssuers = 128

// issuers keeps parsed CA certificates by the digest of their DER.
type issuers struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]*x509.Certificate
}

// read returns what oddities.Certificate returns.
func (i *issuers) read(der []byte) (*x509.Certificate, string, error) {
	digest := sha256.Sum256(der)
	i.mu.Lock()
	cert := i.known[digest]
	i.mu.Unlock()
	if cert != nil {
		return cert, "", nil
	}
	cert, odd, err := oddities.Certificate(der)
	if err != nil || odd != "" || !cert.IsCA {
		return cert, odd, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known == nil || len(i.known) >= maxIssuers {
		i.known = make(map[[sha256.Size]byte]*x509.Certificate) // those in use come back soon
	}
	i.known[digest] = cert
	return cert, "", nil
}
