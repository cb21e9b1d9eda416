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

// watchAgain is how often the copy of the bucket is made anew: a watch does not
// hear of a stream that was purged, or replaced by another one.
const watchAgain = 30 * time.Second

// roster is what this process knows of the others, and of the lanes that somebody
// has suspended: a copy of the bucket, kept up to date by watching it.
type roster struct {
	id      string // of this process
	kv      jetstream.KeyValue
	log     zerolog.Logger
	every   time.Duration // between heartbeats
	again   time.Duration // between copies
	changed func()        // told when a suspension came or went
	news    chan struct{} // asks for a heartbeat now

	mu        sync.Mutex
	began     time.Time
	others    map[string]peer // by id
	suspended map[string]broker.Suspension
	gone      map[string]bool // ids whose keys can be swept away
}

// peer is another process: its latest heartbeat, and when that came, by our clock.
type peer struct {
	revision uint64
	heard    time.Time
}

func newRoster(log zerolog.Logger, changed func()) *roster {
	return &roster{
		id: nuid.Next(), log: log, every: broker.HeartbeatEvery, again: watchAgain, changed: changed, news: make(chan struct{}, 1),
		others: map[string]peer{}, suspended: map[string]broker.Suspension{}, gone: map[string]bool{},
	}
}

// open takes the first look: nothing is fetched from a suspended lane before it is
// known to be suspended.
func (o *roster) open(ctx context.Context, kv jetstream.KeyValue) error {
	o.kv = kv
	o.mu.Lock()
	o.began = time.Now()
	o.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return o.watch(ctx, true)
}

// follow keeps the copy up to date until the context ends.
func (o *roster) follow(ctx context.Context) {
	var said time.Time
	for ctx.Err() == nil {
		round, cancel := context.WithTimeout(ctx, o.again)
		err := o.watch(round, false)
		cancel()
		if err == nil || ctx.Err() != nil {
			continue
		}
		if time.Since(said) > time.Minute { // NATS may be away for a day
			said = time.Now()
			o.log.Warn().Err(err).Msg("suspensions cannot be watched; those that are known hold")
		}
		backoff.Sleep(ctx, time.Second)
	}
}

// watch makes the copy anew and then keeps it, until the context ends or, with
// once, until it is made.
func (o *roster) watch(ctx context.Context, once bool) error {
	w, err := o.kv.WatchFiltered(ctx, []string{broker.SuspendedPrefix + "*", broker.ReplicaPrefix + "*"})
	if err != nil {
		return fmt.Errorf("watch %s: %w", broker.RelaysBucket, err)
	}
	defer func() { _ = w.Stop() }() // the connection may have gone
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
				o.learn(entry)
			case entry != nil:
				first = append(first, entry)
			default:
				complete = true
				o.relearn(first)
				if once {
					return nil
				}
			}
		}
	}
}

// relearn forgets what is in the bucket no more and learns what is.
func (o *roster) relearn(entries []jetstream.KeyValueEntry) {
	there := make(map[string]bool)
	for _, e := range entries {
		there[e.Key()] = true
	}
	o.mu.Lock()
	before := len(o.suspended)
	maps.DeleteFunc(o.suspended, func(lane string, _ broker.Suspension) bool { return !there[broker.SuspendedPrefix+lane] })
	maps.DeleteFunc(o.others, func(id string, _ peer) bool { return !there[broker.ReplicaPrefix+id] })
	resumed := len(o.suspended) < before
	o.mu.Unlock()
	if resumed {
		o.changed()
	}
	for _, e := range entries {
		o.learn(e)
	}
}

// learn takes in one entry.
func (o *roster) learn(e jetstream.KeyValueEntry) {
	removed := e.Operation() != jetstream.KeyValuePut
	o.mu.Lock()
	defer o.mu.Unlock()
	if id, ok := strings.CutPrefix(e.Key(), broker.ReplicaPrefix); ok && id != o.id {
		switch {
		case removed:
			delete(o.others, id)
			o.gone[id] = true
		case o.others[id].revision != e.Revision():
			o.others[id] = peer{e.Revision(), time.Now()}
		}
	}
	lane, ok := strings.CutPrefix(e.Key(), broker.SuspendedPrefix)
	if !ok {
		return
	}
	if removed {
		delete(o.suspended, lane)
	} else if o.suspended[lane].Revision != e.Revision() {
		o.suspended[lane] = broker.ReadSuspension(lane, e)
	}
	go o.changed()
}

