package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// outcomeConsumerPrefix begins the names of the consumers with which webhooks read outcomes.
const outcomeConsumerPrefix = "webhook-"

// MaxOutcomesPending bounds the outcomes of one webhook that wait for another try or are being sent. At the bound the webhook
// gets no others, so it is far above what a receiver refuses that takes the rest.
const MaxOutcomesPending = 1000

// OutcomeFeed reads CERTPOST_OUTCOMES for one webhook. All processes share its consumer.
type OutcomeFeed struct {
	b    *Broker
	name string
	mu   sync.Mutex
	c    jetstream.Consumer // nil: not known, or gone; mu guards it
}

// OutcomeFeed returns the feed of a webhook.
func (b *Broker) OutcomeFeed(webhook string) *OutcomeFeed {
	return &OutcomeFeed{b: b, name: outcomeConsumerPrefix + webhook}
}

// FedOutcome is one outcome from a feed. It comes again until Done.
type FedOutcome struct {
	Data     []byte
	Sequence uint64 // in the stream
	Tries    uint64 // this one included
	msg      jetstream.Msg
}

// Done says that the webhook has it.
func (o FedOutcome) Done(ctx context.Context) error { return o.msg.DoubleAck(ctx) }

// Again has it come again after a time.
func (o FedOutcome) Again(after time.Duration) error { return o.msg.NakWithDelay(after) }

// Fetch waits a while for outcomes, at most n; none is no error. A consumer is created for a webhook that has none, for
// outcomes from then on. It may be called from several goroutines.
func (f *OutcomeFeed) Fetch(ctx context.Context, n int, wait time.Duration) (all []FedOutcome, err error) {
	c, err := f.consumer(ctx)
	if err != nil {
		return nil, err
	}
	// A request for several waits until there are as many: the first is waited for, and what is there comes with it.
	end := time.Now().Add(wait)
	waiting, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	batch, err := c.Fetch(1, jetstream.FetchContext(waiting))
	// The clock, because the context ends a moment after its deadline.
	if err != nil && !time.Now().Before(end) && ctx.Err() == nil {
		return nil, nil // the while was over before the request was sent
	}
	for more := true; err == nil; {
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				continue // no message of a stream
			}
			all = append(all, FedOutcome{Data: m.Data(), Sequence: meta.Sequence.Stream, Tries: meta.NumDelivered, msg: m})
		}
		if err = batch.Error(); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = nil // nothing came
		}
		if err != nil || len(all) == 0 || len(all) >= n || !more {
			break
		}
		more = false
		batch, err = c.FetchNoWait(n - len(all))
	}
	if err != nil && len(all) == 0 {
		f.forget(c)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("consumer %s on %s: %w", f.name, OutcomesStream, err)
	}
	return all, nil
}

// Prepare creates the consumer, if it is missing.
func (f *OutcomeFeed) Prepare(ctx context.Context) error {
	_, err := f.consumer(ctx)
	return err
}

// consumer returns the consumer, and creates it if it is missing.
func (f *OutcomeFeed) consumer(ctx context.Context) (jetstream.Consumer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.c != nil {
		return f.c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if err := f.b.EnsureConsumer(ctx, OutcomesStream, jetstream.ConsumerConfig{Durable: f.name, Description: "outcomes for a webhook",
		FilterSubject: OutcomePrefix + "*", DeliverPolicy: jetstream.DeliverNewPolicy, MaxAckPending: MaxOutcomesPending}); err != nil {
		return nil, err
	}
	c, err := f.b.js.Consumer(ctx, OutcomesStream, f.name)
	if err != nil {
		return nil, fmt.Errorf("consumer %s on %s: %w", f.name, OutcomesStream, err)
	}
	f.c = c
	return c, nil
}

// forget has the next fetch look for the consumer again.
func (f *OutcomeFeed) forget(failed jetstream.Consumer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.c == failed {
		f.c = nil
	}
}

// FeedState is how far a webhook is behind.
type FeedState struct {
	Waiting  uint64 // outcomes that it does not have
	Pending  uint64 // those of them that are being sent, or wait for another try
	Repeated uint64 // those of them that were tried more than once
	Dropped  uint64 // those of them that it will never get: the stream's limits have removed them
	First    uint64 // the first sequence that the stream still has
}

// State asks the server how far the webhook is behind.
func (f *OutcomeFeed) State(ctx context.Context) (s FeedState, err error) {
	stream, err := f.b.js.Stream(ctx, OutcomesStream)
	if err != nil {
		return s, fmt.Errorf("stream %s: %w", OutcomesStream, err)
	}
	c, err := f.b.js.Consumer(ctx, OutcomesStream, f.name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("consumer %s on %s: %w", f.name, OutcomesStream, err)
	}
	info, first := c.CachedInfo(), stream.CachedInfo().State.FirstSeq
	s.Pending, s.First = uint64(max(info.NumAckPending, 0)), first
	s.Waiting = info.NumPending + s.Pending
	s.Repeated = uint64(max(min(info.NumRedelivered, info.NumAckPending), 0))
	if read := info.Delivered.Stream; first > read+1 && s.Waiting > 0 {
		s.Dropped = first - read - 1
	}
	return s, nil
}
