// Package delivery brings a certificate to a target: definitions and their
// validation, certificate and payload, the mail, and the conversation with the
// relay. It is the only importer of go-mail. courier.go is the way through it.
package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// Options are what the whole program says about deliveries.
type Options struct {
	// EventSecrets is what events may name.
	EventSecrets secrets.Policy
	// InvalidDates is refuse (default) or warn, for certificates that have expired
	// or are not valid yet.
	InvalidDates string
	// Product is the name in subjects and bodies; "" is Certpost.
	Product string
	// MessageIDDomain is the right side of Message-IDs; "" is the sender's domain.
	MessageIDDomain string
	// HELO is the name given to relays; "" is the host's, if it has a full one.
	HELO string
	// Readdress are the recipients that a replay may name besides the target's own.
	Readdress Recipients
}

// Courier knows the targets and delivers to them. It may be used by many at once.
type Courier struct {
	book  *Book
	store *secrets.Store
	opts  Options

	pool   *smtp.Pool
	tokens *tokens

	breakers smtp.Breakers
}

// NewCourier makes a courier for the targets in book.
func NewCourier(book *Book, store *secrets.Store, opts Options) *Courier {
	return &Courier{book: book, store: store, opts: opts, pool: smtp.NewPool(), tokens: newTokens()}
}

// Close says goodbye to the relays. Deliveries under way are not cut short.
func (c *Courier) Close() { c.pool.Close() }

// Lanes are the lanes of the targets as they are defined now.
func (c *Courier) Lanes() []string { return c.book.Current().Lanes() }

// Resolve says who gets an event: the targets it names, or those whose match
// fits. The failure is about the event as a whole.
func (c *Courier) Resolve(ctx context.Context, ev *events.Event) ([]verdict.Route, *verdict.Failure) {
	defs := c.book.Current()
	if len(ev.Targets) > 0 {
		var routes []verdict.Route
		for _, id := range ev.Targets {
			t, failure := lookUp(defs, id)
			if failure != nil {
				routes = append(routes, verdict.Route{Target: id, Failure: failure})
				continue
			}
			routes = append(routes, verdict.Route{Target: t.ID, Lane: t.Lane()})
		}
		return routes, nil
	}
	b, failure := c.certificate(ctx, ev)
	if failure != nil {
		return nil, failure
	}
	var routes []verdict.Route
	for _, t := range defs.Matching(b.Leaf, ev.Labels) {
		routes = append(routes, verdict.Route{Target: t.ID, Lane: t.Lane()})
	}
	return routes, nil
}

func lookUp(defs *Definitions, id string) (*Target, *verdict.Failure) {
	t, ok := defs.Get(id)
	why := "is not defined: add it to the targets, or correct the event"
	if ok && !t.Disabled {
		return t, nil
	}
	if ok {
		why = "is disabled: enable it"
	}
	return nil, verdict.Fail(verdict.TargetUnknown, verdict.PhaseResolve,
		fmt.Sprintf("target %q %s, then replay", legible.Clean(id, 80), why))
}

// Deliver makes one try at one delivery: the column of steps that docs/flow.md
// tells. All that can fail without the relay has failed before it is dialled.
func (c *Courier) Deliver(ctx context.Context, ev *events.Event, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	started := time.Now()
	defs := c.book.Current()
	t, failure := lookUp(defs, a.Target)
	if failure != nil {
		failure.Course = before([]verdict.Step{{Phase: failure.Phase}}, nil)
		return nil, failure
	}
	p, failure := c.provisions(ctx, t, ev)
	defer p.clear()
	steps := []verdict.Step{{Phase: verdict.PhaseSecrets, Took: time.Since(started)}}
	if failure != nil {
		steps[0].Phase = failure.Phase // the certificate may be unfit
		return nil, c.explain(defs, t, p, steps, failure)
	}
	fetched := time.Now()
	msg, failure := c.mail(t, ev, a, p)
	steps = append(steps, verdict.Step{Phase: verdict.PhaseRender, Took: time.Since(fetched)})
	if failure != nil {
		steps[1].Phase = failure.Phase
		return nil, c.explain(defs, t, p, steps, failure)
	}
	defer clear(msg.raw)
	rendered := time.Now()

	receipt, failure := c.carry(ctx, defs.ways[t.ID], p, msg, a).Verdicts()
	newQuotable(msg, p).withhold(receipt, failure)
	if receipt != nil {
		receipt.MessageID, receipt.Size = msg.messageID, len(msg.raw)
		receipt.Certificate, receipt.Secrets = verdict.CertificateOf(p.bundle.Leaf), p.versions
		receipt.Timings.Secrets, receipt.Timings.Render = fetched.Sub(started), rendered.Sub(fetched)
		receipt.Timings.Total = time.Since(started)
		receipt.Definition = defs.version(t)
	}
	if failure != nil && failure.Recipients == nil && (len(a.Accepted) > 0 || len(a.Override) > 0) {
		failure.Recipients = msg.recipients // not all whom the target names
	}
	return receipt, t.soften(c.explain(defs, t, p, steps, failure))
}

