package delivery

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// provisions are the certificate and the secrets for one delivery. They are cleared
// after use, whatever the result.
type provisions struct {
	bundle     *payload.Bundle
	key        []byte // PEM, nil if the payload has none
	passphrase []byte
	// passphraseAt is where the passphrase is, for the recipient; zero if that is not known.
	passphraseAt secrets.Ref
	// trial says that nothing is sent, so that no passphrase is made.
	trial    bool
	username string
	password secrets.Value
	vars     secrets.Vars
	versions map[string]string // of the secrets, by reference
}

// targetProvisions are those of a target alone, without an event: references to secrets may name its
// host and its id.
func targetProvisions(t *Target) *provisions {
	return &provisions{versions: map[string]string{}, vars: secrets.Vars{"host": t.Host, "target": t.ID}}
}

func (p *provisions) clear() {
	if p == nil {
		return
	}
	clear(p.key)
	clear(p.passphrase)
}

func newProvisions(t *Target, b *payload.Bundle) *provisions {
	cn := b.Name()
	return &provisions{bundle: b, versions: map[string]string{}, vars: secrets.Vars{
		"host": t.Host, "target": t.ID, "cn": cn, "domain": strings.TrimPrefix(cn, "*."),
	}}
}

func (c *Courier) provisions(ctx context.Context, t *Target, ev *events.Event) (*provisions, *verdict.Failure) {
	b, failure := c.certificate(ctx, ev)
	if failure != nil {
		return nil, failure
	}
	p := newProvisions(t, b)
	if t.needsKey() {
		if p.key, failure = c.privateKey(ctx, t, ev, p); failure != nil {
			return p, failure
		}
	}
	return p, c.ownSecrets(ctx, t, p)
}

// ownSecrets fetches the target's own secrets: the passphrase of the payload's file, and the
// credentials.
func (c *Courier) ownSecrets(ctx context.Context, t *Target, p *provisions) *verdict.Failure {
	if t.settings(p.vars).Passphrase() != "" {
		if failure := c.fetchPassphrase(ctx, t, p); failure != nil {
			return failure
		}
	}
	return c.login(ctx, t, p)
}

// fetchPassphrase fetches the passphrase of the payload's file, or has it made.
func (c *Courier) fetchPassphrase(ctx context.Context, t *Target, p *provisions) *verdict.Failure {
	phrase := t.passphrase()
	if phrase.Generates() {
		return c.generatePassphrase(ctx, t, p)
	}
	value, failure := c.secret(ctx, phrase.Ref, p)
	if failure == nil {
		p.passphrase = value.Reveal()
		p.passphraseAt, _ = phrase.Filled(p.vars)
	}
	return failure
}

// login fetches the credentials for AUTH.
func (c *Courier) login(ctx context.Context, t *Target, p *provisions) (failure *verdict.Failure) {
	if t.AuthMethod == smtp.AuthNone {
		return nil
	}
	p.username = t.Username.Plain
	if !t.Username.Ref.IsZero() {
		value, failure := c.secret(ctx, t.Username.Ref, p)
		if failure != nil {
			return failure
		}
		p.username = string(value.Reveal())
	}
	if !t.OAuth2.IsZero() {
		p.password, failure = c.token(ctx, t, p, secrets.Value{})
		return failure
	}
	p.password, failure = c.secret(ctx, t.Password, p)
	return failure
}

// secret fetches one of the target's own secrets.
func (c *Courier) secret(ctx context.Context, ref secrets.Ref, p *provisions) (secrets.Value, *verdict.Failure) {
	s, err := c.store.Get(ctx, ref, p.vars)
	if err != nil {
		return secrets.Value{}, secretFailure(err)
	}
	p.remember(ref, s)
	return s.Value, nil
}

func (p *provisions) remember(ref secrets.Ref, s secrets.Secret) {
	if s.Version != "" {
		p.versions[ref.WithField(s).String()] = s.Version
	}
}

// privateKey fetches the key that the event names, if events may name it, and decrypts it.
// Without a key in the event it returns nil; payload.Build fails if it needs one.
func (c *Courier) privateKey(ctx context.Context, t *Target, ev *events.Event, p *provisions) ([]byte, *verdict.Failure) {
	if ev.PrivateKey == nil {
		return nil, nil
	}
	ref, s, failure := c.fromEvent(ctx, ev, ev.PrivateKey)
	if failure != nil {
		return nil, failure
	}
	p.remember(ref, s)
	return c.openKey(ctx, t, p, s.Value.Reveal())
}

