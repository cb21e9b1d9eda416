package broker

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// Waiting is a delivery that waits in CERTPOST_DELIVERIES for its first attempt: the ledger
// does not know it yet.
type Waiting struct {
	Entry Entry     // in state waiting, without attempts
	Since time.Time // when its message was stored
}

// waitingTimeout bounds the search for a delivery in the manifest, which has some hundred bytes
// for each event of the last 30 days.
const waitingTimeout = 5 * time.Second

// WaitingDelivery looks for the delivery of an event, given by its id, to a target among those
// that wait in the stream. ErrNoEntry: none waits, or its message was published again by
// another client, which the manifest does not show.
func (b *Broker) WaitingDelivery(ctx context.Context, target, event string) (Waiting, error) {
	ctx, cancel := context.WithTimeout(ctx, waitingTimeout)
	defer cancel()
	token := events.Token(event)
	var sequences []uint64
	for m, err := range b.ReadManifest(ctx, 1) {
		if err != nil {
			return Waiting{}, err
		}
		for _, e := range m.Events {
			if e.Token != token {
				continue
			}
			for _, d := range e.Deliveries {
				if d.Target == target {
					sequences = append(sequences, d.Sequence)
				}
			}
		}
	}
	for _, sequence := range sequences {
		raw, err := b.messageAt(ctx, DeliveriesStream, sequence)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			continue // settled
		case err != nil:
			return Waiting{}, b.readError(ctx, DeliveriesStream, err)
		}
		if found, ok := waitingOf(raw, target, token); ok {
			return found, nil
		}
	}
	return Waiting{}, ErrNoEntry
}

// waitingOf is the delivery of a message; false if it is another one, because the stream was
// created again.
func waitingOf(raw *jetstream.RawStreamMsg, target, token string) (Waiting, bool) {
	ev, err := events.Decode(raw.Header, raw.Data)
	if err != nil || events.Token(ev.ID) != token || DeliveryTarget(raw.Subject) != target {
		return Waiting{}, false
	}
	w := Waiting{Since: raw.Time, Entry: Entry{Event: ev.ID, Target: target, Lane: raw.Header.Get(HeaderLane), Digest: ev.Digest(),
		State: StateWaiting, Sequence: raw.Sequence}}
	if leaf, err := ev.Leaf(); err == nil {
		w.Entry.Certificate = verdict.CertificateOf(leaf)
	}
	return w, true
}
