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

// maxBatch is below the server's limit of 1,000 messages in one atomic batch;
// one flush to disk serves them all.
const maxBatch = 200

// batchTimeout bounds the wait for a batch's acknowledgement; the client has such
// a bound for single messages only.
const batchTimeout = 10 * time.Second

// publishAll puts messages into one stream, all or none of a batch becoming
// visible, one flush per batch. Each message needs a Nats-Msg-Id: a batch in
// which one id is already known is refused as a whole, and is then published
// one by one, and known says what to do about each message that is a duplicate.
func (b *Broker) publishAll(ctx context.Context, msgs []*nats.Msg, known func(context.Context, *nats.Msg) error) error {
	for len(msgs) > 0 {
		n := min(len(msgs), maxBatch)
		part := msgs[:n]
		msgs = msgs[n:]
		err := errBatchRefused
		if n > 1 {
			err = b.publishBatch(ctx, part)
		}
		if errors.Is(err, errBatchRefused) {
			err = b.publishEach(ctx, part, known)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errBatchRefused says that the server took none of the batch for a reason that
// publishing one by one gets around.
var errBatchRefused = errors.New("atomic batch refused")

// The codes with which nats-server refuses a batch as such: a message id that is
// known, a batch it forgot (restart, leader change, too many at a time).
const (
	codeBatchDuplicate  = 10201
	codeBatchDisabled   = 10174
	codeBatchIncomplete = 10176
	codeBatchInflight   = 10210
)

// publishBatch is ADR-50: members carry the batch's id and their number, the last
// one the commit; only the commit is answered with an acknowledgement.
func (b *Broker) publishBatch(ctx context.Context, msgs []*nats.Msg) error {
	id := nuid.Next()
	for i, m := range msgs {
		m.Header.Set("Nats-Batch-Id", id)
		m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
	}
	defer func() {
		for _, m := range msgs {
			m.Header.Del("Nats-Batch-Id")
			m.Header.Del("Nats-Batch-Sequence")
			m.Header.Del("Nats-Batch-Commit")
		}
	}()
	last := msgs[len(msgs)-1]
	for _, m := range msgs[:len(msgs)-1] {
		if err := b.nc.PublishMsg(m); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	last.Header.Set("Nats-Batch-Commit", "1")
	// A server that dies with the batch never answers.
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	reply, err := b.nc.RequestMsgWithContext(ctx, last)
	if err != nil {
		return fmt.Errorf("publish to %s: %w", last.Subject, err)
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		Seq   uint64              `json:"seq"`
		Count int                 `json:"count"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return fmt.Errorf("publish to %s: unreadable acknowledgement", last.Subject)
	}
	if ack.Error != nil {
		switch ack.Error.ErrorCode {
		case codeBatchDuplicate, codeBatchDisabled, codeBatchIncomplete, codeBatchInflight:
			return errBatchRefused
		}
		return fmt.Errorf("publish to %s: %w", last.Subject, ack.Error)
	}
	if ack.Count != len(msgs) {
		return fmt.Errorf("publish to %s: the server acknowledged %d of %d messages", last.Subject, ack.Count, len(msgs))
	}
	return nil
}

func (b *Broker) publishEach(ctx context.Context, msgs []*nats.Msg, known func(context.Context, *nats.Msg) error) error {
	for _, m := range msgs {
		ack, err := b.js.PublishMsg(ctx, m)
		if err == nil && ack.Duplicate {
			err = known(ctx, m)
		}
		if err != nil {
			return fmt.Errorf("publish to %s: %w", m.Subject, err)
		}
	}
	return nil
}
