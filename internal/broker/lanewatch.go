package broker

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// FollowLanes calls changed whenever the result of LaneInfos may have changed: a process
// has started, has gone or reports another state, a lane was suspended or resumed, or the
// pause of a relay began or ended. It returns when the context ends, or when the bucket CERTPOST_RELAYS can no longer be
// watched.
func (b *Broker) FollowLanes(ctx context.Context, changed func()) error {
	kv, err := b.OpenRelays(ctx)
	if err != nil {
		return err
	}
	w, err := kv.WatchFiltered(ctx, []string{SuspendedPrefix + "*", ReplicaPrefix + "*", PausePrefix + ">"})
	if err != nil {
		return fmt.Errorf("watch %s: %w", RelaysBucket, err)
	}
	defer func() { _ = w.Stop() }()    // the connection may have gone
	lastValue := map[string]string{}   // by key
	lastSeen := map[string]time.Time{} // of processes, by key
	tick := time.NewTicker(HeartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("watch %s: %w", RelaysBucket, ctx.Err())
		case <-tick.C:
			for key, at := range lastSeen {
				if time.Since(at) > ReplicaGoneAfter {
					delete(lastSeen, key)
					delete(lastValue, key) // its next heartbeat is a change
					changed()
				}
			}
		case entry, ok := <-w.Updates():
			if !ok {
				return fmt.Errorf("watch %s: %w", RelaysBucket, ErrWatchEnded)
			}
			if entry == nil {
				continue // the initial entries are complete
			}
			key, value := entry.Key(), string(entry.Value())
			if entry.Operation() != jetstream.KeyValuePut {
				value = ""
				delete(lastSeen, key)
			} else if strings.HasPrefix(key, ReplicaPrefix) {
				lastSeen[key] = time.Now()
			}
			if lastValue[key] != value {
				lastValue[key] = value
				changed()
			}
		}
	}
}
