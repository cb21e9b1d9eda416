package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// maxBatch is the number of messages in one atomic batch, below the server's limit of
// 1,000. One flush to disk serves them all.
const maxBatch = 200

// batchFrom is the number of messages from which on an atomic batch is cheaper. The server
// first keeps a batch in a store of its own, with six flushes and some files to create and
// remove: as much as 10 to 20 messages that are flushed one by one (docs/performance.md).
const batchFrom = 12

// apiTimeout bounds a request of the JetStream API that has no deadline of its own: creating
// a stream, or counting in a large one, may take long.
const apiTimeout = 10 * time.Second

// PublishAll publishes messages to one stream, in batches if those are cheaper, and returns
// their sequences when all are stored. Each message needs a Nats-Msg-Id, so that publishing
// all of them again after an error stores none twice: known is called for each message that
// is a duplicate. A batch that contains a duplicate is refused as a whole, and then its
// messages are published one by one.
func (b *Broker) PublishAll(ctx context.Context, msgs []*nats.Msg, known Known) ([]uint64, error) {
	sequences := make([]uint64, 0, len(msgs))
	for len(msgs) > 0 {
		n := min(len(msgs), maxBatch)
		part := msgs[:n]
		msgs = msgs[n:]
		err := errBatchRefused
		if n >= batchFrom && b.flushesEachWrite() {
			var last uint64
			once, cancel := context.WithTimeout(ctx, b.RequestTimeout())
			if last, err = b.PublishBatch(once, part); err == nil {
				for i := range uint64(n) {
					sequences = append(sequences, last-uint64(n)+1+i)
				}
			}
			cancel()
		}
		if errors.Is(err, errBatchRefused) {
			var stored []uint64
			stored, err = b.publishEach(ctx, part, known)
			sequences = append(sequences, stored...)
		}
		if err != nil {
			return nil, Explain(err, DeliveriesStream)
		}
	}
	return sequences, nil
}

// Known says what to do with a message whose id the stream has seen within its duplicate
// window: stored is the sequence of the message that was stored with this id. It returns
// that of the message that counts.
type Known func(ctx context.Context, m *nats.Msg, stored uint64) (uint64, error)

// flushesEachWrite reports whether batches save anything: they do if the store flushes
// every write to disk before it acknowledges it. An external server does not tell; by
// default it does not flush, and a cluster groups what it replicates by itself.
func (b *Broker) flushesEachWrite() bool {
	return b.server != nil && (b.cfg.SyncInterval == "" || b.cfg.SyncInterval == syncAlways)
}

// errBatchRefused says that the server stored no message of the batch, for a reason that
// does not apply to messages published one by one.
var errBatchRefused = errors.New("atomic batch refused")

// The codes with which nats-server refuses a whole batch: a message id that is
// known, batches disabled, a batch it dropped (restart, leader change), too many at once.
const (
	codeBatchDuplicate  = 10201
	codeBatchDisabled   = 10174
	codeBatchIncomplete = 10176
	codeBatchInflight   = 10210
)

// The headers of a batch's messages, for which the client library has no names.
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// PublishBatch publishes an atomic batch (ADR-50): each message carries the batch's id and
// its number, the last one the commit; only the commit is acknowledged. It returns the
// stream's sequence of the last message; the others' precede it without gaps.
func (b *Broker) PublishBatch(ctx context.Context, msgs []*nats.Msg) (last uint64, err error) {
	id := nuid.Next()
	for i, m := range msgs {
		m.Header.Set(headerBatchID, id)
		m.Header.Set(headerBatchSequence, strconv.Itoa(i+1))
	}
	defer func() {
		for _, m := range msgs {
			m.Header.Del(headerBatchID)
			m.Header.Del(headerBatchSequence)
			m.Header.Del(headerBatchCommit)
		}
	}()
	commit := msgs[len(msgs)-1]
	for _, m := range msgs[:len(msgs)-1] {
		if err := b.nc.PublishMsg(m); err != nil {
			return 0, fmt.Errorf("publish: %w", err)
		}
	}
	commit.Header.Set(headerBatchCommit, "1")
	// A server that dies with the batch never answers.
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	reply, err := b.nc.RequestMsgWithContext(ctx, commit)
	if err != nil {
		return 0, fmt.Errorf("publish to %s: %w", commit.Subject, err)
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		Seq   uint64              `json:"seq"`
		Count int                 `json:"count"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, fmt.Errorf("publish to %s: unreadable acknowledgement", commit.Subject)
	}
	if ack.Error != nil {
		switch ack.Error.ErrorCode {
		case codeBatchDuplicate, codeBatchDisabled, codeBatchIncomplete, codeBatchInflight:
			return 0, errBatchRefused
		}
		return 0, fmt.Errorf("publish to %s: %w", commit.Subject, ack.Error)
	}
	if ack.Count != len(msgs) {
		return 0, fmt.Errorf("publish to %s: the server acknowledged %d of %d messages", commit.Subject, ack.Count, len(msgs))
	}
	return ack.Seq, nil
}

// publishEach publishes messages one by one, in order, and then waits for the
// acknowledgements, RequestTimeout for each that follows another.
func (b *Broker) publishEach(ctx context.Context, msgs []*nats.Msg, known Known) ([]uint64, error) {
	stored := make([]uint64, len(msgs))
	sent := make([]jetstream.PubAckFuture, len(msgs))
	for i, m := range msgs {
		var err error
		if sent[i], err = b.js.PublishMsgAsync(m); err != nil {
			return nil, fmt.Errorf("publish to %s: %w", m.Subject, err)
		}
	}
	overdue := time.NewTimer(b.RequestTimeout())
	defer overdue.Stop()
	for i, m := range msgs {
		var err error
		select {
		case ack := <-sent[i].Ok():
			if stored[i] = ack.Sequence; ack.Duplicate {
				stored[i], err = known(ctx, m, ack.Sequence)
			}
		case err = <-sent[i].Err():
		case <-overdue.C:
			err = nats.ErrTimeout
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("publish to %s: %w", m.Subject, err)
		}
		overdue.Reset(b.RequestTimeout())
	}
	return stored, nil
}
