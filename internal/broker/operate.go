package broker

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/certpost/certpost/internal/events"
)

// isEventSubject reports whether events are published to a subject.
func isEventSubject(subject string) bool {
	_, ok := events.SourceOf(subject)
	return ok
}

// Publish publishes an event to Certpost, on its Subject ("" is EventSubject), and returns once the stream has stored it. The
// same event again, within the stream's window, is a duplicate and no error; sequence is then
// that of the first. Another event is never one, even with the same id.
func (b *Broker) Publish(ctx context.Context, ev *events.Event) (sequence uint64, duplicate bool, err error) {
	subject := cmp.Or(ev.Subject, EventSubject)
	m := nats.NewMsg(subject)
	m.Data = ev.Encode()
	id := publicationID(ev)
	m.Header.Set(nats.MsgIdHdr, id)
	ack, err := b.js.PublishMsg(ctx, m)
	if err == nil && ack.Duplicate && !b.stores(ctx, ack.Sequence, ev) {
		// The message id was used for something else, or what it was used for is gone. Stored
		// twice, an event is still delivered once; taken for a duplicate, it would be lost.
		m.Header.Set(nats.MsgIdHdr, id+"/"+nuid.Next())
		ack, err = b.js.PublishMsg(ctx, m)
	}
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) {
		return 0, false, fmt.Errorf("no stream for %s at %s: start `certpost run` once to create %s", subject, b.URL(), EventsStream)
	}
	if err != nil {
		return 0, false, fmt.Errorf("publish the event: %w", Explain(err, EventsStream))
	}
	return ack.Sequence, ack.Duplicate, nil
}

// Unpublishable reports whether Publish failed because of the event: the same event will
// fail again.
func Unpublishable(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, nats.ErrMaxPayload) || errors.As(err, &api) && api.ErrorCode == codeMessageTooLarge
}

// publicationID is the Nats-Msg-Id of an event: its id, and a hash of what is delivered. With the id alone, the stream would drop the same
// certificate for other targets, and another certificate under the same id.
func publicationID(ev *events.Event) string {
	sum := sha256.Sum256(substance(ev))
	return events.Token(ev.ID) + "/" + hex.EncodeToString(sum[:16])
}

// substance is the event in its canonical form, without its time, which differs when a hook runs
// again, and without its source: neither changes who gets what.
func substance(ev *events.Event) []byte {
	e := *ev
	e.Time, e.Source = time.Time{}, ""
	return e.Encode()
}

// compareTimeout bounds the reading of the event that a duplicate is compared with.
const compareTimeout = 2 * time.Second

// stores reports whether the stream has this event at a sequence. Anybody who
// may publish can use any message id.
func (b *Broker) stores(ctx context.Context, sequence uint64, ev *events.Event) bool {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	there, err := b.leaderGet(ctx, EventsStream, getRequest{Seq: sequence})
	return err == nil && same(there, ev)
}

// same reports whether a message of the stream is this event, published on its subject.
func same(there *jetstream.RawStreamMsg, ev *events.Event) bool {
	if there.Subject != cmp.Or(ev.Subject, EventSubject) {
		return false
	}
	stored, err := events.Decode(there.Header, there.Data)
	return err == nil && bytes.Equal(substance(stored), substance(ev))
}

// Known reports whether an event that may have been published earlier, longer ago than the
// stream's duplicate window, is in the stream. It finds the last event on the subject, and those
// that the ledger knows. It reports false if that cannot be found out, as by a user who may only
// publish: the ledger then keeps a second publication from being delivered again.
func (b *Broker) Known(ctx context.Context, ev *events.Event) bool {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	if last, err := b.leaderGet(ctx, EventsStream, getRequest{Last: cmp.Or(ev.Subject, EventSubject)}); err == nil && same(last, ev) {
		return true
	}
	entries, err := b.Deliveries(ctx, "", ev.ID)
	return err == nil && slices.ContainsFunc(entries, func(e Entry) bool { return e.EventSequence != 0 && b.stores(ctx, e.EventSequence, ev) })
}