// explain adds to a failure how the attempt came to it: what it was made with, and
// what was done before a relay was asked.
func (c *Courier) explain(defs *Definitions, t *Target, p *provisions, steps []verdict.Step, f *verdict.Failure) *verdict.Failure {
	if f == nil || f.Untried {
		return f
	}
	if p != nil {
		f.Secrets = p.versions
	}
	f.Course = before(steps, f.Course)
	f.Course.Definition = defs.version(t)
	return f
}

// before puts what was done for an attempt ahead of the relay in front of what
// happened there.
func before(steps []verdict.Step, c *verdict.Course) *verdict.Course {
	if c == nil {
		c = &verdict.Course{}
	}
	c.Steps = append(slices.Clip(steps), c.Steps...)
	return c
}

// soften applies the target's wish to have refused logins or TLS failures
// tried again.
func (t *Target) soften(f *verdict.Failure) *verdict.Failure {
	if f != nil {
		f.RetryAnyway = f.Code == verdict.SMTPAuth && t.RetryAuth || f.Code == verdict.SMTPTLS && t.RetryTLS
	}
	return f
}

// provisions are what one delivery needs from elsewhere. They are cleared after
// use, however the delivery ended.
type provisions struct {
	bundle     *payload.Bundle
	key        []byte // PEM, nil when the payload has none
	passphrase []byte
	username   string
	password   secrets.Value
	vars       secrets.Vars
	versions   map[string]string // of the secrets, by reference
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
	if payload.NeedsKey(t.Payload) {
		if p.key, failure = c.privateKey(ctx, ev, p); failure != nil {
			return p, failure
		}
	}
	if payload.NeedsPassphrase(t.Payload) {
		if failure := c.sealing(ctx, t, p); failure != nil {
			return p, failure
		}
	}
	return p, c.login(ctx, t, p)
}

// sealing fetches the passphrase of the PKCS#12 file.
func (c *Courier) sealing(ctx context.Context, t *Target, p *provisions) *verdict.Failure {
	value, failure := c.secret(ctx, t.PKCS12Passphrase, p)
	if failure == nil {
		p.passphrase = value.Reveal()
	}
	return failure
}

// login fetches what AUTH needs.
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
		p.versions[ref.String()] = s.Version
	}
}

// privateKey fetches the key that the event names, within what events may name.
// An event without one gives nil; the payload says what it thinks of that.
func (c *Courier) privateKey(ctx context.Context, ev *events.Event, p *provisions) ([]byte, *verdict.Failure) {
	if ev.PrivateKey == nil {
		return nil, nil
	}
	ref, s, failure := c.fromEvent(ctx, ev.PrivateKey)
	if failure != nil {
		return nil, failure
	}
	p.remember(ref, s)
	return s.Value.Reveal(), nil
}

// certificate reads the event's certificate, from the event or from where it says.
func (c *Courier) certificate(ctx context.Context, ev *events.Event) (*payload.Bundle, *verdict.Failure) {
	text := []byte(ev.Certificate.PEM)
	if ev.Certificate.Ref != nil {
		_, s, failure := c.fromEvent(ctx, ev.Certificate.Ref)
		if failure != nil {
			return nil, failure
		}
		text = s.Value.Reveal()
	}
	b, err := payload.ParseBundle(text)
	if err != nil {
		return nil, asFailure(err)
	}
	return b, nil
}

