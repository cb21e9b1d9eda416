package secrets

import (
	"context"
	"errors"
	"sync"
	"unicode/utf8"

	"github.com/rs/zerolog"
)

// Secret is the value of a reference and its version: the number of a KV v2 version,
// the key version of a transit ciphertext, or the modification time of a file (RFC
// 3339, UTC); "" for sources without versions. The version may be stored and shown.
type Secret struct {
	Value   Value
	Version string
	// Field is the field of a secret in Vault that was read. It says what a reference
	// without a key took.
	Field string
}

// Store resolves references. It is safe for concurrent use.
type Store struct {
	files files
	vault *vault // nil when Vault is not configured
}

// Open returns a store without connecting to Vault. It fails when a setting, a CA file
// or a client certificate is invalid.
func Open(cfg Config, log zerolog.Logger) (*Store, error) {
	store := &Store{files: files{log: log, warned: &sync.Map{}}}
	var err error
	store.vault, err = openVault(cfg, store.files, log)
	if err != nil {
		return nil, err
	}
	return store, nil
}

// Close clears the cache, revokes the token if a login of Certpost issued it, and ends
// the background work. It takes at most a few seconds.
func (s *Store) Close() {
	if s.vault != nil {
		s.vault.close()
	}
}

// Get returns the secret. A value from Vault may be up to cache_ttl old; all other
// sources are read at every call. Vars fill the templates of a Vault path. Errors are
// *Error.
func (s *Store) Get(ctx context.Context, ref Ref, vars Vars) (Secret, error) {
	return s.resolve(ctx, ref, vars, mayBeCached)
}

// Fresh is Get with a value that was read after the call, for when a relay has refused
// the cached one. The fields of a dynamic secret belong together: after Fresh for one
// field, Get returns the others of the same lease.
func (s *Store) Fresh(ctx context.Context, ref Ref, vars Vars) (Secret, error) {
	return s.resolve(ctx, ref, vars, readNow)
}

// Uncached is Fresh for private keys: the value is not kept in the cache.
func (s *Store) Uncached(ctx context.Context, ref Ref, vars Vars) (Secret, error) {
	return s.resolve(ctx, ref, vars, readAndForget)
}

// OfEvent is Uncached for a secret that an event names: it reads what the policy
// allows and nothing else. A file is judged and read through one descriptor, so that a
// link that changes in between leads nowhere else.
func (s *Store) OfEvent(ctx context.Context, policy Policy, ref Ref) (Secret, error) {
	if ref.Validate() != nil || ref.File == "" {
		if err := policy.Allows(ref); err != nil {
			return Secret{}, err
		}
		return s.Uncached(ctx, ref, nil)
	}
	file, err := policy.open(ref)
	if err != nil {
		return Secret{}, err
	}
	return s.files.readOpen(ref, ref.File, file)
}

// reading says whether a value from Vault may come from the cache, and stay there.
type reading int

const (
	mayBeCached reading = iota
	readNow
	readAndForget
)

func (s *Store) resolve(ctx context.Context, ref Ref, vars Vars, how reading) (Secret, error) {
	if err := ref.Validate(); err != nil {
		return Secret{}, ref.notFound("", "invalid reference: %v", err)
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

// Written is the result of Put.
type Written struct {
	// Version is the version of the secret that has the value; 0 on KV version 1.
	Version int
	// Before is the field's value before Put; zero if there was none, or Certpost's token may
	// not read it.
	Before Value
}

// Put writes the value into the field of a KV secret and leaves its other fields
// unchanged; it creates the secret if it does not exist. On KV v2 it makes a new
// version, unless the newest one is known to have the value already. The reference must be a
// vault reference without templates and version.
func (s *Store) Put(ctx context.Context, ref Ref, value Value) (Written, error) {
	switch {
	case ref.Vault == nil:
		return Written{}, ref.refuse("secrets can be written only to Vault")
	case ref.Vault.Key == "":
		return Written{}, ref.refuse("a secret is written into a field: add it after a #")
	case ref.Vault.Version != 0:
		return Written{}, ref.refuse("a version cannot be written: leave it out, and Vault makes a new one")
	case value.IsZero():
		return Written{}, ref.refuse("an empty secret is not written")
	case !utf8.Valid(value.Reveal()):
		return Written{}, ref.refuse("Vault stores text, and the secret is not UTF-8: encode it first")
	}
	if err := ref.Validate(); err != nil {
		return Written{}, ref.refuse("invalid reference: %v", err)
	}
	ref, err := ref.fill(nil)
	if err != nil {
		return Written{}, err
	}
	if s.vault == nil {
		return Written{}, noVault(ref)
	}
	written, err := s.vault.put(ctx, ref, value)
	return written, explained(ctx, ref, err)
}

// UsesVault reports whether a Vault server is configured.
func (s *Store) UsesVault() bool { return s.vault != nil }

// Health returns an ErrUnavailable when Vault is unreachable, sealed or on standby, or
// refuses Certpost's login; nil when it can answer or is not configured. It makes one
// unauthenticated request.
func (s *Store) Health(ctx context.Context) error {
	if s.vault == nil {
		return nil
	}
	return explained(ctx, Ref{}, s.vault.health(ctx))
}

func noVault(ref Ref) error {
	return ref.notFound("set vault.address in the configuration, or VAULT_ADDR", "Vault is not configured")
}

// explained adds the reference to an Error that has none, and turns the end of a
// context into an Error: the caller's context, or that of a read that took too long.
func explained(ctx context.Context, ref Ref, err error) error {
	if err == nil {
		return nil
	}
	var known *Error
	if !errors.As(err, &known) {
		known = &Error{Kind: ErrUnavailable, What: "Vault did not answer in time", Cause: ctx.Err()}
	}
	if known.Ref != "" || ref.IsZero() {
		return known
	}
	return about(ref, known)
}