// openKey decrypts a private key with the target's private_key_passphrase, and clears the
// encrypted one. A key that is not encrypted it returns as it is.
func (c *Courier) openKey(ctx context.Context, t *Target, p *provisions, text []byte) ([]byte, *verdict.Failure) {
	ref := t.PrivateKeyPassphrase
	if ref.IsZero() || !payload.KeyIsEncrypted(text) {
		return text, nil // payload.Build says what is wrong with an encrypted one
	}
	defer clear(text)
	value, failure := c.secret(ctx, ref, p)
	if failure != nil {
		return nil, failure
	}
	key, err := decrypted(text, value)
	if errors.Is(err, payload.ErrWrongPassphrase) {
		// Key and passphrase may have been replaced since the passphrase was cached.
		fresh, again := c.store.Fresh(ctx, ref, p.vars)
		if again != nil {
			return nil, secretFailure(again)
		}
		p.remember(ref, fresh)
		if !fresh.Value.Equal(value) {
			key, err = decrypted(text, fresh.Value)
		}
	}
	if errors.Is(err, payload.ErrWrongPassphrase) {
		return nil, verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload,
			fmt.Sprintf("the private key cannot be decrypted with private_key_passphrase (%s): %s; store the passphrase of this key there, then replay", ref, err))
	}
	if err != nil {
		return nil, asFailure(err)
	}
	return key, nil
}

func decrypted(text []byte, passphrase secrets.Value) ([]byte, error) {
	plain := passphrase.Reveal()
	defer clear(plain)
	return payload.DecryptKey(text, plain)
}

// certificate parses the event's certificate, from the event or from its reference.
func (c *Courier) certificate(ctx context.Context, ev *events.Event) (*payload.Bundle, *verdict.Failure) {
	text, verified := []byte(ev.Certificate.PEM), ev.ChainVerified
	if ev.Certificate.Ref != nil {
		_, s, failure := c.fromEvent(ctx, ev, ev.Certificate.Ref)
		if failure != nil {
			return nil, failure
		}
		text, verified = s.Value.Reveal(), false // it may be another one than at that time
	}
	b, err := c.bundles.Parse(text, verified)
	if err != nil {
		return nil, asFailure(err)
	}
	return b, nil
}

// fromEvent fetches a secret that the event names. It fetches only what the
// configuration allows events of its source to name, and caches nothing.
func (c *Courier) fromEvent(ctx context.Context, ev *events.Event, r *events.Reference) (secrets.Ref, secrets.Secret, *verdict.Failure) {
	ref := refOf(r)
	may, failure := c.sources.of(ev)
	if failure != nil {
		return ref, secrets.Secret{}, failure
	}
	s, err := c.store.OfEvent(ctx, may.secrets, ref)
	if err != nil {
		failure := secretFailure(err)
		if failure.Code == verdict.SecretDenied {
			// Each event names another secret; what has to be allowed is their directory.
			failure.ToFix = directoryOf(failure.ToFix)
		}
		return ref, secrets.Secret{}, failure
	}
	return ref, s, nil
}

// secretFailure turns an error of the secret store into a verdict. The store's error
// texts are those of Certpost and contain no secret.
func secretFailure(err error) *verdict.Failure {
	f := verdict.Fail(verdict.SecretUnavailable, verdict.PhaseSecrets, err.Error()).Because(err)
	of, known := errors.AsType[*secrets.Error](err)
	if known {
		f.ToFix = of.Ref
	}
	switch {
	case errors.Is(err, secrets.ErrNotFound):
		f.Code = verdict.SecretNotFound
	case errors.Is(err, secrets.ErrDenied):
		f.Code = verdict.SecretDenied
	case known:
		f.ToFix, _, _ = strings.Cut(of.Ref, ":") // the store that does not respond
	}
	return f
}

// directoryOf returns a reference without the last part of its path: vault:secret/certs/ of
// vault:secret/certs/a#private_key. A reference without a path is returned as it is.
func directoryOf(ref string) string {
	path, _, _ := strings.Cut(ref, "#")
	if i := strings.LastIndex(path, "/"); i >= 0 {
		return path[:i+1]
	}
	return ref
}

// asFailure returns the verdict in an error of this package or of payload.
func asFailure(err error) *verdict.Failure {
	if f := (*verdict.Failure)(nil); errors.As(err, &f) {
		return f
	}
	return verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload, "the payload cannot be made").Because(err)
}
