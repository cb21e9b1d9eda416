package broker

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/verdict"
)

// storedPause is the pause of a relay with its place in the bucket CERTPOST_RELAYS.
type storedPause struct {
	verdict.RelayPause
	key      string
	revision uint64
}

// pausesOf returns the pauses of a lane's relays that are not over.
func (b *Broker) pausesOf(ctx context.Context, kv jetstream.KeyValue, lane string) ([]storedPause, error) {
	info := LaneInfo{Lane: lane}
	if err := b.readRelays(ctx, kv, map[string]*LaneInfo{lane: &info}); err != nil || len(info.Pauses) == 0 {
		return nil, err
	}
	var all []storedPause
	err := readBeats(ctx, kv, []string{PausePrefix + ">"}, func(e jetstream.KeyValueEntry) {
		for _, p := range info.Pauses {
			if stored := ReadPause(e); stored.Relay == p.Relay {
				all = append(all, storedPause{stored, e.Key(), e.Revision()})
			}
		}
	})
	return all, err
}

// endPause records the end of a relay's pause and deletes its entry. A pause that has begun
// anew meanwhile stays: the relay said again that it is at its limit.
func (b *Broker) endPause(ctx context.Context, kv jetstream.KeyValue, lane string, p storedPause, by Actor, reason string) error {
	ctx, cancel := Detached(ctx)
	defer cancel()
	what := "the pause of relay " + p.Relay + " for a limit of its own is ended; the next mail tries it"
	if reason != "" {
		what += ": " + reason
	}
	if err := b.audit(ctx, AuditRecord{Action: ActionResumed, Actor: by, Reason: what, Lane: lane}, fmt.Sprintf("%s/%d", p.key, p.revision)); err != nil {
		return err
	}
	err := kv.Delete(ctx, p.key, jetstream.LastRevision(p.revision))
	if WrongSequence(err) {
		return fmt.Errorf("relay %s of lane %s is at its limit again, or another process resumed it meanwhile: check the lane, then retry", p.Relay, lane)
	}
	if err != nil {
		return fmt.Errorf("resume relay %s of lane %s: %w", p.Relay, lane, err)
	}
	return nil
}
