package secrets

import (
	"context"
	"errors"
	"sync"
	"unicode/utf8"

	"github.com/rs/zerolog"
)

// Secret is the value of a reference, and which version of it that is: the
// number of a KV v2 version, the key version of a transit ciphertext, the time
// a file was changed (RFC 3339, UTC); "" where the source knows none. The
// version may be stored and shown.
type Secret struct {
	Value   Value
	Version string
}

// Store resolves references. It is safe for use by many goroutines.
type Store struct {
	files files
	vault *vault // nil when none is configured
}

// Open prepares a store; it connects to nothing. It fails when a setting, a CA
// file or a client certificate cannot be used.
func Open(cfg Config, log zerolog.Logger) (*Store, error) {
	store := &Store{files: files{log: log, warned: &sync.Map{}}}
	var err error
	store.vault, err = openVault(cfg, store.files, log)
	if err != nil {
		return nil, err
	}
	return store, nil
}

// Close forgets what is cached, gives the token back if we logged in for it,
// and ends what runs in the background. It waits for a few seconds at most.
func (s *Store) Close() {
	if s.vault != nil {
		s.vault.close()
	}
}

// Get returns the secret. From Vault it may be up to cache_ttl old; everything
// else is read at every call. Vars fill the templates of a Vault path. Errors
// are *Error.
func (s *Store) Get(ctx context.Context, ref Ref, vars Vars) (Secret, error) {
	return s.resolve(ctx, ref, vars, mayBeCached)
}

// Fresh is Get with a value that was read after the call: for when a relay has
// refused the one from the cache. The fields of a dynamic secret belong
// together: after Fresh for one, Get gives the others of the same lease.
func (s *Store) Fresh(ctx context.Context, ref Ref, vars Vars) (Secret, error) {
	return s.resolve(ctx, ref, vars, readNow)
}

// Uncached is Fresh for private keys: the value is not kept in the cache.
func (s *Store) Uncached(ctx context.Context, ref Ref, vars Vars) (Secret, error) {
	return s.resolve(ctx, ref, vars, readAndForget)
}

// reading says how a caller wants a value from Vault.
type reading int

const (
	mayBeCached reading = iota
	readNow
	readAndForget
)

func (s *Store) resolve(ctx context.Context, ref Ref, vars Vars, how reading) (Secret, error) {
	if err := ref.Validate(); err != nil {
		return Secret{}, ref.notFound("", "the reference cannot be used: %v", err)
	}
	ref, err := ref.fill(vars)
	if err != nil {
		return Secret{}, err
	}
	if ref.Vault == nil && ref.Transit == nil {
		return local(s.files, ref).read(ctx, ref)
	}
	if s.vault == nil {
		return Secret{}, noVault(ref)
	}
	secret, err := s.vault.get(ctx, ref, how)
	return secret, explained(ctx, ref, err)
}

// Put writes the value into the field of a KV secret and leaves its other
// fields as they are; the secret is created where there is none. On KV v2 that
// is a new version. The reference is a vault one without templates and version.
func (s *Store) Put(ctx context.Context, ref Ref, value Value) error {
	switch {
	case ref.Vault == nil:
		return ref.refuse("secrets are written to Vault alone")
	case ref.Vault.Version != 0:
		return ref.refuse("a version cannot be written: leave it out, and a new one is made")
	case value.IsZero():
		return ref.refuse("an empty secret is not written")
	case !utf8.Valid(value.Reveal()):
		return ref.refuse("Vault keeps text, and the secret is not UTF-8: encode it first")
	}
	if err := ref.Validate(); err != nil {
		return ref.refuse("the reference cannot be used: %v", err)
	}
	ref, err := ref.fill(nil)
	if err != nil {
		return err
	}
	if s.vault == nil {
		return noVault(ref)
	}
	return explained(ctx, ref, s.vault.put(ctx, ref, value))
}

// Health says whether Vault could answer now: an ErrUnavailable when it is
// unreachable, sealed, on standby, or refuses our login; nil when it is well or
// none is configured. It costs one unauthenticated request.
func (s *Store) Health(ctx context.Context) error {
	if s.vault == nil {
		return nil
	}
	return explained(ctx, Ref{}, s.vault.health(ctx))
}

func noVault(ref Ref) error {
	return ref.notFound("set vault.address in the configuration, or VAULT_ADDR", "no Vault is configured")
}

// explained names the reference in an Error that has none, and makes an Error of
// a context's end: the caller's own, or that of a read that took too long.
func explained(ctx context.Context, ref Ref, err error) error {
	if err == nil {
		return nil
	}
	var known *Error
	if !errors.As(err, &known) {
		known = &Error{Kind: ErrUnavailable, What: "gave up waiting for Vault", Cause: ctx.Err()}
	}
	if known.Ref != "" || ref.IsZero() {
		return known
	}
	return about(ref, known)
}
