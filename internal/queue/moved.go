package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
)

// A lane that delivers looks every target up as it is now, so it also delivers for targets
// that have meanwhile another relay. A paused lane delivers nothing: without this, a target
// that was moved away from a relay that is down would wait for that relay all the same.

// movedAtOnce is the maximum number of deliveries that one search moves.
const movedAtOnce = 1000

// moveOn moves the deliveries of paused lanes whose targets use another lane now to that
// lane. subjects are those of all waiting deliveries. A subject must have been found by the
// previous search as well: the pause may be a short one, or the definitions be changing.
func (ls *lanes) moveOn(ctx context.Context, stream jetstream.Stream, subjects map[string]uint64) error {
	before := ls.moving
	ls.moving = map[string]bool{}
	paused := ls.paused()
	left, count := movedAtOnce, 0
	defer func() {
		if count > 0 {
			ls.r.log.Info().Int("deliveries", count).Msg("moved deliveries from a paused lane to the lane that their targets use now")
		}
		if left == 0 {
			ls.check()
		}
	}()
	for subject := range subjects {
		name, target, _ := strings.Cut(strings.TrimPrefix(subject, broker.DeliveryPrefix), ".")
		if !paused[name] {
			continue
		}
		lane, ok := ls.r.courier.LaneOf(target)
		if !ok || lane == name {
			continue
		}
		ls.moving[subject] = true
		if !before[subject] {
			continue
		}
		for next := uint64(1); left > 0; left-- {
			msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subject))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
			if err == nil {
				next = msg.Sequence + 1
				_, err = ls.move(ctx, stream, msg, lane)
			}
			if err != nil {
				return fmt.Errorf("move the deliveries for target %s from lane %s to lane %s: %w", target, name, lane, err)
			}
			count++
		}
	}
	return nil
}

// movedAway returns the lane of the delivery's target if this process cannot make the delivery,
// because the target has become one on a mail host, or is on another one now.
func (j *job) movedAway() (lane string, moved bool) {
	lane, ok := j.r.courier.LaneOf(j.target)
	return lane, ok && lane != j.lane.name && !j.r.serves(lane)
}

// moveTo publishes the delivery again in the lane of its target, and acknowledges it. If it was
// settled already, the process there finds that out.
func (j *job) moveTo(ctx context.Context, lane string) {
	raw := &jetstream.RawStreamMsg{Subject: j.msg.Subject(), Sequence: j.seq, Header: j.msg.Headers(), Data: j.msg.Data(), Time: j.since}
	err := j.r.lanes.ensure(ctx, lane)
	if err == nil {
		err = j.r.PublishCopy(ctx, raw, lane, j.target)
	}
	if err != nil {
		j.nak(backoff.Jitter(5*time.Second), fmt.Errorf("move the delivery to lane %s: %w", lane, err))
		return
	}
	j.r.log.Info().Str("event", j.event.ID).Str("target", j.target).Str("lane", lane).Msg("moved a delivery to the lane of the mail host that its target is on now")
	j.ack()
}

// paused returns the lanes from which this process fetches nothing, and of which it has
// nothing in work.
func (ls *lanes) paused() map[string]bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	paused := make(map[string]bool)
	for name, l := range ls.running {
		if why := l.paused.Load(); why != nil && *why != "" && l.inWork.Load() == 0 {
			paused[name] = true
		}
	}
	return paused
}
