package queue

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/certpost/certpost/internal/broker"
)

// A stray is a delivery in a lane that no definition has and that has no consumer:
// another client published it, or the consumer was removed after its last target. Such a
// lane gets no consumer, because anybody who may publish deliveries could use up the
// consumers of the account with invented names. A stray is published again in the lane of
// its target; if there is no such target, it ends as a dead letter.

// straysAtOnce is the maximum number of strays that one search settles, and straysTogether
// the maximum number that are settled at the same time.
const (
	straysAtOnce   = 1000
	straysTogether = 16
)

// strayLane is the lane of strays in metrics and dead letters: the names of their own lanes are
// anybody's choice, and 300 invented lanes are one cause. The replay subject has the name.
const strayLane = broker.NoToken

// settleStrays settles the strays of lanes without a consumer. A lane must have been
// found without one by the previous search as well: another process, with newer
// definitions, may be about to create it.
func (ls *lanes) settleStrays(ctx context.Context, stream jetstream.Stream, lanes map[string]bool) error {
	before := ls.strays
	ls.strays = lanes
	var done strayTally
	var together errgroup.Group // without a context: an error of one lane stops no other
	together.SetLimit(straysTogether)
	for name := range lanes {
		if before[name] {
			together.Go(func() error { return ls.settleStraysOf(ctx, stream, name, &done) })
		}
	}
	err := together.Wait()
	if moved, settled := done.moved.Load(), done.settled.Load(); moved+settled > 0 {
		ls.r.log.Warn().Int64("moved", moved).Int64("settled", settled).
			Msg("found deliveries in lanes that no target has; moved them to the lanes of their targets, or settled them")
	}
	return err
}

// strayTally counts what the lanes of one search have taken and done, all together.
type strayTally struct{ taken, moved, settled atomic.Int64 }

// settleStraysOf settles the strays of one lane, up to the maximum of the search.
func (ls *lanes) settleStraysOf(ctx context.Context, stream jetstream.Stream, name string, done *strayTally) error {
	for next := uint64(1); done.taken.Add(1) <= straysAtOnce; {
		msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(broker.DeliverySubject(name, "*")))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			done.taken.Add(-1)
			return nil
		}
		if err != nil {
			return fmt.Errorf("stream %s, lane %s: %w", broker.DeliveriesStream, name, err)
		}
		next = msg.Sequence + 1
		wasMoved, err := ls.settleStray(ctx, stream, msg)
		if err != nil {
			return fmt.Errorf("delivery %d in lane %s, which no target has: %w", msg.Sequence, name, err)
		}
		if wasMoved {
			done.moved.Add(1)
		} else {
			done.settled.Add(1)
		}
	}
	return nil
}

// settleStray moves one stray to the lane of its target. Without such a target it is
// attempted as if it had been fetched, which ends in a dead letter.
func (ls *lanes) settleStray(ctx context.Context, stream jetstream.Stream, msg *jetstream.RawStreamMsg) (moved bool, err error) {
	target := broker.DeliveryTarget(msg.Subject)
	lane, ok := ls.r.courier.LaneOf(target)
	if !ok {
		l := newLane(ls.r, strayLane)
		l.uncounted.Add(1)
		ls.r.attempt(ctx, l, strayMsg{raw: msg, stream: stream})
		return false, nil
	}
	return ls.move(ctx, stream, msg, lane)
}

// move moves a delivery to another lane, unless the ledger says that it is settled; then it
// only removes it.
func (ls *lanes) move(ctx context.Context, stream jetstream.Stream, msg *jetstream.RawStreamMsg, lane string) (moved bool, err error) {
	if err := ls.ensure(ctx, lane); err != nil {
		return false, err
	}
	settled, err := ls.r.settled(ctx, msg)
	if err == nil && !settled {
		err = ls.r.PublishCopy(ctx, msg, lane, broker.DeliveryTarget(msg.Subject))
	}
	if err != nil {
		return false, err
	}
	return !settled, broker.RemoveDelivery(ctx, stream, msg.Sequence)
}

// strayMsg is a stored message in the place of a fetched one. Its acknowledgement removes
// it; a NAK leaves it for the next search. It has no reply subject: no consumer waits for it.
type strayMsg struct {
	raw    *jetstream.RawStreamMsg
	stream jetstream.Stream
}

var _ jetstream.Msg = strayMsg{}

func (m strayMsg) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: m.raw.Sequence}, NumDelivered: 1, Timestamp: m.raw.Time, Stream: broker.DeliveriesStream}, nil
}
func (m strayMsg) Subject() string      { return m.raw.Subject }
func (m strayMsg) Data() []byte         { return m.raw.Data }
func (m strayMsg) Headers() nats.Header { return m.raw.Header }
func (m strayMsg) Reply() string        { return "" }
func (m strayMsg) DoubleAck(ctx context.Context) error {
	return broker.RemoveDelivery(ctx, m.stream, m.raw.Sequence)
}
func (m strayMsg) Ack() error                       { return m.DoubleAck(context.Background()) }
func (m strayMsg) Term() error                      { return m.Ack() }
func (m strayMsg) TermWithReason(string) error      { return m.Ack() }
func (m strayMsg) Nak() error                       { return nil }
func (m strayMsg) NakWithDelay(time.Duration) error { return nil }
func (m strayMsg) InProgress() error                { return nil }
