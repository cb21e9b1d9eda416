package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/events"
)

// Manifest is one record of the stream CERTPOST_MANIFEST: the deliveries that a group of
// events became (docs/decisions/0052).
type Manifest struct {
	Events []ManifestEvent `json:"events"`

	Sequence uint64    `json:"-"` // of the record
	Time     time.Time `json:"-"` // when the server stored it
}

// ManifestEvent is one event of the group.
type ManifestEvent struct {
	Sequence   uint64             `json:"sequence"` // in CERTPOST_EVENTS
	Time       time.Time          `json:"time"`     // when CERTPOST_EVENTS stored it: its deliveries are younger
	Token      string             `json:"event"`    // its id, as used in subjects and keys
	Deliveries []ManifestDelivery `json:"deliveries"`
}

// ManifestDelivery is one delivery of an event.
type ManifestDelivery struct {
	Target   string `json:"target"`
	Lane     string `json:"lane"`
	Sequence uint64 `json:"sequence"` // in CERTPOST_DELIVERIES
}

// WriteManifest appends a record and returns when it is stored.
func (b *Broker) WriteManifest(ctx context.Context, m Manifest) error {
	value, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if _, err := b.js.Publish(ctx, manifestSubject, value); err != nil {
		return fmt.Errorf("manifest: %w", Explain(err, ManifestStream))
	}
	return nil
}

// ReadManifest yields the records from a sequence on, in order. A record that cannot be
// read, because Certpost did not write it, has no events.
func (b *Broker) ReadManifest(ctx context.Context, from uint64) iter.Seq2[Manifest, error] {
	return func(yield func(Manifest, error) bool) {
		for raw, err := range b.read(ctx, ManifestStream, "", from) {
			if err != nil {
				yield(Manifest{}, err)
				return
			}
			if !yield(readManifest(raw), nil) {
				return
			}
		}
	}
}

// ManifestEnd returns the sequence of the last record, 0 if there was none.
func (b *Broker) ManifestEnd(ctx context.Context) (uint64, error) {
	stream, err := b.js.Stream(ctx, ManifestStream)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", ManifestStream, err)
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// ManifestAt returns the record with a sequence; without events if there is none.
func (b *Broker) ManifestAt(ctx context.Context, sequence uint64) (Manifest, error) {
	raw, err := b.messageAt(ctx, ManifestStream, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Manifest{Sequence: sequence}, nil
	}
	if err != nil {
		return Manifest{}, b.readError(ctx, ManifestStream, err)
	}
	return readManifest(raw), nil
}

func readManifest(raw *jetstream.RawStreamMsg) Manifest {
	var m Manifest
	if json.Unmarshal(raw.Data, &m) != nil {
		m = Manifest{}
	}
	m.Sequence, m.Time = raw.Sequence, raw.Time
	return m
}

// Sequences is the set of the sequences that a stream holds.
type Sequences struct {
	StreamState
	gone []uint64 // between First and Last, sorted
}

// Has reports whether the stream holds the message.
func (h *Sequences) Has(sequence uint64) bool {
	if h.Messages == 0 || sequence < h.First || sequence > h.Last {
		return false
	}
	_, gone := slices.BinarySearch(h.gone, sequence)
	return !gone
}

// Before returns how many messages the stream holds before a sequence.
func (h *Sequences) Before(sequence uint64) uint64 {
	if h.Messages == 0 || sequence <= h.First {
		return 0
	}
	gone, _ := slices.BinarySearch(h.gone, sequence)
	return min(sequence-h.First-min(sequence-h.First, uint64(gone)), h.Messages)
}

// HeldDeliveries asks the leader of CERTPOST_DELIVERIES which messages it holds. The answer
// has some bytes for each message removed after the oldest one.
func (b *Broker) HeldDeliveries(ctx context.Context) (*Sequences, error) {
	return b.held(ctx, DeliveriesStream)
}

func (b *Broker) held(ctx context.Context, name string) (*Sequences, error) {
	stream, err := b.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	h := &Sequences{stateOf(info), info.State.Deleted}
	if !slices.IsSorted(h.gone) {
		slices.Sort(h.gone)
	}
	return h, nil
}

// LedgerEntries returns the ledger's entries at these keys; none for a key without one. A
// replica that lags may return an earlier revision.
func (b *Broker) LedgerEntries(ctx context.Context, keys []string) (map[string]Entry, error) {
	entries := make(map[string]Entry)
	for part := range slices.Chunk(keys, maxPipeline) {
		requests := make([]string, len(part))
		for i, key := range part {
			requests[i] = fmt.Sprintf(`{"last_by_subj":%q}`, "$KV."+LedgerBucket+"."+key)
		}
		answers, err := b.requestAll(ctx, "KV_"+LedgerBucket, requests)
		if err != nil {
			return nil, b.readError(ctx, "KV_"+LedgerBucket, err)
		}
		for i, answer := range answers {
			if serverHeader(answer, headerSequence) == "" {
				if status := answer.Header.Get(headerStatus); status != statusNotFound {
					return nil, fmt.Errorf("read the ledger: unexpected answer %q %s from the server", status, answer.Header.Get("Description"))
				}
				continue
			}
			m, err := rawMessage(answer)
			if err != nil {
				return nil, err
			}
			if c := ledgerChange(m); !c.Deleted && !c.Unreadable {
				entries[part[i]] = c.Entry
			}
		}
	}
	return entries, nil
}

// LatestEntry reads an entry from the ledger's leader; ErrNoEntry and revision 0 if there
// is none.
func (b *Broker) LatestEntry(ctx context.Context, key string) (Entry, uint64, error) {
	raw, err := b.leaderGet(ctx, "KV_"+LedgerBucket, getRequest{Last: "$KV." + LedgerBucket + "." + key})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Entry{}, 0, ErrNoEntry
	}
	if err != nil {
		return Entry{}, 0, b.readError(ctx, "KV_"+LedgerBucket, err)
	}
	c := ledgerChange(raw)
	switch {
	case c.Deleted:
		return Entry{}, raw.Sequence, ErrNoEntry
	case c.Unreadable:
		return Entry{}, raw.Sequence, fmt.Errorf("%w: entry %s: inspect it with `nats kv get %s %s`", ErrUnreadableEntry, key, LedgerBucket, key)
	}
	c.Entry.Stored = raw.Time
	c.Entry.was = c.Entry.outcome(raw.Sequence)
	return c.Entry, raw.Sequence, nil
}

