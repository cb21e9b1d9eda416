package desk

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// Resolver may be implemented by a Deliverer: why an event does not go to a target by the definitions
// of now; nil if it does.
type Resolver interface {
	Reaches(ctx context.Context, ev *events.Event, target string) error
}

// ResendSelection selects deliveries that were sent: those that all its conditions match.
type ResendSelection struct {
	Query DeliveryQuery
	Named []DeliveryName // if not nil, only these
	// WithSuperseded includes certificates of which the target has a newer one.
	WithSuperseded bool
	// To is another target that gets the events; "": the same again. Each event must go to it by the
	// definitions of now, as it would if it were published now.
	To    string
	Force bool // with To: also events that were delivered there
}

// ResendContents is what a selection has now.
type ResendContents struct {
	DeliveryContents
	Hash       string `json:"hash"`       // of the selection, for the order
	Superseded int    `json:"superseded"` // left out, because the target has a newer certificate
	// Parts are the preflights of one delivery of each target, of at most 20.
	Parts []ResendPreflight `json:"parts,omitempty"`
}

// ResendPreflight is the preflight of one delivery, which stands for those to its target.
type ResendPreflight struct {
	Target string `json:"target"`
	Event  string `json:"event"` // that was examined
	verdict.Preflight
}

// MaxResent is the maximum number of deliveries in one order to resend: each is a mail that a mistake sends twice.
const MaxResent = 1000

// names returns the deliveries that the selection names and says no more of; nil if it does not.
func (s *ResendSelection) names() []DeliveryName {
	q := s.Query
	q.State = ""
	switch {
	case q == (DeliveryQuery{}) && s.Named != nil:
		return s.Named
	case q == (DeliveryQuery{Target: q.Target, Event: q.Event}) && q.Target != "" && q.Event != "" && s.Named == nil:
		return []DeliveryName{{q.Target, q.Event}}
	}
	return nil
}

// resendable returns the selected deliveries, newest first. If it names some and none was sent, the
// error says in which state the first is, and which command is for that.
func (d *Desk) resendable(ctx context.Context, s ResendSelection) (all []broker.Entry, superseded int, err error) {
	if s.Query.State != "" && s.Query.State != broker.StateSent {
		return nil, 0, invalid("only deliveries in state sent can be sent again, not %s: replay dead letters, retry what waits", s.Query.State)
	}
	s.Query.State = broker.StateSent
	take := func(e broker.Entry) {
		if !s.WithSuperseded && d.isSuperseded(cmp.Or(s.To, e.Target), &e) {
			superseded++
		} else {
			all = append(all, e)
		}
	}
	if names := s.names(); len(names) > 0 { // read from the ledger: the index is behind it
		for _, n := range names {
			found, err := d.b.Deliveries(ctx, n.Target, n.Event)
			if err != nil {
				return nil, 0, err
			}
			for _, e := range found {
				if e.State == broker.StateSent {
					take(e)
				}
			}
		}
		if len(all)+superseded == 0 {
			return nil, 0, d.presently(ctx, names[0], broker.ErrNotResendable)
		}
		return all, superseded, nil
	}
	named := WaitSelection{Named: s.Named}
	for after := uint64(0); ; {
		page, err := d.Deliveries(ctx, s.Query, after, maxPage)
		if err != nil {
			return nil, 0, err
		}
		for _, e := range page.Entries {
			if named.has(&e) {
				take(e)
			}
		}
		if len(all) > MaxResent {
			return nil, 0, invalid("more than %d deliveries are selected, the maximum of one order to resend: narrow the filter, by target or time", MaxResent)
		}
		if after = page.Next; after == 0 {
			return all, superseded, nil
		}
	}
}

