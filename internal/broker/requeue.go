package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// PublishCopy publishes a copy of a delivery in a lane, so that it is delivered. The copy's
// message id is made from the sequence of the original: two processes that copy the message make
// one copy, and so does a process that dies before it has removed the original and finds
// it again. The copy keeps the age of the original.
func (b *Broker) PublishCopy(ctx context.Context, msg *jetstream.RawStreamMsg, lane, target string) error {
	m := nats.NewMsg(DeliverySubject(lane, target))
	m.Data = msg.Data
	for name, values := range msg.Header {
		if !strings.HasPrefix(name, "Nats-") { // Nats- headers are about the original
			m.Header[name] = values
		}
	}
	m.Header.Set(HeaderLane, lane)
	if m.Header.Get(HeaderPublished) == "" {
		m.Header.Set(HeaderPublished, msg.Time.UTC().Format(time.RFC3339Nano))
	}
	m.Header.Set(headerOriginal, strconv.FormatUint(Birth(msg.Header, msg.Sequence), 10))
	m.Header.Set(HeaderCopyOf, strconv.FormatUint(msg.Sequence, 10))
	m.Header.Set(nats.MsgIdHdr, fmt.Sprintf("%s/d%d", msg.Header.Get(nats.MsgIdHdr), msg.Sequence))
	if _, err := b.js.PublishMsg(ctx, m); err != nil {
		return fmt.Errorf("publish delivery %d again: %w", msg.Sequence, Explain(err, DeliveriesStream))
	}
	return nil
}

// FirstPublished returns when a delivery message, stored at a time, was published; for a copy or a
// recovered delivery when the first one was.
func FirstPublished(h nats.Header, stored time.Time) time.Time {
	if first, err := time.Parse(time.RFC3339Nano, h.Get(HeaderPublished)); err == nil && first.Before(stored) {
		return first
	}
	return stored
}

// RemoveDelivery removes a message from CERTPOST_DELIVERIES. It is no error if the message
// is gone: another process has found and removed it.
func RemoveDelivery(ctx context.Context, stream jetstream.Stream, sequence uint64) error {
	if err := stream.DeleteMsg(ctx, sequence); err != nil {
		if _, gerr := stream.GetMsg(ctx, sequence); !errors.Is(gerr, jetstream.ErrMsgNotFound) {
			return fmt.Errorf("remove delivery %d: %w", sequence, err)
		}
	}
	return nil
}

// RetryNow ends the wait of a delivery, given by the sequence of its message: the server does not
// take a NAK's delay back, so a copy without one takes the message's place. The copy is stored
// before the message is removed. If the process dies in between, both are delivered, and the
// ledger lets one of them send. ErrNoEntry: the message is gone, or is another delivery's.
func (b *Broker) RetryNow(ctx context.Context, e Entry) error {
	ctx, cancel := Detached(ctx)
	defer cancel()
	stream, err := b.js.Stream(ctx, DeliveriesStream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", DeliveriesStream, err)
	}
	msg, err := stream.GetMsg(ctx, e.Sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return ErrNoEntry
	}
	if err != nil {
		return fmt.Errorf("delivery %d: %w", e.Sequence, err)
	}
	if w, ok := waitingOf(msg); !ok || w.Entry.Target != e.Target || w.Entry.Event != e.Event {
		return ErrNoEntry // the stream was created again
	}
	if err := b.PublishCopy(ctx, msg, e.Lane, e.Target); err != nil {
		return err
	}
	b.reached(PointRepublished)
	return RemoveDelivery(ctx, stream, e.Sequence)
}
