package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// ErrNotResendable is the refusal to send an event to a target again.
var ErrNotResendable = errors.New("it cannot be sent again")

// Resend says how to send again what was delivered.
type Resend struct {
	Target, Lane string // the delivery's own target, or another one, in its present lane
	// FormerIDs are the ids that Target had before: what was delivered under one was delivered to it.
	FormerIDs []string
	// Permits, if set, is asked whether the event may go to Target. Its error is that of Resendable.
	Permits func(StoredEvent) error
	Force   bool // to another target: also if the event was delivered there
	Reason  string
}

// Resendable returns the event of a delivery and the entry of the target that is to get it, the zero
// value if there is none. The error is an ErrNotResendable that says why not, or ErrNoEvent.
func (b *Broker) Resendable(ctx context.Context, e Entry, how Resend) (StoredEvent, Entry, error) {
	none := func(format string, args ...any) (StoredEvent, Entry, error) {
		return StoredEvent{}, Entry{}, fmt.Errorf("event %s to %s: %w: %s", e.Event, how.Target, ErrNotResendable, fmt.Sprintf(format, args...))
	}
	token := events.Token(e.Event)
	known, err := b.delivery(ctx, LedgerKey(how.Target, token))
	if err != nil {
		return StoredEvent{}, Entry{}, err
	}
	var there Entry
	if len(known) > 0 {
		there = known[0]
	}
	if there.Event == "" {
		if there, err = b.FormerEntry(ctx, how.Target, how.FormerIDs, token); err != nil && !errors.Is(err, ErrNoEntry) {
			return StoredEvent{}, Entry{}, err
		}
	}
	other := how.Target != e.Target && !slices.Contains(how.FormerIDs, e.Target)
	switch {
	case there.Event != "" && there.Digest != e.Digest:
		return none("its event id was used for another certificate there")
	case there.Event == "" && other:
	case there.State == StateSent && (!other || how.Force), there.State == StateSkipped && other && how.Force:
	case there.State == StateSent:
		return none("it was delivered there: force sends it a second time")
	case there.State == StateWaiting, there.State == StateSending:
		return none("a delivery of it waits already, or is being sent: certpost deliveries retry tries it now")
	case there.State == StateDead:
		return none("it is a dead letter: replay that")
	case there.State == StateDiscarded:
		return none("it is a discarded dead letter: restore and replay that")
	case there.State == StateSkipped && other:
		return none("the target has a newer certificate, so it was skipped there: force sends it all the same")
	default:
		return none("it was not delivered")
	}
	w, err := b.WaitingReplay(ctx, how.Target, e.Event, 0)
	if err == nil {
		if _, waits := w.With(there); waits {
			return none("a delivery of it waits already: certpost deliveries retry tries it now, certpost deliveries cancel ends its wait")
		}
	} else if !errors.Is(err, ErrNoEntry) {
		return StoredEvent{}, Entry{}, err
	}
	ev, err := b.eventOf(ctx, e)
	if errors.Is(err, ErrNoEvent) {
		err = fmt.Errorf("event %s: %w: it has expired or was removed there, and the ledger keeps no certificates; publish the certificate again under a new id", e.Event, ErrNoEvent)
	}
	if err == nil && how.Permits != nil {
		err = how.Permits(ev)
	}
	return ev, there, err
}

// eventOf returns the event of a delivery. The entry of a delivery to a target that was changed for a
// replay does not say where it is; those of the event's other deliveries do.
func (b *Broker) eventOf(ctx context.Context, e Entry) (StoredEvent, error) {
	entries := []Entry{e}
	if e.EventSequence == 0 {
		var err error
		if entries, err = b.Deliveries(ctx, "", e.Event); err != nil {
			return StoredEvent{}, err
		}
	}
	for _, one := range entries {
		if one.EventSequence == 0 || one.Digest != e.Digest {
			continue
		}
		ev, err := b.EventAt(ctx, one.EventSequence, events.Token(e.Event))
		if err == nil && ev.Digest() != e.Digest {
			err = ErrNoEvent
		}
		if !errors.Is(err, ErrNoEvent) {
			return ev, err
		}
	}
	return StoredEvent{}, ErrNoEvent
}

