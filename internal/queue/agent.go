package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
)

// An agent (Settings.OnlyHost) is the process on a mail host that serves the lane of that host and
// nothing else. What the others do for all lanes, they do for this one too: they create the
// streams and the consumer, and look for lost, stranded and stray deliveries. So it never asks
// for a list, and its rights name its lane.

// reconcileHost is reconcile of an agent.
func (ls *lanes) reconcileHost(ctx context.Context) ([]string, error) {
	name := ls.r.set.HostLane
	consumer, err := ls.r.JetStream().Consumer(ctx, broker.DeliveriesStream, broker.LaneConsumerPrefix+name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		err = fmt.Errorf("lane %s has no consumer: it is created by a process without --mail-host, once its definitions have a target on this host", name)
	}
	ls.r.setChecked(err)
	if err != nil {
		return nil, err
	}
	ls.checkProgress(name, consumer.CachedInfo())
	return []string{name}, nil
}

// suspensionEvery is the time between two looks of an agent at whether its lane is suspended.
const suspensionEvery = 2 * time.Second

// openSuspension reads for the first time whether the lane is suspended, before anything is
// fetched. An agent has one heartbeat, of a name that its rights can have.
func (r *Runner) openSuspension(ctx context.Context, kv jetstream.KeyValue) error {
	r.replicas.kv, r.replicas.id = kv, r.set.HostLane
	r.replicas.mu.Lock()
	r.replicas.joined = time.Now()
	r.replicas.mu.Unlock()
	return r.readSuspension(ctx)
}

// followSuspension keeps that up to date until the context ends.
func (r *Runner) followSuspension(ctx context.Context) {
	for ctx.Err() == nil {
		backoff.Sleep(ctx, suspensionEvery)
		if err := r.readSuspension(ctx); err != nil && ctx.Err() == nil {
			r.log.Debug().Err(err).Msg("whether the lane is suspended cannot be read now; what is known stays in force")
		}
	}
}

func (r *Runner) readSuspension(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.RequestTimeout())
	defer cancel()
	lane := r.set.HostLane
	e, err := r.replicas.kv.Get(ctx, broker.SuspendedPrefix+lane)
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("read %s: %w", broker.RelaysBucket, err)
	}
	rs := r.replicas
	rs.mu.Lock()
	before := rs.suspended[lane].Revision
	delete(rs.suspended, lane)
	if err == nil {
		rs.suspended[lane] = broker.ReadSuspension(lane, e)
	}
	changed := before != rs.suspended[lane].Revision
	rs.mu.Unlock()
	if changed {
		rs.changed()
	}
	return nil
}