// suspension says whether a lane is suspended now.
func (o *roster) suspension(lane string, now time.Time) (broker.Suspension, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, ok := o.suspended[lane]
	return s, ok && !s.Expired(now)
}

// live are the ids of the processes that were heard of lately, our own included,
// sorted.
func (o *roster) live(now time.Time) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := []string{o.id}
	for id, p := range o.others {
		if now.Sub(p.heard) < 3*o.every {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// share is this process's part of something that is divided by all. One that has
// just come takes nothing until the others have heard of it.
func (o *roster) share(total int, now time.Time) int {
	live := o.live(now)
	o.mu.Lock()
	joining := now.Sub(o.began) < o.every
	o.mu.Unlock()
	if len(live) > 1 && joining {
		return 0
	}
	part := total / len(live)
	if slices.Index(live, o.id) < total%len(live) {
		part++
	}
	return part
}

// speak has a heartbeat sent now, because it says something else than the last one:
// a lane that nobody is known to serve worries people.
func (o *roster) speak() {
	select {
	case o.news <- struct{}{}:
	default: // asked for already
	}
}

// beat says every few seconds that this process is there, until the context ends,
// and then that it is not any more. told hears of each heartbeat whether it could
// be stored, and so whether anything can be.
func (o *roster) beat(ctx context.Context, process string, status func() []broker.LaneStatus, tidy func(context.Context), told func(error)) {
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for {
		value, err := json.Marshal(broker.Heartbeat{Process: process, Lanes: status()})
		if err == nil {
			_, err = o.kv.Put(ctx, broker.ReplicaPrefix+o.id, value)
		}
		if ctx.Err() == nil {
			told(err)
		}
		tidy(ctx)
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			_ = o.kv.Delete(end, broker.ReplicaPrefix+o.id) // else the others notice that it is silent
			return
		case <-tick.C:
		case <-o.news:
		}
	}
}

// leftBehind are the ids of processes that will not come back; it names each once.
func (o *roster) leftBehind(now time.Time) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, p := range o.others {
		if now.Sub(p.heard) > time.Minute {
			delete(o.others, id)
			o.gone[id] = true
		}
	}
	ids := slices.Sorted(maps.Keys(o.gone))
	clear(o.gone)
	return ids
}

// inForce are the suspensions whose time is not over, sorted by lane.
func (o *roster) inForce(now time.Time) (list []broker.Suspension) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, lane := range slices.Sorted(maps.Keys(o.suspended)) {
		if s := o.suspended[lane]; !s.Expired(now) {
			list = append(list, s)
		}
	}
	return list
}

// overdue are the suspensions whose time is over.
func (o *roster) overdue(now time.Time) (list []broker.Suspension) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.suspended {
		if s.Expired(now) {
			list = append(list, s)
		}
	}
	return list
}

// Suspensions are those in force, by lane, as this process knows them.
func (r *Runner) Suspensions() []broker.Suspension { return r.roster.inForce(time.Now()) }

// tidy ends suspensions whose time is over, for the record, and sweeps away the
// keys of processes that are gone. All replicas do; it comes to the same.
func (r *Runner) tidy(ctx context.Context) {
	for _, s := range r.roster.overdue(time.Now()) {
		if err := r.EndSuspension(ctx, r.roster.kv, s.Lane, s.Revision, broker.ProcessActor(r.owner), "its time was over"); err != nil {
			r.log.Debug().Err(err).Str("lane", s.Lane).Msg("a suspension that is over could not be removed; it is over all the same")
		}
	}
	stream, err := r.JetStream().Stream(ctx, "KV_"+broker.RelaysBucket)
	if err != nil {
		return
	}
	for _, id := range r.roster.leftBehind(time.Now()) {
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject("$KV."+broker.RelaysBucket+"."+broker.ReplicaPrefix+id)); err != nil {
			r.log.Debug().Err(err).Str("replica", id).Msg("the entry of a process that is gone could not be removed")
		}
	}
}
