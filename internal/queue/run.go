// Package queue does the work: it fans events out into deliveries (fanout.go), fetches the
// deliveries of each lane (lane.go, gate.go), makes attempts (attempt.go) and settles them
// (settle.go). It shares lanes and limits with other processes (replicas.go, meter.go). The
// streams and buckets are package broker's; docs/flow.md says how the files work together.
package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/tracing"
	"github.com/certpost/certpost/internal/verdict"
)

// Courier knows the targets and delivers to them.
//
// Resolve returns the targets of an event. A failure means that they cannot be
// determined: for now (the event is retried) or for good (one dead letter for the
// event).
//
// Deliver makes one attempt at one delivery and returns when the context ends at the
// latest. A receipt without a failure means that every recipient still owed has the
// mail; a failure without a receipt, that none is known to have it; both, that some
// have it. It calls a.Claim once, before any content is sent, and sends nothing when
// that fails.
//
// Lanes returns the lanes of the targets as they are defined now, LaneOf that of one
// target; false: the target is not defined, or disabled. Relays returns the
// state of the relays of a lane: for each different list of relays that a target of
// the lane has, the relays in the order in which they are tried.
//
// PauseRelay keeps this process from a relay that is at a limit of its own until the pause
// ends; a later end replaces an earlier one. ResumeRelay ends the pause.
type Courier interface {
	Resolve(ctx context.Context, ev *events.Event) ([]verdict.Route, *verdict.Failure)
	Deliver(ctx context.Context, ev *events.Event, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure)
	Lanes() []string
	LaneOf(target string) (lane string, ok bool)
	Relays(lane string) [][]verdict.RelayStatus
	PauseRelay(p verdict.RelayPause)
	ResumeRelay(relay string)
}

// Addresser may be implemented by a Courier: the Message-ID of the mail of an event to a target, and
// its recipients by the target's definition, "" and nil if there can be none. A letter about a mail
// that may have been sent says with them what to look for, and where.
type Addresser interface {
	Addressed(ev *events.Event, target string) (messageID string, recipients []string)
}

// Renamer may be implemented by a Courier: the ids that a target had before.
type Renamer interface {
	FormerIDs(target string) []string
}

// formerIDs returns the ids that a target had before.
func (r *Runner) formerIDs(target string) []string {
	if renamer, ok := r.courier.(Renamer); ok {
		return renamer.FormerIDs(target)
	}
	return nil
}

// Settings are the settings of fan-out and delivery.
type Settings struct {
	// Concurrency is the maximum number of deliveries at a time, per lane and process.
	Concurrency int
	// RetryInitial is the delay after the first failed attempt. Each further failure
	// multiplies it by RetryMultiplier, up to RetryMax.
	RetryInitial, RetryMax time.Duration
	RetryMultiplier        float64
	// GiveUpAfter is the age at which a delivery that still fails expires.
	GiveUpAfter time.Duration
	// DeadLetterUnknown makes a delivery whose outcome is unknown a dead letter
	// (DELIVERY_UNCERTAIN) instead of sending it again.
	DeadLetterUnknown bool
	// IgnoreUnmatched acknowledges events that fit no target, with a log line,
	// instead of writing a dead letter.
	IgnoreUnmatched bool
	// Grace is how long deliveries in work may continue after the process was told to
	// stop.
	Grace time.Duration
	// HostLane is the lane of the mail host that this process runs on; "" for none. Other
	// hosts' lanes are left to the processes there.
	HostLane string
	// Host takes the orders for that host; not nil with HostLane.
	Host Host
	// OnlyHost makes this process an agent: it serves HostLane and nothing else. It creates no
	// streams, resolves no events, and looks after nothing but its lane, so it needs the rights
	// for that lane only (docs/nats-permissions.md).
	OnlyHost bool
	// Tracer records spans of events and deliveries; nil: none.
	Tracer *tracing.Tracer
	// LogAddresses includes the recipients' addresses in the log.
	LogAddresses bool
	// Reached, when set, is called at each named point (points.go). Tests kill the
	// process there.
	Reached func(point string)
}

// Runner fans out events and makes deliveries with one courier.
type Runner struct {
	*broker.Broker
	log       zerolog.Logger
	courier   Courier
	set       Settings
	metrics   *Metrics
	owner     string // of leases: this process; unique to each start
	started   time.Time
	lanes     *lanes
	ledger    broker.Ledger // set by prepare
	replicas  *replicaSet
	meter     *meter      // set by prepare
	seal      events.Seal // set by prepare
	prepared  atomic.Bool // what prepare sets is set
	slow      lateGroups
	resolving *workers // owned by runFanout
	holds     holds
	// relayDelay is the longest delay of a delivery whose relay is not available.
	relayDelay time.Duration

	standstills *standstills
	reconciler  *reconciler

	progress *progress
	// stores ends when the embedded store has failed: nothing can be recorded after that.
	stores     context.Context
	endStoring context.CancelFunc

	mu       sync.Mutex
	ready    error // why nothing is delivered; nil otherwise
	storeErr error // why the server refused to store the last heartbeat
	// storeFailed says why the embedded store can no longer be written; it stays when the
	// process stops because of it.
	storeFailed error
	late        error // why it is not known whether the last heartbeat was stored
	unsure      error // why it is not known whether all streams are there
}

