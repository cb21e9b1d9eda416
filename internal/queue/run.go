// Package queue is the work: it fans events out into deliveries (fanout.go), fetches them lane
// by lane (lane.go, gate.go), makes attempts (attempt.go) and settles what came of them
// (settle.go), side by side with other processes (replicas.go, meter.go). What lies in JetStream
// for that is package broker's; docs/flow.md tells how the files follow each other.
package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// Courier knows the targets and carries deliveries to them.
//
// Resolve says who gets an event. A failure means that it cannot be said: for
// now (the event comes back) or for good (one dead letter for the event).
//
// Deliver makes one try at one delivery and returns within the context. A
// receipt alone means that every recipient still owed has the mail; a failure
// alone that none has; both, that some have. It calls a.Claim once, before any
// content goes out, and sends nothing when that fails.
//
// Lanes are the lanes of the targets as they are defined now. Relays are what is
// known of the relays of a lane: for every different list that one of its targets
// has, the relays in the order in which they are tried.
type Courier interface {
	Resolve(ctx context.Context, ev *events.Event) ([]verdict.Route, *verdict.Failure)
	Deliver(ctx context.Context, ev *events.Event, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure)
	Lanes() []string
	Relays(lane string) [][]verdict.RelayStatus
}

// Settings are the rules of delivery.
type Settings struct {
	// Concurrency is the number of deliveries at a time, per lane and process.
	Concurrency int
	// Retry is the delay after the first failed attempt, its growth and its end.
	RetryInitial, RetryMax time.Duration
	RetryMultiplier        float64
	// GiveUpAfter is the age at which a delivery that still fails is dead.
	GiveUpAfter time.Duration
	// DeadLetterUnknown makes a delivery whose outcome is unknown a dead letter
	// (DELIVERY_UNCERTAIN) instead of sending it again.
	DeadLetterUnknown bool
	// IgnoreUnmatched acknowledges events that fit no target, with a log line,
	// instead of writing a dead letter.
	IgnoreUnmatched bool
	// Grace is how long work under way may go on after the end was asked for.
	Grace time.Duration
	// LogAddresses puts recipients' addresses into the log.
	LogAddresses bool
	// Reached, when set, is told when a named point (points.go) is reached. Tests
	// end the process there.
	Reached func(point string)
}

// Runner is a broker at work for one courier.
type Runner struct {
	*broker.Broker
	log      zerolog.Logger
	courier  Courier
	set      Settings
	metrics  *Metrics
	owner    string // of leases: this process, never used again
	lanes    *lanes
	ledger   broker.Ledger // set by prepare
	replicas *replicaSet
	meter    *meter // set by prepare

	mu       sync.Mutex
	ready    error
	storeErr error // why the last heartbeat was not stored
}

// embeddedOwner ends the name of an owner that runs the embedded server; there is
// one at a time, which holds the lock on the store.
const embeddedOwner = "/embedded"

// NewRunner prepares the work; Run does it.
func NewRunner(b *broker.Broker, c Courier, set Settings, m *Metrics) *Runner {
	host, _ := os.Hostname()
	r := &Runner{
		Broker: b, log: b.Log(), courier: c, set: set, metrics: m, ready: errors.New("starting"),
		owner: fmt.Sprintf("%s/%d/%s", host, os.Getpid(), nuid.Next()),
	}
	if b.Embedded() {
		r.owner += embeddedOwner
	}
	r.lanes = newLanes(r)
	r.replicas = newReplicaSet(r.log, r.lanes.wakeAll)
	return r
}

// Run works until the context ends, then stops fetching, lets what is under way
// finish within the grace and gives the rest back. It returns early only with
// ErrNotOurs or ErrStoreFailed: what needs a person before anything can be delivered.
func (r *Runner) Run(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	// Work outlives the request to stop by the grace.
	work, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	stop := context.AfterFunc(ctx, func() {
		r.setReady(errStopping)
		time.AfterFunc(r.set.Grace, abort)
	})
	defer stop()

	var wg sync.WaitGroup
	wg.Go(func() { r.replicas.follow(ctx) })
	wg.Go(func() { r.replicas.runHeartbeats(ctx, r.owner, r.LaneStatus, r.tidy, r.setStored) })
	wg.Go(func() { r.lanes.run(ctx, work) })
	wg.Go(func() { r.runFanout(ctx, work) })
	wg.Go(func() { r.watchStore(ctx, fail) })
	wg.Wait()
	if err := context.Cause(ctx); errors.Is(err, broker.ErrStoreFailed) {
		return err
	}
	return nil
}

