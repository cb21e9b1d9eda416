// Package delivery brings a certificate to a target: definitions and their
// validation, certificate and payload, the mail, and the conversation with the
// relay. It is the only importer of go-mail. courier.go is the way through it.
package delivery

import (
	"context"
	"fmt"

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
		if failure := c.fetchPassphrase(ctx, t, p); failure != nil {
			return nil, failure
		}
	}
	msg, failure := (&attempt{Courier: c, order: verdict.Attempt{Target: target, Number: 1}, event: ev, target: t, p: p}).render()
	if failure != nil {
		return nil, failure
	}
	return msg.raw, nil
}
