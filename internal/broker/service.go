package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/certpost/certpost/internal/legible"
)

// Endpoint answers one kind of request of the NATS service, on the subject certpost.<Name>.
// An error that is a *Refused is sent with its status, text and data.
type Endpoint struct {
	Name  string
	About string
	// Answer gets the request, and who sent it as far as the NATS server has proved that:
	// ACCOUNT/USER with the user's public key, or only ACCOUNT, or "".
	Answer func(ctx context.Context, sender string, request []byte) ([]byte, error)
}

// Refused is an error as sent over NATS.
type Refused struct {
	Status int // as in HTTP
	Text   string
	Data   []byte // JSON
}

func (r *Refused) Error() string { return r.Text }

// ErrNoService says that no process answers requests.
var ErrNoService = errors.New("no running certpost answers on NATS")

const (
	serviceName           = "certpost"
	servicePrefix         = "certpost."
	maxConcurrentRequests = 16              // in one process; further requests wait
	maxSender             = 300             // characters of a user's name
	serviceTimeout        = 5 * time.Minute // of a request whose context has no end
)

// Serve answers requests until the context ends, then finishes those in progress. Replicas
// share the requests. A version that is not semantic is announced as 0.0.0.
func (b *Broker) Serve(ctx context.Context, version string, endpoints []Endpoint) error {
	config := micro.Config{Name: serviceName, Version: strings.TrimPrefix(version, "v"), Description: "dead letters of Certpost: list, understand, replay"}
	s, err := micro.AddService(b.nc, config)
	if errors.Is(err, micro.ErrConfigValidation) {
		config.Version = "0.0.0"
		s, err = micro.AddService(b.nc, config)
	}
	if err != nil {
		return fmt.Errorf("NATS service %s: %w", serviceName, err)
	}
	pool := &workerPool{slots: make(chan struct{}, maxConcurrentRequests)}
	defer pool.drain()
	defer func() { _ = s.Stop() }() // fails only without a connection
	for _, e := range endpoints {
		handle := func(r micro.Request) {
			if !replyAllowed(r.Reply()) {
				b.log.Warn().Str("endpoint", e.Name).Str("reply", legible.Clean(r.Reply(), 200)).Msg("refused a request whose reply subject only Certpost may write to; nothing was done")
				return
			}
			if !pool.run(func() { b.serve(ctx, e, r) }) {
				_ = r.Error("503", "this process is shutting down: retry", nil)
			}
		}
		err := s.AddEndpoint(strings.ReplaceAll(e.Name, ".", "-"), micro.HandlerFunc(handle), micro.WithEndpointSubject(servicePrefix+e.Name),
			micro.WithEndpointMetadata(map[string]string{"about": e.About, "format": "application/json"}))
		if err != nil {
			return fmt.Errorf("NATS service %s: endpoint %s: %w", serviceName, e.Name, err)
		}
	}
	<-ctx.Done()
	return nil
}

// replyAllowed reports whether an answer may be sent to a subject. It is sent with
// Certpost's permissions, not with the client's: the client could make it a JetStream
// request (an empty answer deletes a stream), an event, or an audit record.
func replyAllowed(reply string) bool {
	return !strings.HasPrefix(reply, "$") && !strings.HasPrefix(reply, servicePrefix) && !isEventSubject(reply)
}

// workerPool limits how many requests are worked on at the same time.
type workerPool struct {
	slots chan struct{}

	mu      sync.Mutex
	closed  bool
	working sync.WaitGroup
}

// run starts work once a slot is free; false if the pool is closed.
func (p *workerPool) run(work func()) bool {
	p.slots <- struct{}{}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		<-p.slots
		return false
	}
	p.working.Go(func() {
		defer func() { <-p.slots }()
		work()
	})
	return true
}

// drain closes the pool and waits for the work in progress.
func (p *workerPool) drain() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.working.Wait()
}

// serve answers one request. A request in progress is finished even if the program ends.
func (b *Broker) serve(ctx context.Context, e Endpoint, r micro.Request) {
	respond := func(answer []byte, err error) error {
		if err == nil && int64(len(answer)) > b.nc.MaxPayload() {
			err = &Refused{Status: 413, Text: "the answer exceeds the size limit of a NATS message: request fewer (size)"}
		}
		// r.Respond and r.Error note a failure in the request, which the library reads when its
		// handler has returned; that is before this work ends.
		m := &nats.Msg{Subject: r.Reply(), Data: answer}
		if err != nil {
			refused := &Refused{Status: 500, Text: err.Error()}
			errors.As(err, &refused)
			m.Header = nats.Header{micro.ErrorHeader: {HeaderText(refused.Text)}, micro.ErrorCodeHeader: {strconv.Itoa(refused.Status)}}
			m.Data = refused.Data
		}
		return b.nc.PublishMsg(m)
	}
	defer func() {
		if p := recover(); p != nil {
			b.log.Error().Str("endpoint", e.Name).Bytes("stack", debug.Stack()).Msg("a defect in answering a request over NATS; please report it")
			_ = respond(nil, errors.New("a defect in Certpost prevents an answer; see its log"))
		}
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), serviceTimeout)
	defer cancel()
	sender := ""
	if b.cfg.TrustRequestInfo {
		sender = legible.Clean(senderOf(nats.Header(r.Headers())), maxSender)
	}
	answer, err := e.Answer(ctx, sender, r.Data())
	if err := respond(answer, err); err != nil {
		b.log.Debug().Err(err).Str("endpoint", e.Name).Msg("an answer could not be sent")
	}
}

// Ask sends a request to a running process and returns its answer: *Refused if it was
// refused, ErrNoService if no process answers, ErrLost if the connection was lost meanwhile.
func (b *Broker) Ask(ctx context.Context, name string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, serviceTimeout, fmt.Errorf("no answer to %s within %s", servicePrefix+name, serviceTimeout))
	defer cancel()
	ctx, done := b.denied.watch(ctx, servicePrefix+name)
	defer done()
	watched, end := b.watchConnection(ctx, servicePrefix+name)
	answer, err := b.nc.RequestMsgWithContext(watched, &nats.Msg{Subject: servicePrefix + name, Data: request})
	lost := end()
	switch cause := context.Cause(watched); {
	case err == nil:
	case errors.Is(err, nats.ErrNoResponders):
		return nil, ErrNoService
	case errors.Is(cause, ErrLost):
		return nil, cause
	case lost && ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", ErrLost, context.Cause(ctx))
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return nil, fmt.Errorf("request %s was not sent, because there is no connection to NATS now", servicePrefix+name)
	default:
		return nil, fmt.Errorf("request %s: %w", servicePrefix+name, err)
	}
	if code := answer.Header.Get(micro.ErrorCodeHeader); code != "" {
		status, _ := strconv.Atoi(code)
		return nil, &Refused{Status: status, Text: answer.Header.Get(micro.ErrorHeader), Data: answer.Data}
	}
	return answer.Data, nil
}