// fromEvent fetches what an event's author names. Nothing is fetched that the
// configuration does not open to events, and nothing is kept.
func (c *Courier) fromEvent(ctx context.Context, r *events.Reference) (secrets.Ref, secrets.Secret, *verdict.Failure) {
	ref := secrets.Ref{File: r.File}
	if v := r.Vault; v != nil {
		ref.Vault = &secrets.VaultRef{Mount: v.Mount, Path: v.Path, Key: v.Key, Version: v.Version}
	}
	if v := r.Transit; v != nil {
		ref.Transit = &secrets.TransitRef{Mount: v.Mount, Key: v.Key, Ciphertext: v.Ciphertext}
	}
	if err := c.opts.EventSecrets.Allows(ref); err != nil {
		return ref, secrets.Secret{}, secretFailure(err)
	}
	s, err := c.store.Uncached(ctx, ref, nil)
	if err != nil {
		return ref, secrets.Secret{}, secretFailure(err)
	}
	return ref, s, nil
}

// secretFailure turns what happened to a secret into a verdict. The store's
// texts are ours and hold no secret.
func secretFailure(err error) *verdict.Failure {
	f := verdict.Fail(verdict.SecretUnavailable, verdict.PhaseSecrets, err.Error()).Because(err)
	switch {
	case errors.Is(err, secrets.ErrNotFound):
		f.Code = verdict.SecretNotFound
	case errors.Is(err, secrets.ErrDenied):
		f.Code = verdict.SecretDenied
	}
	return f
}

// asFailure takes the verdict out of an error of this package.
func asFailure(err error) *verdict.Failure {
	if f := (*verdict.Failure)(nil); errors.As(err, &f) {
		return f
	}
	return verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload, "the payload cannot be made").Because(err)
}

// mail builds the payload and renders the mail to memory.
func (c *Courier) mail(t *Target, ev *events.Event, a verdict.Attempt, p *provisions) (*message, *verdict.Failure) {
	now := time.Now()
	owed, others, failure := c.opts.Readdress.recipients(t, a)
	if failure != nil {
		return nil, failure
	}
	warnings, err := payload.CheckDates(p.bundle, now, c.opts.InvalidDates)
	if err != nil {
		return nil, asFailure(err)
	}
	attachments, err := payload.Build(t.Payload, t.settings(), p.bundle, p.key, p.passphrase)
	if err != nil {
		return nil, asFailure(err)
	}
	defer func() {
		for _, att := range attachments {
			clear(att.Data)
		}
	}()
	msg, err := renderMail(t, mailFacts{
		eventID: ev.ID, source: ev.Source, time: ev.Time, now: now, bundle: p.bundle, attachments: attachments,
		recipients: owed, accepted: a.Accepted, others: others, possibleDuplicate: a.PossibleDuplicate, warnings: warnings,
		product: c.opts.Product, messageIDDomain: c.opts.MessageIDDomain,
	})
	if err != nil {
		return nil, asFailure(err)
	}
	return msg, nil
}

// Render gives the mail that a target would get for an event, with key as the
// private key: the certificate's, PEM, or nil.
func (c *Courier) Render(ctx context.Context, ev *events.Event, target string, key []byte) ([]byte, *verdict.Failure) {
	t, failure := lookUp(c.book.Current(), target)
	if failure != nil {
		return nil, failure
	}
	b, failure := c.certificate(ctx, ev)
	if failure != nil {
		return nil, failure
	}
	p := newProvisions(t, b)
	p.key = key
	if payload.NeedsPassphrase(t.Payload) {
		if failure := c.sealing(ctx, t, p); failure != nil {
			return nil, failure
		}
	}
	msg, failure := c.mail(t, ev, verdict.Attempt{Target: target, Number: 1}, p)
	if failure != nil {
		return nil, failure
	}
	return msg.raw, nil
}