// embeddedOwner is the suffix of an owner that runs the embedded server. Only one
// process at a time does: it holds the lock on the store.
const embeddedOwner = "/embedded"

// NewRunner returns a Runner; Run starts it.
func NewRunner(b *broker.Broker, c Courier, set Settings, m *Metrics) *Runner {
	host, _ := os.Hostname()
	r := &Runner{
		Broker: b, log: b.Log(), courier: c, set: set, metrics: m, ready: errors.New("starting"), started: time.Now(),
		owner: fmt.Sprintf("%s/%d/%s", host, os.Getpid(), nuid.Next()), standstills: newStandstills(), relayDelay: longestRelayDelay,
	}
	if b.Embedded() {
		r.owner += embeddedOwner
	}
	r.stores, r.endStoring = context.WithCancel(context.Background())
	r.lanes = newLanes(r)
	r.reconciler = newReconciler(r)
	r.replicas = newReplicaSet(r.log, newRelayPauses(c, r.log), r.lanes.wakeAll)
	r.progress = newProgress()
	return r
}

// Run works until the context ends. Then it stops fetching, lets the deliveries in work
// finish within the grace period and NAKs the rest. It returns early only with
// ErrNotOurs, ErrNewerLayout, ErrUnfinishedRestore, ErrAuditKey or ErrStoreFailed, which an operator has to fix before anything can be
// delivered.
func (r *Runner) Run(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	// work continues for the grace period after ctx has ended.
	work, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	stop := context.AfterFunc(ctx, func() {
		r.setReady(errStopping)
		time.AfterFunc(r.set.Grace, abort)
	})
	defer stop()

	var wg sync.WaitGroup
	if r.set.OnlyHost {
		wg.Go(func() { r.followSuspension(ctx) })
	} else {
		wg.Go(func() { r.replicas.follow(ctx) })
		wg.Go(func() { r.reconciler.run(ctx) })
		wg.Go(func() { r.runFanout(ctx, work) })
	}
	wg.Go(func() { r.replicas.runHeartbeats(ctx, r.heartbeat, r.tidy, r.setStored) })
	wg.Go(func() { r.watchStandstills(ctx) })
	wg.Go(func() { r.serveHost(ctx) })
	wg.Go(func() { r.lanes.run(ctx, work) })
	wg.Go(func() { r.probe(ctx) })
	wg.Go(func() { r.RunCheckpoints(ctx) })
	wg.Go(func() {
		r.watchStore(ctx, func(err error) {
			// Nothing that is in work can be recorded any more. A mail that is cut off
			// before its end is sent once, by the next process.
			r.endStoring()
			abort()
			fail(err)
		})
	})
	wg.Wait()
	r.savePauses()
	if err := context.Cause(ctx); errors.Is(err, broker.ErrStoreFailed) {
		return err
	}
	end, cancel := r.outlast(lastCheckpoint)
	defer cancel()
	if err := r.WriteCheckpoint(end); err != nil {
		r.log.Debug().Err(err).Msg("the audit does not cover the receipts of the last deliveries; the next process covers them")
	}
	return nil
}

// lastCheckpoint bounds the last checkpoint, for which the process waits before it ends.
const lastCheckpoint = 5 * time.Second

// outlast returns a context for what shall be stored although the work has been told to
// stop. It ends after a time, and with the store.
func (r *Runner) outlast(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.stores, d)
}

// watchStore calls fail when the embedded store has failed, and tells why by Ready from the
// moment it is noticed. Two checks in a row must say so: a stream that is deleted during a
// write looks the same until it is gone.
func (r *Runner) watchStore(ctx context.Context, fail func(error)) {
	for before := false; r.Embedded() && ctx.Err() == nil; backoff.Sleep(ctx, broker.StoreLookEvery) {
		err := r.StoreFailed()
		r.mu.Lock()
		r.storeFailed = err
		r.mu.Unlock()
		if err != nil && before {
			r.log.Error().Err(err).Msg("certpost stops, because nothing can be stored")
			fail(err)
			return
		}
		before = err != nil
	}
}

// openRelays opens the relays bucket and reads the other replicas and the suspensions.
func (r *Runner) openRelays(ctx context.Context) error {
	kv, err := r.OpenRelays(ctx)
	if err != nil {
		return err
	}
	r.meter = newMeter(kv, r.log, r.standstills.report, r.metrics.left)
	if r.set.OnlyHost {
		return r.openSuspension(ctx, kv)
	}
	return r.replicas.open(ctx, kv)
}

