package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
)

// rewatchAfter is the time after which the bucket is copied again and watched anew: a
// watch does not report that the stream was purged, or replaced by another one.
const rewatchAfter = 30 * time.Second

// replicaSet holds what this process knows of the other processes and of the suspended
// lanes: a copy of the relays bucket, kept up to date by a watch.
type replicaSet struct {
	id               string // of this process
	kv               jetstream.KeyValue
	log              zerolog.Logger
	every            time.Duration // between heartbeats
	rewatch          time.Duration // between copies
	changed          func()        // called when a suspension or a pause of a relay began or ended
	pauses           *relayPauses
	heartbeatRequest chan struct{} // requests a heartbeat now

	hostSeen time.Time // when the last record of sawHost was written; owned by runHeartbeats

	mu        sync.Mutex
	joined    time.Time
	others    map[string]peer // by id
	suspended map[string]broker.Suspension
	gone      map[string]bool // ids of ended processes, whose keys can be removed
}

// peer is another process: the revision of its latest heartbeat, and when this process
// received it, by its own clock.
type peer struct {
	revision uint64
	lastSeen time.Time
}

func newReplicaSet(log zerolog.Logger, pauses *relayPauses, changed func()) *replicaSet {
	return &replicaSet{
		id: nuid.Next(), log: log, every: broker.HeartbeatEvery, rewatch: rewatchAfter, changed: changed, pauses: pauses, heartbeatRequest: make(chan struct{}, 1),
		others: map[string]peer{}, suspended: map[string]broker.Suspension{}, gone: map[string]bool{},
	}
}

// open copies the bucket for the first time. It is called before anything is fetched, so
// that nothing is fetched from a suspended lane.
func (rs *replicaSet) open(ctx context.Context, kv jetstream.KeyValue) error {
	rs.kv = kv
	rs.mu.Lock()
	rs.joined = time.Now()
	rs.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return rs.watch(ctx, true)
}

// follow keeps the copy up to date until the context ends.
func (rs *replicaSet) follow(ctx context.Context) {
	var lastLogged time.Time
	for ctx.Err() == nil {
		round, cancel := context.WithTimeout(ctx, rs.rewatch)
		err := rs.watch(round, false)
		cancel()
		if err == nil || ctx.Err() != nil {
			continue
		}
		if time.Since(lastLogged) > time.Minute { // NATS may be unavailable for a day
			lastLogged = time.Now()
			rs.log.Warn().Err(err).Msg("suspensions cannot be watched; the known ones stay in force")
		}
		backoff.Sleep(ctx, time.Second)
	}
}

// watch copies the bucket and then applies its changes until the context ends; with once,
// it returns when the copy is complete.
func (rs *replicaSet) watch(ctx context.Context, once bool) error {
	w, err := rs.kv.WatchFiltered(ctx, []string{broker.SuspendedPrefix + "*", broker.ReplicaPrefix + "*", broker.PausePrefix + ">"})
	if err != nil {
		return fmt.Errorf("watch %s: %w", broker.RelaysBucket, err)
	}
	defer func() { _ = w.Stop() }() // fails without a connection
	var first []jetstream.KeyValueEntry
	complete := false
	for {
		select {
		case <-ctx.Done():
			if !complete {
				return fmt.Errorf("watch %s: %w", broker.RelaysBucket, ctx.Err())
			}
			return nil
		case entry, ok := <-w.Updates():
			switch {
			case !ok:
				return fmt.Errorf("watch %s: %w", broker.RelaysBucket, broker.ErrWatchEnded)
			case complete:
				rs.apply(entry)
			case entry != nil:
				first = append(first, entry)
			default:
				complete = true
				rs.reload(first)
				if once {
					return nil
				}
			}
		}
	}
}

// reload replaces the copy by the entries of the bucket.
func (rs *replicaSet) reload(entries []jetstream.KeyValueEntry) {
	there := make(map[string]bool)
	for _, e := range entries {
		there[e.Key()] = true
	}
	resumed := rs.pauses.keep(there)
	rs.mu.Lock()
	before := len(rs.suspended)
	maps.DeleteFunc(rs.suspended, func(lane string, _ broker.Suspension) bool { return !there[broker.SuspendedPrefix+lane] })
	maps.DeleteFunc(rs.others, func(id string, _ peer) bool { return !there[broker.ReplicaPrefix+id] })
	resumed = resumed || len(rs.suspended) < before
	rs.mu.Unlock()
	if resumed {
		rs.changed()
	}
	for _, e := range entries {
		rs.apply(e)
	}
}

// apply updates the copy with one entry.
func (rs *replicaSet) apply(e jetstream.KeyValueEntry) {
	if strings.HasPrefix(e.Key(), broker.PausePrefix) {
		rs.pauses.apply(e)
		go rs.changed()
		return
	}
	removed := e.Operation() != jetstream.KeyValuePut
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if id, ok := strings.CutPrefix(e.Key(), broker.ReplicaPrefix); ok && id != rs.id {
		switch {
		case removed:
			delete(rs.others, id)
			rs.gone[id] = true
		case rs.others[id].revision != e.Revision():
			rs.others[id] = peer{e.Revision(), time.Now()}
		}
	}
	lane, ok := strings.CutPrefix(e.Key(), broker.SuspendedPrefix)
	if !ok {
		return
	}
	if removed {
		delete(rs.suspended, lane)
	} else if rs.suspended[lane].Revision != e.Revision() {
		rs.suspended[lane] = broker.ReadSuspension(lane, e)
	}
	go rs.changed()
}

