package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
		if found, ok := waitingOf(raw); ok && found.Entry.Target == target && events.Token(found.Entry.Event) == token {
			return found, nil // another one has the sequence if the stream was created again
		}
	}
	return Waiting{}, ErrNoEntry
}

// NewestWaiting returns the newest of the deliveries in the stream, attempted or not, newest
// first, at most limit, and how many older ones the stream has.
func (b *Broker) NewestWaiting(ctx context.Context, limit int) (list []Waiting, older uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, waitingTimeout)
	defer cancel()
	held, err := b.HeldDeliveries(ctx)
	if err != nil {
		return nil, 0, err
	}
	var requests []string
	for sequence := held.Last; held.Messages > 0 && sequence >= held.First && len(requests) < limit; sequence-- {
		if held.Has(sequence) {
			requests = append(requests, fmt.Sprintf(`{"seq":%d}`, sequence))
		}
	}
	older = held.Messages - min(held.Messages, uint64(len(requests)))
	for part := range slices.Chunk(requests, maxPipeline) {
		answers, err := b.requestAll(ctx, DeliveriesStream, part)
		if err != nil {
			return nil, 0, b.readError(ctx, DeliveriesStream, err)
		}
		for _, answer := range answers {
			if serverHeader(answer, headerSequence) == "" {
				continue // settled since
			}
			raw, err := rawMessage(answer)
			if err != nil {
				return nil, 0, err
			}
			if w, ok := waitingOf(raw); ok {
				list = append(list, w)
			}
		}
	}
	return list, older, nil
}

// waitingOf is the delivery of a message; false if the message is none.
func waitingOf(raw *jetstream.RawStreamMsg) (Waiting, bool) {
	ev, err := events.Decode(raw.Header, raw.Data)
	if err != nil {
		return Waiting{}, false
	}
	w := Waiting{Since: raw.Time, Entry: Entry{Event: ev.ID, Target: DeliveryTarget(raw.Subject), Lane: raw.Header.Get(HeaderLane), Digest: ev.Digest(),
		State: StateWaiting, Sequence: raw.Sequence}}
	if leaf, err := ev.Leaf(); err == nil {
		w.Entry.Certificate = verdict.CertificateOf(leaf)
	}
	return w, true
}
