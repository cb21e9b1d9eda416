package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// A message is stranded when its lane's consumer counts it as acknowledged and the
// stream still holds it: kill -9 of a server between the two leaves some, and so
// may a store that was put back from a copy. Nobody is served it again, and it
// counts as waiting for ever. The ledger says whether it was settled: then it is
// removed, else it is published anew. See docs/decisions/0018.

// strandedEvery is the time between two looks for stranded messages. A message is
// stranded when it is found below an acknowledgement floor of the look before:
// what is being acknowledged at this moment is removed within less.
const strandedEvery = 5 * time.Second

// strandedAtOnce bounds the messages of one lane that one look deals with.
const strandedAtOnce = 200

// floors are the acknowledgement floors of the lanes' consumers at one moment:
// nothing up to a floor is served again.
type floors struct {
	at     time.Time
	byLane map[string]uint64
}

// settleStranded looks below the floors of the look before. state is the stream's,
// younger than the floors given.
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
		// A consumer made anew in between begins at zero and is served everything.
		if floor := min(before.byLane[lane], now.byLane[lane]); floor >= state.FirstSeq {
			if err := ls.r.settleBelow(ctx, stream, lane, floor); err != nil {
				return err
			}
		}
	}
	return nil
}

// settleBelow deals with what a lane has up to a floor.
func (r *Runner) settleBelow(ctx context.Context, stream jetstream.Stream, lane string, floor uint64) error {
	removed, republished := 0, 0
	defer func() {
		if removed > 0 {
			r.log.Info().Str("lane", lane).Int("messages", removed).Msg("removed settled deliveries that the stream had kept")
		}
		if republished > 0 {
			r.log.Warn().Str("lane", lane).Int("messages", republished).Msg("published deliveries anew that were acknowledged and not settled")
		}
	}()
	next := uint64(1)
	for removed+republished < strandedAtOnce {
		msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(broker.DeliveryPrefix+lane+".*"))
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
			if err := r.republish(ctx, msg); err != nil {
				return err
			}
		}
		if err := stream.DeleteMsg(ctx, msg.Sequence); err != nil {
			// Gone already is as good: another process has found it, too.
			if _, gerr := stream.GetMsg(ctx, msg.Sequence); !errors.Is(gerr, jetstream.ErrMsgNotFound) {
				return fmt.Errorf("remove delivery %d: %w", msg.Sequence, err)
			}
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

// settled reports whether the ledger has a verdict on the delivery from this
// message or a later one.
func (r *Runner) settled(ctx context.Context, msg *jetstream.RawStreamMsg) (bool, error) {
	ev, err := events.Decode(msg.Header, msg.Data)
	if err != nil {
		return false, nil // has no entry
	}
	target := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	entry, _, err := r.ledger.Get(ctx, broker.LedgerKey(target, events.Token(ev.ID)))
	if errors.Is(err, broker.ErrNoEntry) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch entry.State {
	case broker.StateSent, broker.StateDead, broker.StateDiscarded:
		return entry.Digest == ev.Digest() && entry.Sequence >= msg.Sequence, nil
	}
	return false, nil
}

// revive publishes a message again, so that it is served. Its id is made from the
// message's place: two processes that find it make one copy, and so does one that
// ends before it has removed the original.
func (r *Runner) republish(ctx context.Context, msg *jetstream.RawStreamMsg) error {
	m := nats.NewMsg(msg.Subject)
	m.Data = msg.Data
	for name, values := range msg.Header {
		if !strings.HasPrefix(name, "Nats-") { // what the server was told of the original
			m.Header[name] = values
		}
	}
	m.Header.Set(nats.MsgIdHdr, fmt.Sprintf("%s/d%d", msg.Header.Get(nats.MsgIdHdr), msg.Sequence))
	if _, err := r.JetStream().PublishMsg(ctx, m); err != nil {
		return fmt.Errorf("publish delivery %d anew: %w", msg.Sequence, err)
	}
	return nil
}
