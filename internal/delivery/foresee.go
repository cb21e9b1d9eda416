package delivery

import (
	"context"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/mailhost"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// Foresee returns the targets that an event would go to, those that cannot get it with the
// failure that a delivery would have. It applies the rules of a delivery that need neither
// secrets nor relays, so without a failure a delivery may still fail. The event contains
// its certificate, not a reference to it.
//
// The publisher's configuration may say nothing about the secrets that events may name; then
// their references are not judged.
func (c *Courier) Foresee(ctx context.Context, ev *events.Event) ([]verdict.Route, *verdict.Failure) {
	b, failure := c.certificate(ctx, ev)
	if failure != nil {
		return nil, failure
	}
	routes, failure := c.Resolve(ctx, ev)
	if failure != nil {
		return nil, failure
	}
	defs := c.book.Current()
	for i, route := range routes {
		if t, ok := defs.Get(route.Target); ok && route.Failure == nil {
			routes[i].Failure = c.foresee(ctx, t, b, ev)
		}
	}
	return routes, nil
}

// foresee returns why a delivery to a target must fail, nil if it may succeed.
func (c *Courier) foresee(ctx context.Context, t *Target, b *payload.Bundle, ev *events.Event) *verdict.Failure {
	if _, err := c.certificateWarnings(t, b, time.Now()); err != nil {
		return asFailure(err)
	}
	if t.onHost() {
		return c.foreseeHost(t, b, ev)
	}
	t, failure := t.addressed(b, ev)
	if failure != nil {
		return failure
	}
	p := newProvisions(t, b)
	settings := t.settings(p.vars)
	if err := settings.RequireKey(ev.PrivateKey != nil); err != nil {
		return asFailure(err)
	}
	if settings.NeedsKey() {
		return c.mayName(ev)
	}
	if settings.Passphrase() != "" || t.encrypts() || !t.Sign.IsZero() || !t.DKIM.IsZero() {
		return nil // the mail cannot be made without these secrets
	}
	msg, failure := (&attempt{Courier: c, order: verdict.Attempt{Target: t.ID, Number: 1}, event: ev, target: t, p: p}).preview(ctx)
	msg.release()
	return failure
}

// foreseeHost is foresee for a target on a mail host.
func (c *Courier) foreseeHost(t *Target, b *payload.Bundle, ev *events.Event) *verdict.Failure {
	if ev.PrivateKey == nil && t.needsKey() {
		return verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload, "a mail host needs the private key, but the event has no private_key; publish it with private_key")
	}
	d := t.deployment()
	if roots, err := t.PostDeployVerify.roots(); err == nil { // the file may be on the host only
		d.Verify.Roots = roots
	}
	if err := mailhost.CheckCertificate(d, b, time.Now()); err != nil {
		return deployFailure(err)
	}
	if ev.PrivateKey == nil {
		return nil
	}
	return c.mayName(ev)
}

// mayName returns why an event may not name its private key, nil if it may or if the configuration
// has no rules for that.
func (c *Courier) mayName(ev *events.Event) *verdict.Failure {
	may, failure := c.sources.of(ev)
	if failure != nil || !c.sources.limited && may.secrets.IsZero() {
		return failure
	}
	if err := may.secrets.Allows(refOf(ev.PrivateKey)); err != nil {
		return secretFailure(err)
	}
	return nil
}

// refOf returns an event's reference as one of the secret store.
func refOf(r *events.Reference) secrets.Ref {
	ref := secrets.Ref{File: r.File}
	if v := r.Vault; v != nil {
		ref.Vault = &secrets.VaultRef{Mount: v.Mount, Path: v.Path, Key: v.Key, Version: v.Version}
	}
	if v := r.Transit; v != nil {
		ref.Transit = &secrets.TransitRef{Mount: v.Mount, Key: v.Key, Ciphertext: v.Ciphertext}
	}
	return ref
}
