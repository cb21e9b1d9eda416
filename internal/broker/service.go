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

// Endpoint answers one kind of request of the NATS service. Its subject is
// certpost.<Name>. An error that is a *Refused is answered as it says.
type Endpoint struct {
	Name   string
	About  string
	Answer func(ctx context.Context, request []byte) ([]byte, error)
}

// Refused is an error as it travels over NATS.
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
	maxConcurrentRequests = 16              // requests of one process; more wait
	serviceTimeout        = 5 * time.Minute // of a request whose context has no end
)

// Serve answers requests until the context ends, then finishes those under way.
// Replicas share them. A version that is no semantic one is served as 0.0.0.
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
	defer func() { _ = s.Stop() }() // which fails without a connection alone
	for _, e := range endpoints {
		handle := func(r micro.Request) {
			if !replyAllowed(r.Reply()) {
				b.log.Warn().Str("endpoint", e.Name).Str("reply", legible.Clean(r.Reply(), 200)).Msg("a request wants its answer where only Certpost may write; nothing was done")
				return
			}
			if !pool.run(func() { b.serve(ctx, e, r) }) {
				_ = r.Error("503", "this process is ending: ask again", nil)
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

// replyAllowed says whether an answer may go to a subject. It is sent with Certpost's
// permissions, not with those of whoever asks: he could have it be an order to
// JetStream (an empty answer deletes a stream), an event, or an entry in the audit.
func replyAllowed(reply string) bool {
	return !strings.HasPrefix(reply, "$") && !strings.HasPrefix(reply, servicePrefix) && !isEventSubject(reply)
}

// workerPool is where requests are worked on, so many at a time.
type workerPool struct {
	slots chan struct{}

	mu      sync.Mutex
	closed  bool
	working sync.WaitGroup
}

// run begins some work when there is a place for it, and reports false when the
// hall is closed.
func (h *workerPool) run(work func()) bool {
	h.slots <- struct{}{}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		<-h.slots
		return false
	}
	h.working.Go(func() {
		defer func() { <-h.slots }()
		work()
	})
	return true
}

// drain lets nobody in any more and waits for those who are.
func (h *workerPool) drain() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.working.Wait()
}

// serve answers one request. What is under way is finished, also when the program
// ends.
func (b *Broker) serve(ctx context.Context, e Endpoint, r micro.Request) {
	respond := func(answer []byte, err error) error {
		if err == nil && int64(len(answer)) > b.nc.MaxPayload() {
			err = &Refused{Status: 413, Text: "the answer is larger than a NATS message may be: ask for less (size)"}
		}
		if err == nil {
			return r.Respond(answer)
		}
		refused := &Refused{Status: 500, Text: err.Error()}
		errors.As(err, &refused)
		return r.Error(strconv.Itoa(refused.Status), HeaderText(refused.Text), refused.Data)
	}
	defer func() {
		if p := recover(); p != nil {
			b.log.Error().Str("endpoint", e.Name).Bytes("stack", debug.Stack()).Msg("a defect in answering a request over NATS; please report it")
			_ = respond(nil, errors.New("a defect in Certpost keeps it from answering; its log has more"))
		}
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), serviceTimeout)
	defer cancel()
	answer, err := e.Answer(ctx, r.Data())
	if err := respond(answer, err); err != nil {
		b.log.Debug().Err(err).Str("endpoint", e.Name).Msg("an answer could not be sent")
	}
}

// Ask has a running process answer a request: *Refused when it will not do it,
// ErrNoService when there is none.
func (b *Broker) Ask(ctx context.Context, name string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, serviceTimeout, fmt.Errorf("no answer to %s within %s", servicePrefix+name, serviceTimeout))
	defer cancel()
	ctx, denied := context.WithCancelCause(ctx)
	defer denied(nil)
	watched := make(chan struct{})
	defer func() { denied(nil); <-watched }()
	go func() {
		defer close(watched)
		b.watchPermission(ctx, servicePrefix+name, denied)
	}()
	answer, err := b.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: servicePrefix + name, Data: request})
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, ErrNoService
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("ask %s: %w", servicePrefix+name, err)
	}
	if code := answer.Header.Get(micro.ErrorCodeHeader); code != "" {
		status, _ := strconv.Atoi(code)
		return nil, &Refused{Status: status, Text: answer.Header.Get(micro.ErrorHeader), Data: answer.Data}
	}
	return answer.Data, nil
}

// watchPermission ends a request that NATS does not let this user make: the server
// says so on the connection, not in an answer.
func (b *Broker) watchPermission(ctx context.Context, subject string, denied func(error)) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := b.nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(strings.ToLower(err.Error()), subject) {
				denied(fmt.Errorf("NATS does not let this user ask %s: give it permission to publish there", subject))
				return
			}
		}
	}
}
