package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// ErrInAttempt says that a delivery cannot be cancelled now, because an attempt may be sending
// its content.
var ErrInAttempt = errors.New("an attempt is sending it now, or did so when its process ended: once the attempt is over, it is delivered, a dead letter, or waits and can be cancelled")

// Cancel is the order of an operator to end the wait of a delivery without a mail. The ledger's
// entry keeps it from the order on, so that any process can finish it.
type Cancel struct {
	Actor
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	// Sequence is that of the message in CERTPOST_DELIVERIES that was cancelled, with all older
	// ones of the delivery and all copies of them. A replay of the dead letter is a newer one.
	Sequence uint64 `json:"sequence"`
}

// Failure is what the dead letter of the delivery says. last is the failure before; nil: none.
func (c *Cancel) Failure(last *FailureRecord) *verdict.Failure {
	f := verdict.Fail(verdict.DeliveryCancelled, verdict.PhaseSettle, fmt.Sprintf("cancelled by %s: %s", legible.Clean(c.Shown(), 300), c.Reason))
	if last != nil {
		f.Reason += fmt.Sprintf("; the last failure was %s: %s", last.Code, last.Reason)
	}
	return f
}

// Birth returns the sequence of the first message of which a message with these headers is a copy,
// in one step or several; its own if it is no copy.
func Birth(h nats.Header, sequence uint64) uint64 {
	for _, name := range []string{headerOriginal, HeaderCopyOf} {
		if n, err := strconv.ParseUint(h.Get(name), 10, 64); err == nil && n > 0 {
			return n
		}
	}
	return sequence
}

// Cancels reports whether the delivery's message was cancelled. birth is that of Birth, and
// replay says that it is the replay of a dead letter. While a cancelled delivery waits, every
// message of it is, except the replay of the letter that the order has already made: others were
// published again because the stream had lost the message.
func (e *Entry) Cancels(birth uint64, replay bool) bool {
	return e.Cancel != nil && (birth <= e.Cancel.Sequence || e.State == StateWaiting && !replay)
}

// CancelDone reports whether the entry has the outcome of the order, so that no dead letter is to
// be written. What was delivered stays `sent` when its resend is cancelled.
func (e *Entry) CancelDone() bool {
	return e.Cancel != nil && (e.State == StateSent || e.State.Final() && e.Sequence >= e.Cancel.Sequence)
}

// RecordCancelled records in the audit that a delivery was cancelled, once, whichever process
// finishes the order.
func (b *Broker) RecordCancelled(ctx context.Context, e Entry) error {
	c := e.Cancel
	r := AuditRecord{Action: ActionWithdrawn, Stage: StageOutcome, Actor: c.Actor, Reason: c.Reason, Event: e.Event, Target: e.Target, Lane: e.Lane, Delivery: c.Sequence}
	l := b.link(r, strings.Join([]string{events.Token(e.Event), e.Target, "d" + strconv.FormatUint(c.Sequence, 10)}, "/"))
	l.check = b.unrecorded(r)
	return b.appendAll(ctx, []*link{l})
}
