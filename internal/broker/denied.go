package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// denials ends requests that the NATS user may not send: the server reports that on the connection,
// and never answers.
type denials struct {
	inbox   string // the prefix of subjects for answers
	mu      sync.Mutex
	waiting map[*waitingRequest]struct{}
}

// waitingRequest is a request whose answer is waited for.
type waitingRequest struct {
	subject string
	end     context.CancelCauseFunc
}

// errDenied is why a request was ended.
var errDenied = errors.New("this NATS user may not")

// watch returns a context for a request on a subject. It ends when the server says that this user
// may not publish there, or may not read the answer; because then says so. done ends the watch.
func (d *denials) watch(ctx context.Context, subject string) (watched context.Context, done func()) {
	ctx, end := context.WithCancelCause(ctx)
	w := &waitingRequest{subject, end}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = map[*waitingRequest]struct{}{}
	}
	d.waiting[w] = struct{}{}
	return ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiting, w)
		end(nil)
	}
}

// add ends the requests that a permissions violation is about. It reports whether there are any.
func (d *denials) add(err error) (known bool) {
	text := strings.ToLower(err.Error())
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.waiting {
		switch {
		case strings.Contains(text, `publish to "`+strings.ToLower(w.subject)+`"`):
			w.end(fmt.Errorf("%w send requests to %s: grant it permission to publish there", errDenied, w.subject))
		case strings.Contains(text, `subscription to "`+strings.ToLower(d.inbox)):
			w.end(fmt.Errorf("%w read answers in the inbox of this connection: set nats.inbox_prefix to the prefix that it may subscribe to", errDenied))
		default:
			continue
		}
		known = true
	}
	return known
}

// because is the error of a watched request: why it was ended, if it was.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errDenied) {
		return cause
	}
	return err
}

// commandJetStream is the JetStream of a command: what this user may not do fails at once, and says
// so, instead of waiting for an answer. A running program asks far more often, and has its log.
type commandJetStream struct {
	jetstream.JetStream
	b *Broker
}

func (c commandJetStream) Stream(ctx context.Context, name string) (s jetstream.Stream, err error) {
	err = c.b.watched(ctx, c.b.apiPrefix()+"STREAM.INFO."+name, func(ctx context.Context) error {
		s, err = c.JetStream.Stream(ctx, name)
		return err
	})
	return s, err
}

func (c commandJetStream) KeyValue(ctx context.Context, bucket string) (kv jetstream.KeyValue, err error) {
	err = c.b.watched(ctx, c.b.apiPrefix()+"STREAM.INFO.KV_"+bucket, func(ctx context.Context) error {
		kv, err = c.JetStream.KeyValue(ctx, bucket)
		return err
	})
	return kv, err
}

func (c commandJetStream) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (ack *jetstream.PubAck, err error) {
	err = c.b.watched(ctx, m.Subject, func(ctx context.Context) error {
		ack, err = c.JetStream.PublishMsg(ctx, m, opts...)
		return err
	})
	return ack, err
}

// watched sends a request with a context that ends if this user may not send it.
func (b *Broker) watched(ctx context.Context, subject string, send func(context.Context) error) error {
	ctx, done := b.denied.watch(ctx, subject)
	defer done()
	return because(ctx, send(ctx))
}
