package broker

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
)

// requestTimeout bounds one request to a server in another process. An answer takes
// milliseconds; one that has not come after this time was lost, mostly because the leader
// of the stream has died. The next leader answers the same request, so it is sent again
// rather than waited for.
const requestTimeout = 2 * time.Second

// RequestTimeout bounds one request to JetStream. The embedded server does not lose
// requests: if it takes long, the machine is busy, and sending again makes it worse.
func (b *Broker) RequestTimeout() time.Duration {
	if b.server != nil {
		return apiTimeout
	}
	return requestTimeout
}

// The pauses between two sendings of a request: the first one, and the longest. A request
// that was refused at once, because there is no leader, is repeated often enough to find
// the next leader soon.
const (
	firstPause   = 50 * time.Millisecond
	longestPause = 400 * time.Millisecond
)

// Persist sends a request until it is answered or ctx ends: each time with a deadline of
// RequestTimeout, because one that takes all the time there is leaves none for a second
// one. The request must have the same effect when it is sent twice. The error is that of
// the last sending.
func (b *Broker) Persist(ctx context.Context, request func(context.Context) error) error {
	return b.PersistUnless(ctx, func(err error) bool { return !Unanswered(err) }, request)
}

// PersistUnless is Persist for a request that is sent again after every error except those
// that are final.
func (b *Broker) PersistUnless(ctx context.Context, final func(error) bool, request func(context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		once, cancel := within(ctx, b.RequestTimeout())
		err := request(once)
		cancel()
		if err == nil || ctx.Err() != nil || final(err) {
			return err
		}
		backoff.Sleep(ctx, backoff.Jitter(pause))
		if ctx.Err() != nil {
			return err
		}
	}
}

// within is context.WithTimeout, except that it returns ctx itself if that ends before: requests
// within requests have limits within limits, and each context has a timer.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= limit {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, limit)
}

// codeNotAvailable is the server's error code while the cluster has no leader for JetStream
// itself (JSClusterNotAvailErr).
const codeNotAvailable = 10008

// Unanswered reports that a request, or its answer, may have been lost, for example while a
// stream has no leader or there is no connection: whether it had its effect is not known.
func Unanswered(err error) bool {
	for _, lost := range []error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, jetstream.ErrNoStreamResponse, jetstream.ErrNoHeartbeat,
		nats.ErrDisconnected, nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded, nats.ErrStaleConnection,
	} {
		if errors.Is(err, lost) {
			return true
		}
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeNotAvailable
}