// suspension returns the suspension of a lane and whether it is in force.
func (rs *replicaSet) suspension(lane string, now time.Time) (broker.Suspension, bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	s, ok := rs.suspended[lane]
	return s, ok && !s.Expired(now)
}

// live returns the ids of this process and of those whose last heartbeat is younger than
// three intervals, sorted.
func (rs *replicaSet) live(now time.Time) []string {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	ids := []string{rs.id}
	for id, p := range rs.others {
		if now.Sub(p.lastSeen) < 3*rs.every {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// share returns this process's part of a total that is divided among all processes. A
// process that has just started gets nothing until the others have its heartbeat.
func (rs *replicaSet) share(total int, now time.Time) int {
	live := rs.live(now)
	rs.mu.Lock()
	joining := now.Sub(rs.joined) < rs.every
	rs.mu.Unlock()
	if len(live) > 1 && joining {
		return 0
	}
	part := total / len(live)
	if slices.Index(live, rs.id) < total%len(live) {
		part++
	}
	return part
}

// heartbeatNow requests a heartbeat now, because this process serves another lane: until
// then the lane looks as if no process served it.
func (rs *replicaSet) heartbeatNow() {
	select {
	case rs.heartbeatRequest <- struct{}{}:
	default: // requested already
	}
}

// runHeartbeats stores a heartbeat every few seconds until the context ends, and then
// deletes it. report gets the result of each write, which also tells whether anything
// can be stored.
func (rs *replicaSet) runHeartbeats(ctx context.Context, status func() broker.Heartbeat, tidy func(context.Context), report func(error)) {
	tick := time.NewTicker(rs.every)
	defer tick.Stop()
	for {
		value, err := json.Marshal(status())
		if err == nil {
			once, cancel := context.WithTimeout(ctx, rs.every)
			_, err = rs.kv.Put(once, broker.ReplicaPrefix+rs.id, value)
			cancel()
		}
		if ctx.Err() == nil {
			report(err)
		}
		tidy(ctx)
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			_ = rs.kv.Delete(end, broker.ReplicaPrefix+rs.id) // if it fails, the others miss its heartbeats
			return
		case <-tick.C:
		case <-rs.heartbeatRequest:
		}
	}
}

// takeGone returns the ids of processes that have ended, each only once.
func (rs *replicaSet) takeGone(now time.Time) []string {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for id, p := range rs.others {
		if now.Sub(p.lastSeen) > time.Minute {
			delete(rs.others, id)
			rs.gone[id] = true
		}
	}
	ids := slices.Sorted(maps.Keys(rs.gone))
	clear(rs.gone)
	return ids
}

// inForce returns the suspensions that have not expired, sorted by lane.
func (rs *replicaSet) inForce(now time.Time) (list []broker.Suspension) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, lane := range slices.Sorted(maps.Keys(rs.suspended)) {
		if s := rs.suspended[lane]; !s.Expired(now) {
			list = append(list, s)
		}
	}
	return list
}

// expired returns the suspensions that have expired.
func (rs *replicaSet) expired(now time.Time) (list []broker.Suspension) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, s := range rs.suspended {
		if s.Expired(now) {
			list = append(list, s)
		}
	}
	return list
}

// Suspensions returns the suspensions in force, sorted by lane, as this process knows
// them.
func (r *Runner) Suspensions() []broker.Suspension { return r.replicas.inForce(time.Now()) }

// hostSeenEvery is the time between two records that this process runs on its mail host. One
// is written at the end, too.
const hostSeenEvery = time.Minute

// sawHost records that this process runs on a mail host, so that the others can say since when it
// is away.
func (rs *replicaSet) sawHost(ctx context.Context, lane string, record func(context.Context, jetstream.KeyValue, string, string) error, process string) {
	if lane == "" || ctx.Err() == nil && time.Since(rs.hostSeen) < hostSeenEvery {
		return
	}
	once, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := record(once, rs.kv, lane, process); err != nil {
		rs.log.Debug().Err(err).Str("lane", lane).Msg("it could not be recorded that this process runs on its mail host")
		return
	}
	rs.hostSeen = time.Now()
}

// tidy ends expired suspensions, so that the audit has a record of it, and removes the
// keys of ended processes; it stores the new pauses of relays and removes those that are
// over. All replicas do this; the result is the same.
func (r *Runner) tidy(ctx context.Context) {
	r.replicas.sawHost(ctx, r.set.HostLane, r.SawHost, r.owner)
	if r.set.OnlyHost {
		return
	}
	r.replicas.pauses.store(ctx, r.replicas.kv, r.RequestTimeout())
	for _, s := range r.replicas.expired(time.Now()) {
		if err := r.EndSuspension(ctx, r.replicas.kv, s.Lane, s.Revision, broker.ProcessActor(r.owner), "the suspension expired"); err != nil {
			r.log.Debug().Err(err).Str("lane", s.Lane).Msg("an expired suspension could not be removed; it has no effect")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, r.RequestTimeout())
	defer cancel()
	for _, id := range r.replicas.takeGone(time.Now()) {
		if err := r.ForgetReplica(ctx, id); err != nil {
			r.log.Debug().Err(err).Str("replica", id).Msg("the entry of an ended process could not be removed")
		}
	}
}