// WaitingFor calls found for each message that waits for a target, in any lane, with its
// sequence and the token of its event ("" if it cannot be read).
func (b *Broker) WaitingFor(ctx context.Context, target string, found func(token string, sequence uint64)) error {
	for raw, err := range b.read(ctx, DeliveriesStream, DeliverySubject("*", target), 1) {
		if err != nil {
			return err
		}
		token := ""
		if ev, err := events.Decode(raw.Header, raw.Data); err == nil {
			token = events.Token(ev.ID)
		}
		found(token, raw.Sequence)
	}
	return nil
}

// StoredEvent is an event in CERTPOST_EVENTS.
type StoredEvent struct {
	*events.Event
	Sequence  uint64
	Headers   map[string][]string
	Published time.Time // by the server's clock
}

// EventAt returns the event with a sequence in CERTPOST_EVENTS; ErrNoEvent if it is gone, or
// another one than the token says.
func (b *Broker) EventAt(ctx context.Context, sequence uint64, token string) (StoredEvent, error) {
	raw, err := b.messageAt(ctx, EventsStream, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return StoredEvent{}, ErrNoEvent
	}
	if err != nil {
		return StoredEvent{}, b.readError(ctx, EventsStream, err)
	}
	ev, err := events.Decode(raw.Header, raw.Data)
	if err != nil || events.Token(ev.ID) != token {
		return StoredEvent{}, ErrNoEvent
	}
	ev.Subject = raw.Subject
	return StoredEvent{ev, sequence, raw.Header, raw.Time}, nil
}

// ErrNoEvent says that an event is no longer stored.
var ErrNoEvent = errors.New("the event is no longer in " + EventsStream)

// Reconciled is how far the streams have been compared: the value at key reconciled of the
// bucket CERTPOST_RELAYS.
type Reconciled struct {
	Manifest uint64    `json:"manifest"`        // the first record with a delivery that is not settled
	Letters  time.Time `json:"letters_created"` // when CERTPOST_DEAD_LETTERS was created, as far as compared
}

const reconciledKey = "reconciled"

// ReadReconciled returns the stored value, the zero value if there is none.
func (b *Broker) ReadReconciled(ctx context.Context) (r Reconciled, err error) {
	kv, err := b.OpenRelays(ctx)
	if err != nil {
		return r, err
	}
	entry, err := kv.Get(ctx, reconciledKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("%s in %s: %w", reconciledKey, RelaysBucket, err)
	}
	if json.Unmarshal(entry.Value(), &r) != nil {
		return Reconciled{}, nil // written by another client: compare from the beginning
	}
	return r, nil
}

// StoreReconciled stores how far the streams have been compared. Processes may overwrite
// each other's value: one that is too low only costs time.
func (b *Broker) StoreReconciled(ctx context.Context, r Reconciled) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	kv, err := b.OpenRelays(ctx)
	if err != nil {
		return err
	}
	if _, err := kv.Put(ctx, reconciledKey, value); err != nil {
		return fmt.Errorf("%s in %s: %w", reconciledKey, RelaysBucket, Explain(err, "KV_"+RelaysBucket))
	}
	return nil
}

// RecordRecovered records that lost deliveries or letters were recovered.
func (b *Broker) RecordRecovered(ctx context.Context, records []AuditRecord) error {
	for i := range records {
		records[i].Action = ActionRecovered
	}
	return b.Append(ctx, records...)
}