// Deliveries returns the ledger entries of a target and an event id, newest attempt last;
// "" stands for all. The context bounds the reading.
func (b *Broker) Deliveries(ctx context.Context, target, event string) ([]Entry, error) {
	if target != "" && event != "" {
		return b.delivery(ctx, LedgerKey(target, events.Token(event)))
	}
	l, err := b.OpenLedger(ctx)
	if err != nil {
		return nil, err
	}
	filter := "*.*"
	if target != "" {
		filter = target + ".*"
	} else if event != "" {
		filter = "*." + events.Token(event)
	}
	w, err := l.kv.Watch(ctx, filter, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	defer w.Stop()
	var all []Entry
	for {
		select {
		case <-ctx.Done():
			return all, fmt.Errorf("read the ledger: %w", ctx.Err())
		case kve, ok := <-w.Updates():
			if !ok || kve == nil {
				return all, nil
			}
			e, err := readEntry(kve.Value())
			if err != nil {
				return all, fmt.Errorf("ledger entry %s cannot be read: %w", kve.Key(), err)
			}
			all = append(all, e)
		}
	}
}

// delivery returns the entry with a key, if there is one. It makes one request to the
// leader, which takes no longer in a large ledger.
func (b *Broker) delivery(ctx context.Context, key string) ([]Entry, error) {
	raw, err := b.leaderGet(ctx, "KV_"+LedgerBucket, getRequest{Last: "$KV." + LedgerBucket + "." + key})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, b.readError(ctx, "KV_"+LedgerBucket, err)
	}
	c := ledgerChange(raw)
	switch {
	case c.Deleted:
		return nil, nil
	case c.Unreadable:
		return nil, fmt.Errorf("%w: inspect it with `nats kv get %s %s`", ErrUnreadableEntry, LedgerBucket, key)
	}
	return []Entry{c.Entry}, nil
}

// Backlog is the number of messages that wait in the streams.
type Backlog struct {
	Events     uint64    `json:"events"`     // not yet fanned out
	Deliveries uint64    `json:"deliveries"` // not yet settled
	Dead       uint64    `json:"dead"`       // open dead letters
	Oldest     time.Time `json:"oldest,omitzero"`
}

// Backlog counts the waiting messages; it makes four requests.
func (b *Broker) Backlog(ctx context.Context) (Backlog, error) {
	var out Backlog
	// From the stream's last sequence, not from the consumer's own count, which
	// lags behind what the stream has acknowledged.
	events, err := b.js.Stream(ctx, EventsStream)
	if err != nil {
		return out, fmt.Errorf("stream %s: %w", EventsStream, err)
	}
	c, err := events.Consumer(ctx, FanoutConsumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound): // the process that makes it has just started
		out.Events = events.CachedInfo().State.Msgs
	case err != nil:
		return out, fmt.Errorf("consumer %s: %w", FanoutConsumer, err)
	default:
		info := c.CachedInfo()
		out.Events = uint64(info.NumAckPending)
		if last := events.CachedInfo().State.LastSeq; last > info.Delivered.Stream {
			out.Events += last - info.Delivered.Stream
		}
	}
	// In this order: deliveries are counted even if the stream of dead letters is missing.
	deliveries, err := b.js.Stream(ctx, DeliveriesStream)
	if err != nil {
		return out, fmt.Errorf("stream %s: %w", DeliveriesStream, err)
	}
	if out.Deliveries = deliveries.CachedInfo().State.Msgs; out.Deliveries > 0 {
		out.Oldest = deliveries.CachedInfo().State.FirstTime
	}
	letters, err := b.js.Stream(ctx, DeadLettersStream)
	if err != nil {
		return out, fmt.Errorf("stream %s: %w", DeadLettersStream, err)
	}
	out.Dead = letters.CachedInfo().State.Msgs
	return out, nil
}

// Stored returns how many bytes the embedded server has stored, and how many it may store. With a
// server elsewhere ok is false: that server's own monitoring has them.
func (b *Broker) Stored() (used, limit uint64, ok bool) {
	if b.server == nil {
		return 0, 0, false
	}
	info, err := b.server.srv.Jsz(nil)
	if err != nil || info.Disabled {
		return 0, 0, false
	}
	return info.Store, uint64(max(info.Config.MaxStore, 0)), true
}
