package queue

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// relayPauses shares the pauses of relays that are at limits of their own: those that this
// process begins are stored in the relays bucket, where they outlive it, and those in the
// bucket are given to its courier. A pause that is removed before its end has been ended by
// an operator.
type relayPauses struct {
	courier Courier
	log     zerolog.Logger

	mu     sync.Mutex
	known  map[string]knownPause         // as last read, by key
	unsent map[string]verdict.RelayPause // not stored yet, by key
}

// knownPause is a pause as it is stored.
type knownPause struct {
	verdict.RelayPause
	revision uint64
}

func newRelayPauses(c Courier, log zerolog.Logger) *relayPauses {
	return &relayPauses{courier: c, log: log, known: map[string]knownPause{}, unsent: map[string]verdict.RelayPause{}}
}

// share has a pause stored with the next heartbeat. Several mails may be refused before the
// breaker is open; the last end counts.
func (ps *relayPauses) share(p verdict.RelayPause) {
	key := relayKey(broker.PausePrefix, p.Relay)
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p.Until.After(ps.unsent[key].Until) && p.Until.After(ps.known[key].Until) {
		ps.unsent[key] = p
	}
}

// apply takes over one entry of the bucket.
func (ps *relayPauses) apply(e jetstream.KeyValueEntry) {
	p := knownPause{broker.ReadPause(e), e.Revision()}
	ps.mu.Lock()
	before, had := ps.known[e.Key()]
	removed := e.Operation() != jetstream.KeyValuePut
	if removed {
		delete(ps.known, e.Key())
	} else {
		ps.known[e.Key()] = p
	}
	ps.mu.Unlock()
	switch {
	case removed && had:
		ps.ended(before)
	case !removed && before.revision != p.revision && !p.Over(time.Now()):
		ps.courier.PauseRelay(p.RelayPause)
	}
}

// keep forgets the pauses whose keys are not in the bucket, and reports whether there were
// any.
func (ps *relayPauses) keep(there map[string]bool) (resumed bool) {
	ps.mu.Lock()
	var gone []knownPause
	maps.DeleteFunc(ps.known, func(key string, p knownPause) bool {
		if !there[key] {
			gone = append(gone, p)
		}
		return !there[key]
	})
	ps.mu.Unlock()
	for _, p := range gone {
		ps.ended(p)
	}
	return len(gone) > 0
}

// ended resumes the relay of a pause that was removed before its end.
func (ps *relayPauses) ended(p knownPause) {
	if p.Over(time.Now()) {
		return
	}
	ps.log.Info().Str("relay", p.Relay).Msg("the pause of the relay for a limit of its own was ended; the next mail tries it")
	ps.courier.ResumeRelay(p.Relay)
}

// store writes the pauses that are not stored yet, and removes those that are over. What
// fails is tried again with the next heartbeat.
func (ps *relayPauses) store(ctx context.Context, kv jetstream.KeyValue, each time.Duration) {
	ps.mu.Lock()
	unsent, known := maps.Clone(ps.unsent), maps.Clone(ps.known)
	ps.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(unsent)) {
		p := unsent[key]
		value, err := json.Marshal(p)
		if err == nil {
			err = within(ctx, each, func(ctx context.Context) error {
				_, err := kv.Put(ctx, key, value)
				return err
			})
		}
		if err != nil {
			ps.log.Warn().Err(err).Str("relay", p.Relay).Msg("the pause of the relay could not be stored; other processes do not know of it yet")
			continue
		}
		ps.mu.Lock()
		if ps.unsent[key].Until.Equal(p.Until) {
			delete(ps.unsent, key)
		}
		ps.mu.Unlock()
	}
	for key, p := range known {
		if _, again := unsent[key]; again || !p.Over(time.Now()) {
			continue
		}
		err := within(ctx, each, func(ctx context.Context) error { return kv.Purge(ctx, key, jetstream.LastRevision(p.revision)) })
		if err != nil {
			ps.log.Debug().Err(err).Str("relay", p.Relay).Msg("a pause that is over could not be removed; it has no effect")
		}
	}
}

// savePauses stores what the last deliveries learnt of relays at their limits, for the next
// start.
func (r *Runner) savePauses() {
	ctx, cancel := r.outlast(2 * time.Second)
	defer cancel()
	r.replicas.pauses.store(ctx, r.replicas.kv, r.RequestTimeout())
}

// within gives f a deadline of its own.
func within(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}
