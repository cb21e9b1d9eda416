package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// Waiting is a delivery in CERTPOST_DELIVERIES, as its message says: the ledger does not know it
// before the first attempt.
type Waiting struct {
	Entry Entry     // in state waiting, without attempts
	Since time.Time // when its message was stored, or the one of which it is a copy

	birth  uint64 // of its message, see Birth
	letter uint64 // that it replays; 0: none
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

// WaitingReplay looks in the stream for the message of a delivery that the ledger calls settled: a
// replay, or a resend. likely is the sequence that the audit has of it; 0: none. ErrNoEntry: none is found;
// among more than maxReplaysRead messages to the target only that one is looked for.
func (b *Broker) WaitingReplay(ctx context.Context, target, event string, likely uint64) (Waiting, error) {
	ctx, cancel := context.WithTimeout(ctx, waitingTimeout)
	defer cancel()
	is := func(w Waiting) bool { return w.Entry.Target == target && w.Entry.Event == event }
	if likely != 0 {
		raw, err := b.messageAt(ctx, DeliveriesStream, likely)
		if err == nil {
			if w, ok := waitingOf(raw); ok && is(w) {
				return w, nil
			}
		} else if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return Waiting{}, b.readError(ctx, DeliveriesStream, err)
		}
	}
	subject := DeliverySubject("*", target)
	stream, err := b.js.Stream(ctx, DeliveriesStream)
	if err != nil {
		return Waiting{}, b.readError(ctx, DeliveriesStream, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return Waiting{}, b.readError(ctx, DeliveriesStream, err)
	}
	held := uint64(0)
	for _, n := range info.State.Subjects {
		held += n
	}
	if held == 0 || held > maxReplaysRead {
		return Waiting{}, ErrNoEntry
	}
	found, err := Waiting{}, ErrNoEntry
	for raw, rerr := range b.read(ctx, DeliveriesStream, subject, 1) {
		if rerr != nil {
			return Waiting{}, rerr
		}
		if w, ok := waitingOf(raw); ok && is(w) {
			found, err = w, nil // the newest
		}
	}
	return found, err
}

// maxReplaysRead bounds what WaitingReplay reads for a page.
const maxReplaysRead = 500

// NewestWaiting returns the newest of the deliveries in the stream before a sequence (0: of all),
// attempted or not, newest first. It reads at most limit messages; older is how many it did not
// read, and next the sequence before which they are.
func (b *Broker) NewestWaiting(ctx context.Context, before uint64, limit int) (list []Waiting, older, next uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, waitingTimeout)
	defer cancel()
	held, err := b.HeldDeliveries(ctx)
	if err != nil {
		return nil, 0, 0, err
	}
	var requests []string
	next = held.Last + 1
	if before != 0 {
		next = min(next, before)
	}
	for held.Messages > 0 && next > held.First && len(requests) < limit {
		if next--; held.Has(next) {
			requests = append(requests, fmt.Sprintf(`{"seq":%d}`, next))
		}
	}
	older = held.Before(next)
	for part := range slices.Chunk(requests, maxPipeline) {
		answers, err := b.requestAll(ctx, DeliveriesStream, part)
		if err != nil {
			return nil, 0, 0, b.readError(ctx, DeliveriesStream, err)
		}
		for _, answer := range answers {
			if serverHeader(answer, headerSequence) == "" {
				continue // settled since
			}
			raw, err := rawMessage(answer)
			if err != nil {
				return nil, 0, 0, err
			}
			if w, ok := waitingOf(raw); ok {
				list = append(list, w)
			}
		}
	}
	return list, older, next, nil
}

// waitingOf is the delivery of a message; false if the message is none.
func waitingOf(raw *jetstream.RawStreamMsg) (Waiting, bool) {
	ev, err := events.Decode(raw.Header, raw.Data)
	if err != nil {
		return Waiting{}, false
	}
	lane, _, _ := strings.Cut(strings.TrimPrefix(raw.Subject, DeliveryPrefix), ".")
	w := Waiting{Since: FirstPublished(raw.Header, raw.Time), birth: Birth(raw.Header, raw.Sequence), Entry: Entry{Event: ev.ID, Target: DeliveryTarget(raw.Subject), Lane: lane, Digest: ev.Digest(),
		State: StateWaiting, Sequence: raw.Sequence}}
	w.letter, _ = strconv.ParseUint(raw.Header.Get(HeaderLetter), 10, 64)
	if leaf, err := ev.Leaf(); err == nil {
		w.Entry.Certificate = verdict.CertificateOf(leaf)
	}
	return w, true
}

// With returns the delivery of a message with what the ledger knows of it (the zero value:
// nothing), and whether it waits. It does not while an attempt may be sending, or when the ledger
// has its outcome: the message is being acknowledged then. The sequence is that of the message.
func (w Waiting) With(known Entry) (e Entry, waits bool) {
	e = w.Entry
	switch {
	case known.Event == "", known.Digest != e.Digest: // another event used the id: an attempt finds that out
	case known.Cancels(w.birth, w.letter != 0) && known.CancelDone():
		return e, false // the process that has cancelled it was killed before it removed the message
	case known.State == StateWaiting:
		e = known
		e.Lane, e.Sequence = w.Entry.Lane, w.Entry.Sequence
	case known.State.Final() && known.Sequence < e.Sequence: // a replay waits for its first attempt
		e = known
		e.State, e.Lane, e.Sequence, e.NextTry = StateWaiting, w.Entry.Lane, w.Entry.Sequence, time.Time{}
		e.Renew(time.Time{})
	default:
		return e, false
	}
	e.Wait = &Wait{Since: w.Since, Letter: w.letter}
	switch {
	case known.State.Final():
		e.Wait.Replay = max(known.Generation, 1)
	case known.Generation > 1:
		e.Wait.Replay = known.Generation - 1
	}
	return e, true
}
