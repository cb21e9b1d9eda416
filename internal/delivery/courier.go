// Package delivery delivers certificates to targets: the definitions of targets
// and their validation, the secrets, the mail, and the choice of the relay.
// Package payload builds the attachments, package smtp talks to the relay. Start
// reading at courier.go.
package delivery

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/dane"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// Options are the settings for all deliveries.
type Options struct {
	// EventSecrets says which secrets events may name.
	EventSecrets secrets.Policy
	// Sources limit what events may name by the source that published them.
	Sources Sources
	// InvalidDates is refuse (default) or warn, for certificates that have expired
	// or are not valid yet.
	InvalidDates string
	// Words are the templates of targets that have none of their own; nil for the default mail.
	Words *Words
	// Product is the name in subjects and bodies; "" is Certpost.
	Product string
	// MessageIDDomain is the right side of Message-IDs; "" is the sender's domain.
	MessageIDDomain string
	// HELO is the name in EHLO; "" is the host's name if it is a full domain, else an
	// address literal.
	HELO string
	// HostLane is the lane of the mail host that this process runs on, see HostLane; "" for none.
	HostLane string
	// Resolver asks for TLSA records; nil means the name servers of this host.
	Resolver *dane.Resolver
	// ExpiryWarning is how long before its end a recipient's key is reported; 0 means KeyWarning.
	ExpiryWarning time.Duration
	// Deployed, when set, is called after files on this mail host were replaced.
	Deployed func()
	// Reached, when set, is called at the named points of a deployment; for tests.
	Reached func(point string)
	// Readdress are the recipients that a replay may name besides the target's own.
	Readdress Recipients
}

// Courier knows the targets and delivers to them. It is safe for concurrent use.
type Courier struct {
	book    *Book
	store   *secrets.Store
	opts    Options
	sources *sourceBook

	pool   *smtp.Pool
	tokens *tokens

	shown    relayCertificates
	breakers smtp.Breakers
	bundles  payload.Cache
	files    payload.Shared
}

// NewCourier returns a courier for the targets in book.
func NewCourier(book *Book, store *secrets.Store, opts Options) *Courier {
	if opts.Resolver == nil {
		opts.Resolver = &dane.Resolver{}
	}
	return &Courier{book: book, store: store, opts: opts, sources: newSourceBook(opts.Sources, opts.EventSecrets), pool: smtp.NewPool(), tokens: newTokens()}
}

// Close closes the idle connections to the relays. It does not interrupt deliveries
// that are in progress.
func (c *Courier) Close() { c.pool.Close() }

// Lanes returns the lanes of the current targets.
func (c *Courier) Lanes() []string { return c.book.Current().Lanes() }

// LaneOf returns the lane of a target; false if the target is not defined or disabled.
func (c *Courier) LaneOf(target string) (lane string, ok bool) {
	t, failure := lookUp(c.book.Current(), target)
	if failure != nil {
		return "", false
	}
	return t.Lane(), true
}

// Resolve returns the targets that get an event: those that it names, or those
// that match it, as far as they are opened to the event's source. The failure concerns the
// event as a whole.
func (c *Courier) Resolve(ctx context.Context, ev *events.Event) ([]verdict.Route, *verdict.Failure) {
	defs := c.book.Current()
	may, failure := c.sources.of(ev)
	if failure != nil {
		return nil, failure
	}
	ev.ChainVerified = false // nothing that resolves an event trusts what it says
	if len(ev.Targets) > 0 {
		if ev.Certificate.Ref == nil {
			_, _ = c.verified(ctx, ev) // a certificate that cannot be delivered is each delivery's failure
		}
		return c.named(defs, may, ev.Targets), nil
	}
	b, failure := c.verified(ctx, ev)
	if failure != nil {
		return nil, failure
	}
	matching, failure := may.filter(defs.Matching(b.Leaf, ev.Labels))
	if failure != nil {
		return nil, failure
	}
	var routes []verdict.Route
	for _, t := range matching {
		routes = append(routes, verdict.Route{Target: t.ID, Lane: t.Lane()})
	}
	return routes, nil
}

// named returns the routes to the targets that an event names, one for each: it may name one by its
// id and by former ids.
func (c *Courier) named(defs *Definitions, may rights, ids []string) (routes []verdict.Route) {
	for _, named := range ids {
		id := defs.current(named)
		failure := may.target(id) // first: a source learns nothing of targets of others
		if failure != nil {
			if unknown := may.target(named); unknown != nil {
				id, failure = named, unknown
			}
		}
		if slices.ContainsFunc(routes, func(r verdict.Route) bool { return r.Target == id }) {
			continue
		}
		var t *Target
		if failure == nil {
			t, failure = lookUp(defs, id)
		}
		if failure != nil {
			routes = append(routes, verdict.Route{Target: id, Failure: failure})
			continue
		}
		routes = append(routes, verdict.Route{Target: t.ID, Lane: t.Lane()})
	}
	return routes
}

// verified returns the event's certificate, and notes in the event that the chain was verified,
// so that its deliveries need not verify it again.
func (c *Courier) verified(ctx context.Context, ev *events.Event) (*payload.Bundle, *verdict.Failure) {
	b, failure := c.certificate(ctx, ev)
	ev.ChainVerified = failure == nil && b.Verified && ev.Certificate.Ref == nil
	return b, failure
}

func lookUp(defs *Definitions, id string) (*Target, *verdict.Failure) {
	t, ok := defs.Get(id)
	why := "is not defined: add it to the targets, or correct the event"
	if ok && !t.Disabled {
		return t, nil
	}
	now, renamed := defs.byFormerID[id]
	switch {
	case ok:
		why = "is disabled: enable it"
	case renamed && now.Disabled:
		why = fmt.Sprintf("is a former id of %s, which is disabled: enable that", now.ID)
	case renamed:
		why = fmt.Sprintf("is a former id of %s, where the replay goes: check that its recipients are the right ones", now.ID)
	}
	return nil, verdict.Fail(verdict.TargetUnknown, verdict.PhaseResolve,
		fmt.Sprintf("target %q %s, then replay", legible.Clean(id, 80), why))
}
