// Package road runs the path from a published event to a relay's reply in one process,
// for benchmarks: JetStream with its store on the disk, courier and runner connected as
// in `certpost run`, and a clock at both ends.
package road

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/queue"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
)

// patience is how long a Road waits for what must happen: far longer than it takes.
const patience = 10 * time.Minute

// Options configure a Road. The zero value has no targets and is not useful.
type Options struct {
	// Dir is the directory of the store. It must be on a real disk, otherwise the figures
	// mean nothing.
	Dir string
	// Sync is nats.sync_interval: "always" or a Go duration.
	Sync string
	// Concurrency of each lane.
	Concurrency int
	// Targets that events may name.
	Targets []delivery.Target
	// Closed makes deliveries wait, before the courier runs, until Begin is called.
	Closed bool
	// Log receives the log in JSON, from level info on as in production; nil: no log.
	Log io.Writer
}

// leaves is the number of different certificates: more than the program keeps parsed, so that
// each event of a measurement is one that it has not met before.
const leaves = 512

// Road is a running path. It is safe for concurrent use.
type Road struct {
	*Clock
	broker *broker.Broker
	runner *queue.Runner
	store  *secrets.Store
	chains []string // the certificates of the events, in PEM, in turn
	next   atomic.Int64
	stop   func() error
}

// Open starts a Road and returns when it is ready for events.
func Open(ctx context.Context, o Options) (r *Road, err error) {
	r = &Road{stop: func() error { return nil }}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	for range leaves {
		chain, err := NewChain("www.example.com")
		if err != nil {
			return r, err
		}
		r.chains = append(r.chains, chain)
	}
	log := zerolog.New(io.Discard)
	if o.Log != nil {
		log = zerolog.New(o.Log)
	}
	log = log.Level(zerolog.InfoLevel).With().Timestamp().Logger()
	definitions, problems := delivery.Relays{}.Define(o.Targets)
	if definitions == nil {
		return r, fmt.Errorf("targets: %w", problems[0])
	}
	if r.store, err = secrets.Open(secrets.Config{}, log); err != nil {
		return r, err
	}
	r.Clock = newClock(delivery.NewCourier(delivery.NewBook(definitions, delivery.Source{}), r.store, delivery.Options{}), o.Closed)
	r.broker, err = broker.Open(broker.Config{DataDir: o.Dir, Listen: "none", SyncInterval: o.Sync}, log)
	if err != nil {
		return r, err
	}
	r.runner = queue.NewRunner(r.broker, r.Clock, queue.Settings{
		Concurrency: o.Concurrency, RetryInitial: 5 * time.Second, RetryMax: time.Hour, RetryMultiplier: 2,
		GiveUpAfter: 72 * time.Hour, Grace: 25 * time.Second,
	}, queue.NewMetrics(prometheus.NewRegistry()))

	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- r.runner.Run(running) }()
	r.stop = func() error { cancel(); return <-done }
	return r, Poll(ctx, patience, func() error { return r.runner.Ready(ctx) })
}

// Close stops the Road after the deliveries in progress have finished.
func (r *Road) Close() error {
	if r.Clock != nil {
		r.Begin()
	}
	err := r.stop()
	if r.Clock != nil {
		r.Courier.Close()
	}
	if r.broker != nil {
		r.broker.Close()
	}
	if r.store != nil {
		r.store.Close()
	}
	return err
}

// Publish publishes an event with this id for the targets and returns when the
// stream has stored it.
func (r *Road) Publish(ctx context.Context, id string, targets ...string) error {
	chain := r.chains[int(r.next.Add(1))%len(r.chains)]
	ev := &events.Event{ID: id, Source: "bench://ca", Time: time.Now(), Certificate: events.Certificate{PEM: chain}, Targets: targets}
	r.published(id)
	_, _, err := r.broker.Publish(ctx, ev)
	return err
}

