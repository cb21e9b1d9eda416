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

// An operator cancels a delivery that waits: it becomes a dead letter. The order is written to the
// ledger's entry by compare-and-set, as the claim of an attempt is, so one of the two wins. From
// then on no attempt sends the mail, and every process that gets the message finishes the order:
// audit, dead letter, `dead` in the ledger, removal of the message. See docs/decisions/0112.

// cancelTries bounds the attempts to write an order while attempts change the entry.
const cancelTries = 5

// cancelPause is the time between two looks at what another process does.
const cancelPause = 200 * time.Millisecond

// Cancel cancels the waiting delivery e, given by the sequence of its message, for the order, whose
// Sequence it sets. It returns when the dead letter is stored. The error is broker.ErrNoEntry if the
// delivery does not wait any more, and broker.ErrInAttempt if its content may be going out: after
// that nothing was changed. After another error the order may be in the ledger; the same order, or
// the lane once it delivers, finishes it.
func (r *Runner) Cancel(ctx context.Context, e broker.Entry, order broker.Cancel) error {
	if !r.prepared.Load() {
		return errors.New("this process has not opened the ledger yet, so it cannot cancel deliveries: give the order again in a moment; /readyz says what it waits for")
	}
	ctx, cancel := broker.Detached(ctx)
	defer cancel()
	stream, err := r.JetStream().Stream(ctx, broker.DeliveriesStream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", broker.DeliveriesStream, err)
	}
	raw, err := stream.GetMsg(ctx, e.Sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return broker.ErrNoEntry
	}
	if err != nil {
		return fmt.Errorf("delivery %d: %w", e.Sequence, err)
	}
	removed := false
	j := &job{r: r, lane: newLane(r, e.Lane), msg: cancelledMsg{strayMsg{raw: raw, stream: stream}, &removed}, counted: true, stopKeepAlive: func() {}}
	if failure := j.read(); failure != nil || j.target != e.Target || j.event.ID != e.Event {
		return broker.ErrNoEntry // the stream was created again
	}
	if err := j.markCancelled(ctx, order); err != nil {
		return err
	}
	j.endCancelled()
	if !removed && !j.cancelledElsewhere(ctx) {
		return fmt.Errorf("the cancellation of %s to %s is recorded, and no mail is sent, but not all of it could be stored: give the order again, or it is finished when the lane delivers", e.Event, e.Target)
	}
	return nil
}

// cancelledElsewhere reports whether another process has finished the order: of two that finish it
// at the same time one writes `dead`.
func (j *job) cancelledElsewhere(ctx context.Context) bool {
	for range cancelTries {
		if entry, _, _, err := j.readLedger(ctx); err == nil && entry.CancelDone() {
			return true
		}
		backoff.Sleep(ctx, backoff.Jitter(cancelPause))
	}
	return false
}

// cancelledMsg is the message of a delivery that is being cancelled.
type cancelledMsg struct {
	strayMsg
	removed *bool
}

func (m cancelledMsg) DoubleAck(ctx context.Context) error {
	err := m.strayMsg.DoubleAck(ctx)
	*m.removed = err == nil
	return err
}

// markCancelled writes the order to the ledger, unless an order is there already: then that one
// holds. It keeps the entry as written.
func (j *job) markCancelled(ctx context.Context, order broker.Cancel) error {
	order.Sequence = j.seq
	for range cancelTries {
		entry, revision, _, err := j.readLedger(ctx)
		if err != nil {
			return err
		}
		if revision == 0 && entry.Target == "" { // otherwise it is that of a former id
			entry = broker.Entry{Event: j.event.ID, Target: j.target, Digest: j.event.Digest(), EventSubject: j.event.Subject, EventSequence: j.eventSeq,
				Lane: j.lane.name, State: broker.StateWaiting, Generation: max(j.gen, 1)}
		}
		j.entry, j.revision = entry, revision
		switch {
		case entry.Digest != j.event.Digest():
			return fmt.Errorf("the event id %s was used for another certificate: this delivery becomes a dead letter when it is tried", j.event.ID)
		case entry.Cancels(j.birth, j.replayOf != 0):
			return nil
		case entry.State == broker.StateSending:
			return broker.ErrInAttempt
		case entry.State.Final() && (entry.Sequence >= j.seq || entry.Sequence == j.copyOf):
			return broker.ErrNoEntry
		}
		entry.Cancel = &order
		switch err := j.write(ctx, entry); {
		case errors.Is(err, broker.ErrClaimLost):
			continue // an attempt has begun or ended
		case err != nil:
			return err
		}
		j.r.reached(pointCancelled)
		return nil
	}
	return broker.ErrInAttempt
}

// endCancelled finishes the order in the ledger's entry, from wherever an earlier process has left
// it, and removes the message. A delivery that was made before, and whose resend was cancelled,
// stays `sent` and gets no dead letter.
func (j *job) endCancelled() {
	j.presumed = false
	if j.entry.CancelDone() && j.entry.State != broker.StateSent {
		if j.entry.State == broker.StateDead && j.entry.DeadLetter != "" && !j.takeLettersOff(j.entry.DeadLetter) {
			return
		}
		j.finish("dead", nil)
		return
	}
	ctx, cancel := j.r.outlast(deathPatience)
	defer cancel()
	if err := j.r.RecordCancelled(ctx, j.entry); err != nil {
		j.nak(backoff.Jitter(lettersDelay), fmt.Errorf("the audit does not have the cancellation yet: %w", err))
		return
	}
	j.r.reached(pointWithdrawn)
	if j.entry.State == broker.StateSent {
		j.finish("duplicate", nil)
		return
	}
	failure := j.entry.Cancel.Failure(j.entry.Failure)
	if j.entry.State != broker.StateWaiting { // a replay that was never tried
		j.gen = max(j.gen, j.entry.Generation+1)
		j.entry.Renew(j.entry.Last)
	}
	j.dead(failure)
}

// letterOf returns the message whose dead letter is written: for all copies of a cancelled one the
// message that the order names, so that they have one letter.
func (j *job) letterOf() uint64 {
	if c := j.entry.Cancel; c != nil && j.entry.Cancels(j.birth, j.replayOf != 0) {
		return c.Sequence
	}
	return j.seq
}