// Resend publishes the event of a delivery again for a target, as a replay is published: a delivery
// that is sent although the ledger says `sent`, or for another target its first one. The audit has an
// intent before, and the outcome with the sequence of the new message, which it returns. Two orders
// at the same time make one delivery; the second gets an ErrNotResendable.
func (b *Broker) Resend(ctx context.Context, e Entry, by Actor, how Resend) (sequence uint64, err error) {
	if how.Reason, err = CheckReason(how.Reason, true); err != nil {
		return 0, err
	}
	if !events.IsToken(how.Target) || !events.IsToken(how.Lane) {
		return 0, fmt.Errorf("event %s: invalid target %q or lane %q", e.Event, how.Target, how.Lane)
	}
	if err := b.knownLane(ctx, how.Lane); err != nil {
		return 0, err
	}
	ev, there, err := b.Resendable(ctx, e, how)
	if err != nil {
		return 0, err
	}
	r := AuditRecord{Action: ActionResent, Stage: StageIntent, Actor: by, Reason: how.Reason, Event: e.Event, Target: e.Target, Lane: how.Lane, Generation: there.Generation + 1}
	if how.Target != e.Target {
		r.NewTarget = how.Target
	}
	if err := b.Append(ctx, r); err != nil {
		return 0, fmt.Errorf("the audit has no record of the order, so it was not carried out: %w", err)
	}
	ctx, cancel := Detached(ctx)
	defer cancel()
	b.reached(PointIntended)
	m := resendOf(ev, there, how)
	ack, err := b.js.PublishMsg(ctx, m)
	if err == nil && ack.Duplicate {
		if _, gone := b.messageAt(ctx, DeliveriesStream, ack.Sequence); errors.Is(gone, jetstream.ErrMsgNotFound) {
			// An earlier order with this id was cancelled.
			m.Header.Set(nats.MsgIdHdr, m.Header.Get(nats.MsgIdHdr)+"/"+nuid.Next())
			ack, err = b.js.PublishMsg(ctx, m)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("event %s to %s: %w", e.Event, how.Target, Explain(err, DeliveriesStream))
	}
	if ack.Duplicate {
		return 0, fmt.Errorf("event %s to %s: %w: another order has just done it", e.Event, how.Target, ErrNotResendable)
	}
	b.reached(PointRepublished)
	r.Stage, r.Delivery = StageOutcome, ack.Sequence
	return ack.Sequence, b.Append(ctx, r)
}

// resendOf is the message that sends an event to a target again; there is the target's entry. Its id
// is that of the next generation, as a replay's is.
func resendOf(ev StoredEvent, there Entry, how Resend) *nats.Msg {
	m := nats.NewMsg(DeliverySubject(how.Lane, how.Target))
	m.Data = ev.Encode()
	gen := strconv.Itoa(there.Generation + 1)
	m.Header.Set(nats.MsgIdHdr, events.Token(ev.ID)+"/"+how.Target+"/"+gen)
	m.Header.Set(HeaderEventID, HeaderText(ev.ID))
	m.Header.Set(HeaderTarget, how.Target)
	m.Header.Set(HeaderLane, how.Lane)
	m.Header.Set(HeaderGeneration, gen)
	m.Header.Set(HeaderEventSequence, strconv.FormatUint(ev.Sequence, 10))
	m.Header.Set(HeaderEventSubject, HeaderText(ev.Subject)) // the source's limits hold again
	first := verdict.ParsePublication(nats.Header(ev.Headers).Get(HeaderPublication))
	m.Header.Set(HeaderPublication, verdict.Publication{Sequence: ev.Sequence, At: ev.Published}.Earlier(first).String())
	if there.Event != "" {
		m.Header.Set(HeaderForce, "true")
	}
	return m
}