// isSuperseded reports whether the target was sent a newer certificate for the names of the delivery's.
func (d *Desk) isSuperseded(target string, e *broker.Entry) bool {
	c := e.Certificate
	if c == nil {
		return false
	}
	names := namesOf(c)
	if len(names) == 0 {
		return false
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	newest, known := d.deliveries.newest[d.deliveries.hash.of(target, names[0], c.KeyType)]
	return known && newest.notBefore > seconds(c.NotBefore) && d.deliveries.covers(newest.revision, names)
}

// ResendContents returns what is in a selection, and with examine whether its targets would get the
// mails now: everything that a delivery needs is checked, and nothing is sent.
func (d *Desk) ResendContents(ctx context.Context, s ResendSelection, examine bool) (out ResendContents, err error) {
	entries, superseded, err := d.resendable(ctx, s)
	if err != nil {
		return out, err
	}
	t := d.newTallies()
	to, known := d.targetView(s.To)
	for _, e := range entries {
		if s.To != "" {
			e.Target, e.Accepted = s.To, nil
		}
		if known {
			e.Lane = to.Lane
		}
		t.add(&e)
	}
	out = ResendContents{DeliveryContents: t.contents(), Hash: hashDeliveries(entries), Superseded: superseded}
	if !examine {
		return out, nil
	}
	seen := map[string]bool{}
	begin, cancel := context.WithTimeout(ctx, examinedWithin)
	defer cancel()
	for i := range entries {
		target := cmp.Or(s.To, entries[i].Target)
		if seen[target] || len(seen) == maxExaminedParts || begin.Err() != nil {
			continue
		}
		seen[target] = true
		out.Parts = append(out.Parts, ResendPreflight{Target: target, Event: entries[i].Event, Preflight: verdict.NewPreflight(d.examineResend(ctx, entries[i], s))})
	}
	return out, nil
}

// examineResend checks everything that sending a delivery again needs.
func (d *Desk) examineResend(ctx context.Context, e broker.Entry, s ResendSelection) []verdict.Finding {
	fails := func(err error) []verdict.Finding {
		return []verdict.Finding{{What: "event", Status: verdict.Error, Message: err.Error()}}
	}
	how, err := d.howToResend(ctx, e, s, "")
	if err != nil {
		return fails(err)
	}
	ev, _, err := d.b.Resendable(ctx, e, how)
	if err != nil {
		return fails(err)
	}
	return d.deliverer.Examine(ctx, verdict.Trial{Target: how.Target, Event: ev.Encode(),
		From: verdict.Origin{Subject: ev.Subject, Published: verdict.Publication{Sequence: ev.Sequence, At: ev.Published}}})
}

// howToResend returns target and lane of a resend, as they are defined now.
func (d *Desk) howToResend(ctx context.Context, e broker.Entry, s ResendSelection, reason string) (broker.Resend, error) {
	how := broker.Resend{Target: cmp.Or(s.To, e.Target), Force: s.Force, Reason: reason}
	view, known := d.targetView(how.Target)
	if now, renamed := d.redirected(how.Target); renamed {
		view, known, how.Target = now, true, now.ID
	}
	how.FormerIDs = view.FormerIDs
	how.Permits = func(ev broker.StoredEvent) error { return d.reaches(ctx, ev, e, how) }
	switch {
	case !known:
		return how, refused{fmt.Errorf("target %q is not defined: define it, or give another one", how.Target), ErrNotFound}
	case view.Disabled:
		return how, refused{fmt.Errorf("target %q is disabled", how.Target), broker.ErrNotResendable}
	}
	how.Lane = view.Lane
	return how, nil
}

// reaches checks that an event goes to another target than that of its delivery.
func (d *Desk) reaches(ctx context.Context, ev broker.StoredEvent, e broker.Entry, how broker.Resend) error {
	resolver, ok := d.deliverer.(Resolver)
	if how.Target == e.Target || !ok || slices.Contains(how.FormerIDs, e.Target) {
		return nil
	}
	if err := resolver.Reaches(ctx, ev.Event, how.Target); err != nil {
		return refused{fmt.Errorf("event %s to %s: %w", e.Event, how.Target, err), broker.ErrNotResendable}
	}
	return nil
}

// Resent is the result of an order to resend.
type Resent struct {
	Done    int             `json:"done"` // deliveries that were published
	Refused []RefusedResend `json:"refused,omitempty"`
}

// RefusedResend is a delivery that was not sent again.
type RefusedResend struct {
	DeliveryName
	Reason string `json:"reason"`
}

// Resend sends the selected deliveries again, with a reason. hash, if not "", is that of
// ResendContents: the error is ErrChanged if other deliveries are selected now. What cannot be sent
// again is in Refused; if it is all, the first refusal is the error.
func (d *Desk) Resend(ctx context.Context, by broker.Actor, s ResendSelection, hash, reason string) (out Resent, err error) {
	if reason, err = broker.CheckReason(reason, true); err != nil {
		return out, err
	}
	entries, superseded, err := d.resendable(ctx, s)
	switch {
	case err != nil:
		return out, err
	case hash != "" && hash != hashDeliveries(entries):
		return out, ErrChanged
	case len(entries) == 0 && superseded > 0:
		return out, refused{fmt.Errorf("nothing is sent again: %d matching, of which the target has a newer certificate; include superseded ones to send them all the same", superseded), broker.ErrNotResendable}
	case len(entries) == 0:
		return out, refused{errors.New("no delivery in state sent matches; certpost deliveries list shows their states"), broker.ErrNotResendable}
	}
	var first error
	for _, e := range slices.Backward(entries) { // the oldest first
		switch err := d.resend(ctx, by, e, s, reason); {
		case err == nil:
			out.Done++
		case errors.Is(err, broker.ErrNotResendable), errors.Is(err, broker.ErrNoEvent), errors.Is(err, ErrNotFound):
			first = cmp.Or(first, err)
			out.Refused = append(out.Refused, RefusedResend{DeliveryName{cmp.Or(s.To, e.Target), e.Event}, err.Error()})
		default:
			return out, fmt.Errorf("%d of %d deliveries were sent again, then an error: %w", out.Done, len(entries), err)
		}
	}
	d.listeners.notify(Change{Audit: true, Lanes: true})
	if out.Done == 0 {
		return out, first
	}
	return out, nil
}

func (d *Desk) resend(ctx context.Context, by broker.Actor, e broker.Entry, s ResendSelection, reason string) error {
	how, err := d.howToResend(ctx, e, s, reason)
	if err != nil {
		return err
	}
	_, err = d.b.Resend(ctx, e, by, how)
	return err
}

// hashDeliveries is the hash of a selection: which deliveries, in which generation.
func hashDeliveries(entries []broker.Entry) string {
	sum := sha256.New()
	for _, e := range entries {
		fmt.Fprintf(sum, "%s\n%s\n%d\n", e.Target, events.Token(e.Event), e.Generation)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