// Stored waits until at least that many deliveries are in their stream and no event
// waits for the fan-out.
func (r *Road) Stored(ctx context.Context, deliveries int) error {
	return Poll(ctx, patience, func() error {
		b, err := r.broker.Backlog(ctx)
		if err == nil && (b.Events > 0 || b.Deliveries < uint64(deliveries)) {
			err = fmt.Errorf("%d events and %d deliveries are in the streams, want 0 and %d", b.Events, b.Deliveries, deliveries)
		}
		return err
	})
}

// GivenUp waits until the breaker of a relay is not closed.
func (r *Road) GivenUp(ctx context.Context) error {
	return Poll(ctx, patience, func() error {
		for _, lane := range r.runner.LaneStatus() {
			if lane.Breaker != "closed" {
				return nil
			}
		}
		return errors.New("the breakers of all relays are closed")
	})
}

// Send runs that many publishers, each with one event at a time, until the relay has
// accepted that many mails for the target. Event ids begin with prefix.
func (r *Road) Send(ctx context.Context, publishers, mails int, prefix, target string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	numbers := make(chan int)
	var wg sync.WaitGroup
	for range publishers {
		wg.Go(func() {
			for i := range numbers {
				if err := r.send(ctx, prefix+strconv.Itoa(i), target); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range mails {
		numbers <- i
	}
	close(numbers)
	wg.Wait()
	return context.Cause(ctx)
}

func (r *Road) send(ctx context.Context, id, target string) error {
	taken := r.Expect(id)
	if err := r.Publish(ctx, id, target); err != nil {
		return err
	}
	select {
	case <-taken:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Minute):
		return fmt.Errorf("event %s was not delivered within a minute", id)
	}
}

// Target returns a target that mails the certificate to a relay in plaintext and
// without a login.
func Target(id, address string) (delivery.Target, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return delivery.Target{}, err
	}
	t := delivery.Target{
		ID: id, Host: host, TLSMode: smtp.TLSPlaintext,
		FromAddress: "certpost@example.com", To: []string{"certificates@example.com"}, Payload: payload.PEM,
	}
	if t.Port, err = strconv.Atoi(port); err != nil {
		return t, err
	}
	t.SetDefaults()
	return t, nil
}

// Credentials that SubmissionTarget uses at the relay.
const user, password = "certpost", "bench-password"

// Relay starts a relay that counts mails and keeps none. With login it accepts mail
// only after a login, which it offers only over TLS.
func Relay(login bool) (*devrelay.Relay, error) {
	c := devrelay.Config{Discard: true}
	if login {
		c.Users = map[string]string{user: password}
	}
	return devrelay.Start(c)
}

// Mailbox starts a relay that requires a login and keeps up to 1,048,576 mails, however
// large they are together: a benchmark looks at all of them at its end.
func Mailbox() (*devrelay.Relay, error) { return SlowMailbox(0) }

// SlowMailbox is Mailbox with a relay that takes that long to accept a mail.
func SlowMailbox(delay time.Duration) (*devrelay.Relay, error) {
	return devrelay.Start(devrelay.Config{MaxMails: 1 << 20, MaxMailboxBytes: math.MaxInt, Users: map[string]string{user: password}, Delay: delay})
}

// SubmissionTarget returns a target as in production: STARTTLS with a verified
// certificate, AUTH PLAIN with a password from a file. It writes the files into dir.
func SubmissionTarget(id string, relay *devrelay.Relay, dir string) (delivery.Target, error) {
	t, err := Target(id, relay.Submission())
	if err != nil {
		return t, err
	}
	t.TLSMode, t.AuthMethod, t.Username = smtp.TLSStartTLS, smtp.AuthPlain, delivery.Text{Plain: user}
	if t.CAFile, err = relay.CAFile(dir); err != nil {
		return t, err
	}
	t.Password = secrets.Ref{File: filepath.Join(dir, "password")}
	return t, os.WriteFile(t.Password.File, []byte(password), 0o600)
}

// FreeAddress returns a free address on loopback, with a port from 20000 to 29999.
// Systems do not assign these ports to clients, so that no outgoing connection on this
// machine takes the port while the server that listens there is dead.
func FreeAddress() (address string, err error) {
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(20_000+rand.IntN(10_000)))); err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", err
}
