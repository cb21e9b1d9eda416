package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// A message is stranded when its lane's consumer counts it as acknowledged although
// the stream still holds it. This happens when a server is killed (kill -9) between the
// two writes, or when a store is restored from a copy. The consumer never delivers such
// a message again, and it is counted as waiting for ever. If the ledger says that the
// message was settled, it is removed; otherwise it is published again. See
// docs/decisions/0018.

// strandedEvery is the time between two searches for stranded messages. A message is
// stranded when it is found below the acknowledgement floor of the previous search: a
// message that is just being acknowledged is removed in less time.
const strandedEvery = 5 * time.Second

// strandedAtOnce is the maximum number of messages that one search handles per lane.
const strandedAtOnce = 200

// floors are the acknowledgement floors of the lanes' consumers at one time, as stream
// sequences: a consumer does not deliver messages up to its floor again.
type floors struct {
	at     time.Time
	byLane map[string]uint64
}

// has reports whether the lane had a consumer.
func (f floors) has(lane string) bool {
	_, ok := f.byLane[lane]
	return ok
}

// settleStranded settles the messages below the floors of the previous search. state is
// the stream's state, read after the floors in now.
func (ls *lanes) settleStranded(ctx context.Context, stream jetstream.Stream, state jetstream.StreamState, now floors) error {
	before := ls.floors
	if now.at.Sub(before.at) < ls.strandedEvery {
		return nil
	}
	ls.floors = now
	holding := make(map[string]bool)
	for subject := range state.Subjects {
		lane, _, _ := strings.Cut(strings.TrimPrefix(subject, broker.DeliveryPrefix), ".")
		holding[lane] = true
	}
	for lane := range holding {
		// A consumer created since then starts at zero and delivers every message.
		if floor := min(before.byLane[lane], now.byLane[lane]); floor >= state.FirstSeq {
			if err := ls.r.settleBelow(ctx, stream, lane, floor); err != nil {
				return err
			}
		}
	}
	return nil
}

// settleBelow settles the messages of a lane up to a floor.
func (r *Runner) settleBelow(ctx context.Context, stream jetstream.Stream, lane string, floor uint64) error {
	removed, republished := 0, 0
	defer func() {
		if removed > 0 {
			r.log.Info().Str("lane", lane).Int("messages", removed).Msg("removed stranded deliveries that were already settled")
		}
		if republished > 0 {
			r.log.Warn().Str("lane", lane).Int("messages", republished).Msg("published stranded deliveries again that were not settled")
		}
	}()
	next := uint64(1)
	for removed+republished < strandedAtOnce {
		msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(broker.DeliverySubject(lane, "*")))
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && msg.Sequence > floor {
			return nil
		}
		if err != nil {
			return fmt.Errorf("stream %s, lane %s: %w", broker.DeliveriesStream, lane, err)
		}
		settled, err := r.settled(ctx, msg)
		if err != nil {
			return err
		}
		if !settled {
			if err := r.PublishCopy(ctx, msg, lane, broker.DeliveryTarget(msg.Subject)); err != nil {
				return err
			}
		}
		if err := broker.RemoveDelivery(ctx, stream, msg.Sequence); err != nil {
			return err
		}
		if settled {
			removed++
		} else {
			republished++
		}
		next = msg.Sequence + 1
	}
	return nil
}

// settled reports whether the ledger says that this message, or a later one of the same
// delivery, was settled.
func (r *Runner) settled(ctx context.Context, msg *jetstream.RawStreamMsg) (bool, error) {
	ev, err := events.Decode(msg.Header, msg.Data)
	if err != nil {
		return false, nil // a message that cannot be read has no entry
	}
	entry, _, err := r.ledger.Get(ctx, broker.LedgerKey(broker.DeliveryTarget(msg.Subject), events.Token(ev.ID)))
	if errors.Is(err, broker.ErrNoEntry) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return entry.State.Final() && entry.Digest == ev.Digest() && entry.Sequence >= msg.Sequence, nil
}