// prepare ensures the topology and opens the buckets. It retries until that succeeds or
// ctx ends, but returns at once with ErrNotOurs, ErrNewerLayout, ErrUnfinishedRestore and ErrAuditKey.
func (r *Runner) prepare(ctx context.Context) error {
	connected := r.Conn().StatusChanged(nats.CONNECTED)
	defer r.Conn().RemoveStatusListener(connected)
	for delay := time.Second; ; delay = min(2*delay, 30*time.Second) {
		var err error
		if !r.set.OnlyHost {
			err = r.EnsureTopology(ctx)
		}
		if err == nil {
			err = r.PrepareAudit(ctx)
		}
		if err == nil {
			r.ledger, err = r.OpenLedger(ctx)
		}
		if err == nil {
			err = r.openRelays(ctx)
		}
		if err == nil && !r.set.OnlyHost { // the others' key is not for a mail host: it reads deliveries as unsealed ones
			r.seal, err = r.OpenSeal(ctx)
		}
		if err == nil {
			r.prepared.Store(true)
			r.setReady(nil)
			return nil
		}
		if errors.Is(err, broker.ErrNotOurs) || errors.Is(err, broker.ErrNewerLayout) || errors.Is(err, broker.ErrUnfinishedRestore) || errors.Is(err, broker.ErrAuditKey) {
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
		case <-connected: // usually the connection was the problem
		case <-time.After(delay):
		}
	}
}

// Ready returns nil when events and deliveries get on, otherwise the reason why not. It
// says what the work has shown, and asks nobody, so it answers at once.
func (r *Runner) Ready(context.Context) error {
	if err := r.Disconnected(); err != nil {
		return err
	}
	r.mu.Lock()
	err, storeErr, failed := r.ready, r.storeErr, r.storeFailed
	r.mu.Unlock()
	if failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	if storeErr != nil {
		return fmt.Errorf("JetStream cannot store messages: %w", storeErr)
	}
	stands, _ := r.progress.state(time.Now())
	return stands
}

// heartbeat returns what this process reports of itself.
func (r *Runner) heartbeat() broker.Heartbeat {
	_, key := r.Sealed()
	return broker.Heartbeat{Process: r.owner, Lanes: r.LaneStatus(), Standstills: r.standstills.current(), AuditKey: key}
}

// Degraded returns what does not work although events and deliveries get on; nil if
// everything does.
func (r *Runner) Degraded() error {
	_, hurts := r.progress.state(time.Now())
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for what, err := range map[string]error{
		"this process's heartbeat is late, so that rates and connections may be shared wrongly": r.late,
		"not all streams could be checked": r.unsure,
		"not every lane gets on":           hurts,
	} {
		if err != nil {
			all = append(all, what+": "+why(err))
		}
	}
	return joined(all)
}

// setStored records whether the last heartbeat could be stored. A server that refuses it
// stores nothing else either. If it does not answer, that says nothing of other streams.
// Without a connection nothing can be stored; Ready reports that by itself.
func (r *Runner) setStored(err error) {
	if err != nil && !r.Conn().IsConnected() {
		return
	}
	r.mu.Lock()
	before := r.storeErr
	r.storeErr, r.late = nil, nil
	if broker.Unanswered(err) {
		r.late = err
	} else {
		r.storeErr = broker.Explain(err, "KV_"+broker.RelaysBucket)
	}
	after := r.storeErr
	r.mu.Unlock()
	switch {
	case after != nil && before == nil:
		r.log.Error().Err(after).Msg("JetStream cannot store messages; deliveries wait")
	case after == nil && before != nil:
		r.log.Info().Msg("JetStream stores messages again")
	}
}

// setChecked records the result of checking the streams. If one does not answer, the work
// shows whether that matters.
func (r *Runner) setChecked(err error) {
	if broker.Unanswered(err) {
		r.mu.Lock()
		r.unsure = err
		r.mu.Unlock()
		return
	}
	r.mu.Lock()
	r.unsure = nil
	r.mu.Unlock()
	r.setReady(err)
}

// setReady records the reason for not being ready, nil when ready. errStopping is final.
func (r *Runner) setReady(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ready != errStopping {
		r.ready = err
	}
}

var errStopping = errors.New("shutting down")

// retryDelay returns the delay after the n-th failed attempt, with jitter.
func (s Settings) retryDelay(n int) time.Duration {
	d := float64(s.RetryInitial)
	for i := 1; i < n && d < float64(s.RetryMax); i++ {
		d *= s.RetryMultiplier
	}
	return backoff.Jitter(min(time.Duration(d), s.RetryMax))
}

// deadLetterDelay returns the delay after a dead letter could not be stored.
func (s Settings) deadLetterDelay() time.Duration {
	return backoff.Jitter(min(30*time.Second, s.RetryMax))
}

// Name is the name of this process, host/pid/id: unique to each start.
func (r *Runner) Name() string { return r.owner }
