package broker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrClaimLost says that another process changed the entry after it was read.
var ErrClaimLost = errors.New("the ledger's entry was changed by another process")

// ErrNoEntry says that the ledger has no entry of a delivery.
var ErrNoEntry = errors.New("delivery not found in the ledger")

// ErrUnreadableEntry says that the value at a delivery's key was not written by Certpost.
var ErrUnreadableEntry = errors.New("the ledger's entry cannot be read")

// Ledger is the bucket CERTPOST_LEDGER; all writes are compare-and-set on the revision
// read.
type Ledger struct {
	b      *Broker
	kv     jetstream.KeyValue
	groups *committer // nil: every entry is written singly
	// RestoredTo is the time of the newest message of the backup that was restored; zero if none
	// was.
	RestoredTo time.Time
}

func (b *Broker) OpenLedger(ctx context.Context) (Ledger, error) {
	kv, err := b.js.KeyValue(ctx, LedgerBucket)
	if err != nil {
		return Ledger{}, fmt.Errorf("ledger %s: %w", LedgerBucket, err)
	}
	s, err := b.js.Stream(ctx, "KV_"+LedgerBucket)
	if err != nil {
		return Ledger{}, fmt.Errorf("ledger %s: %w", LedgerBucket, err)
	}
	l := Ledger{b: b, kv: kv, RestoredTo: restoredTo(s.CachedInfo().Config)}
	if b.flushesEachWrite() {
		l.groups = &committer{writeSingle: l.write, writeGroup: b.writeEntries}
	}
	return l, nil
}

// stored encodes the entry for the bucket, readEntry decodes it.
func (e Entry) stored() ([]byte, error) {
	e.Wait = nil
	if e.State != StateWaiting {
		e.NextTry = time.Time{}
	}
	if e.Receipt != nil && e.Certificate != nil {
		receipt := *e.Receipt
		receipt.Certificate = nil
		e.Receipt = &receipt
	}
	return json.Marshal(e)
}

func readEntry(stored []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(stored, &e); err != nil {
		return Entry{}, err
	}
	if e.Receipt != nil {
		e.Certificate = cmp.Or(e.Certificate, e.Receipt.Certificate)
		e.Receipt.Certificate = e.Certificate
	}
	return e, nil
}

func LedgerKey(target, eventToken string) string { return target + "." + eventToken }

// Get returns the entry and its revision; ErrNoEntry and revision 0 if there is none. It may
// be answered by a replica that lags: a write by its revision is then refused.
func (l Ledger) Get(ctx context.Context, key string) (Entry, uint64, error) {
	ctx, cancel := within(ctx, apiTimeout)
	defer cancel()
	var kve jetstream.KeyValueEntry
	err := l.b.Persist(ctx, func(ctx context.Context) (err error) {
		kve, err = l.kv.Get(ctx, key)
		return err
	})
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Entry{}, 0, ErrNoEntry
	}
	if err != nil {
		return Entry{}, 0, fmt.Errorf("ledger entry %s: %w", key, err)
	}
	e, err := readEntry(kve.Value())
	if err != nil {
		return Entry{}, 0, fmt.Errorf("%w: entry %s (%v): inspect it with `nats kv get %s %s`", ErrUnreadableEntry, key, err, LedgerBucket, key)
	}
	e.Stored = kve.Created()
	e.was = e.outcome(kve.Revision())
	return e, kve.Revision(), nil
}

// Put writes the entry if its revision is still the one given (0: no entry yet) and returns
// the new one; ErrClaimLost if it is not. After another error the entry may be stored all
// the same; the same Put then says so.
func (l Ledger) Put(ctx context.Context, key string, e Entry, revision uint64) (uint64, error) {
	e.keepOutcome()
	value, err := e.stored()
	if err != nil {
		return 0, fmt.Errorf("ledger entry %s: %w", key, err)
	}
	signing := l.b.sealer()
	if signing != nil {
		value = signing.sealEntry(key, value, revision)
	}
	write := l.write
	if l.groups != nil {
		write = l.groups.put
	}
	ctx, cancel := within(ctx, apiTimeout)
	defer cancel()
	var rev uint64
	err = l.b.Persist(ctx, func(ctx context.Context) (err error) {
		rev, err = write(ctx, entryWrite{key, value, revision})
		return err
	})
	if errors.Is(err, jetstream.ErrKeyExists) || WrongSequence(err) {
		rev, err = l.storedBefore(ctx, key, value)
		if err != nil {
			return 0, err
		}
	}
	if err != nil {
		return 0, fmt.Errorf("ledger entry %s: %w", key, err)
	}
	if signing != nil && e.Receipt != nil {
		l.b.noteReceipt(leafOf(key, value, rev))
	}
	return rev, nil
}

// storedBefore returns the revision of a value that a refused write wanted to store:
// the write may have been stored before and its acknowledgement lost. It asks the leader,
// because another replica may not have the value yet; ErrClaimLost if there is another.
func (l Ledger) storedBefore(ctx context.Context, key string, value []byte) (uint64, error) {
	raw, err := l.b.leaderGet(ctx, "KV_"+LedgerBucket, getRequest{Last: "$KV." + LedgerBucket + "." + key})
	switch {
	case err == nil && bytes.Equal(raw.Data, value):
		return raw.Sequence, nil
	case err == nil || errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, fmt.Errorf("ledger entry %s: %w", key, ErrClaimLost)
	default:
		return 0, fmt.Errorf("ledger entry %s: %w", key, err)
	}
}

// longestLease is longer than any send takes. A longer lease is an error, and counts as
// expired.
const longestLease = 24 * time.Hour

// LeaseLeft returns how long the lease of an entry that Get has returned still lasts; zero or
// less if it has ended. The server's clock says how long ago the entry was written, because
// the clocks of writer and reader may differ by any amount.
func (l Ledger) LeaseLeft(ctx context.Context, e Entry) (time.Duration, error) {
	begun := e.Claimed
	if begun.IsZero() {
		begun = e.Last // written by a version that did not store Claimed: earlier by some seconds at most
	}
	length := e.Lease.Sub(begun)
	if length <= 0 || length > longestLease {
		return 0, nil
	}
	var stream jetstream.Stream
	err := l.b.Persist(ctx, func(ctx context.Context) (err error) {
		stream, err = l.b.js.Stream(ctx, "KV_"+LedgerBucket)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("stream KV_%s: %w", LedgerBucket, err)
	}
	return length - stream.CachedInfo().TimeStamp.Sub(e.Stored), nil
}

func (l Ledger) write(ctx context.Context, e entryWrite) (revision uint64, err error) {
	if e.revision == 0 {
		revision, err = l.kv.Create(ctx, e.key, e.value)
	} else {
		revision, err = l.kv.Update(ctx, e.key, e.value, e.revision)
	}
	return revision, Explain(err, "KV_"+LedgerBucket)
}

// writeEntries writes entries of different keys in one atomic batch. The server checks the
// revision of each; if one differs it refuses all and does not say which.
func (b *Broker) writeEntries(entries []entryWrite) (last uint64, err error) {
	msgs := make([]*nats.Msg, len(entries))
	for i, e := range entries {
		msgs[i] = nats.NewMsg(b.ledgerSubject(e.key))
		msgs[i].Data = e.value
		msgs[i].Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(e.revision, 10))
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.RequestTimeout())
	defer cancel()
	return b.PublishBatch(ctx, msgs)
}

// WrongSequence reports whether err is a failed compare-and-set. Plain and replicated
// streams use different codes.
func WrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