// watchStore calls fail when the embedded store has failed, which two looks have to
// say: a stream that somebody deletes amid a write looks the same until it is gone.
func (r *Runner) watchStore(ctx context.Context, fail context.CancelCauseFunc) {
	for r.Embedded() && ctx.Err() == nil {
		if r.StoreFailed() != nil {
			backoff.Sleep(ctx, broker.StoreLookEvery/5)
			if err := r.StoreFailed(); err != nil {
				r.log.Error().Err(err).Msg("certpost ends, because nothing can be stored")
				fail(err)
				return
			}
		}
		backoff.Sleep(ctx, broker.StoreLookEvery)
	}
}

// openRelays reads who else is there and which lanes are suspended.
func (r *Runner) openRelays(ctx context.Context) error {
	kv, err := r.OpenRelays(ctx)
	if err != nil {
		return err
	}
	r.meter = newMeter(kv, r.log)
	return r.replicas.open(ctx, kv)
}

// prepare brings the topology up, waiting for NATS as long as it takes.
func (r *Runner) prepare(ctx context.Context) error {
	connected := r.Conn().StatusChanged(nats.CONNECTED)
	defer r.Conn().RemoveStatusListener(connected)
	for delay := time.Second; ; delay = min(2*delay, 30*time.Second) {
		err := r.EnsureTopology(ctx)
		if err == nil {
			r.ledger, err = r.OpenLedger(ctx)
		}
		if err == nil {
			err = r.openRelays(ctx)
		}
		if err == nil {
			r.setReady(nil)
			return nil
		}
		if errors.Is(err, broker.ErrNotOurs) {
			r.setReady(err)
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		r.setReady(err)
		r.log.Warn().Err(err).Dur("again_in", delay).Msg("JetStream is not ready; nothing is delivered until it is")
		select {
		case <-ctx.Done():
		case <-connected: // the wait was for that, most of the time
		case <-time.After(delay):
		}
	}
}

// Ready says whether deliveries are worked on: nil, or the reason why not.
func (r *Runner) Ready(ctx context.Context) error {
	if err := r.Disconnected(); err != nil {
		return err
	}
	r.mu.Lock()
	err, storeErr := r.ready, r.storeErr
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if storeErr != nil {
		return fmt.Errorf("JetStream stores nothing: %w", storeErr)
	}
	return r.Health(ctx)
}

// setStored keeps whether the last heartbeat was stored. Without a connection
// nothing is, which is said elsewhere.
func (r *Runner) setStored(err error) {
	if err != nil && !r.Conn().IsConnected() {
		return
	}
	r.mu.Lock()
	before := r.storeErr
	r.storeErr = err
	r.mu.Unlock()
	switch {
	case err != nil && before == nil:
		r.log.Error().Err(err).Msg("JetStream stores nothing; deliveries wait")
	case err == nil && before != nil:
		r.log.Info().Msg("JetStream stores again")
	}
}

// setReady records the reason for not being ready; the end of the run is final.
func (r *Runner) setReady(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ready != errStopping {
		r.ready = err
	}
}

var errStopping = errors.New("shutting down")

// retryDelay is the delay after the n-th failed attempt.
func (s Settings) retryDelay(n int) time.Duration {
	d := float64(s.RetryInitial)
	for i := 1; i < n && d < float64(s.RetryMax); i++ {
		d *= s.RetryMultiplier
	}
	return backoff.Jitter(min(time.Duration(d), s.RetryMax))
}

// unburiedDelay is the delay of what waits for its dead letter to be stored.
func (s Settings) deadLetterDelay() time.Duration {
	return backoff.Jitter(min(30*time.Second, s.RetryMax))
}
