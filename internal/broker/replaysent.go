package broker

import (
	"context"
	"fmt"
	"strconv"

	"github.com/certpost/certpost/internal/events"
)

// RecordSent records that the mail of a replay was accepted by its relay. e is the delivery's
// entry with `sent`, letter the number of the dead letter that was replayed, 0 if it is not
// known: another NATS client has published the delivery again. again says that the process that
// sent the mail may have recorded it: then the audit is asked first, because the stream knows
// message ids for 2 minutes only.
func (b *Broker) RecordSent(ctx context.Context, by Actor, e Entry, letter uint64, again bool) error {
	r := AuditRecord{Action: ActionSent, Stage: StageOutcome, Actor: by, Event: e.Event, Target: e.Target, Lane: e.Lane,
		LetterNumber: letter, Delivery: e.Sequence, Generation: e.Generation}
	order, err := b.orderOf(ctx, r)
	switch {
	case err != nil:
		return fmt.Errorf("who ordered the replay of event %s to %s: %w", e.Event, e.Target, err)
	case order == nil:
		r.Reason = "sent again; no record says who published the delivery again"
	case order.Action == ActionResent:
		r.OrderedBy = &order.Actor
		r.Reason = "sent again, ordered by " + order.Shown()
	default:
		r.LetterNumber, r.Run, r.OrderedBy = order.LetterNumber, order.Run, &order.Actor
		r.Reason = fmt.Sprintf("the replay of letter %d, ordered by %s", order.LetterNumber, order.Shown())
	}
	l := b.link(r, events.Token(e.Event)+"/"+e.Target+"/"+strconv.Itoa(e.Generation)+"/d"+strconv.FormatUint(e.Sequence, 10))
	if again {
		l.check = b.unrecorded(r)
	}
	return b.appendAll(ctx, []*link{l})
}

// unrecorded returns the check that the last record of an action on a delivery is not about the
// same message: that of r is not written yet.
func (b *Broker) unrecorded(r AuditRecord) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		last, err := b.lastRecord(ctx, string(r.Action)+"."+auditSubjectSuffix(r))
		return err == nil && (last == nil || last.Delivery != r.Delivery || last.Generation != r.Generation), err
	}
}

// orderOf returns the record that ordered a replay: the newest intent or outcome of the letter,
// or without a number the outcome that names the delivery, or the order of a resend with its
// generation: a relay may accept the mail before that outcome is recorded. nil: there is none. A
// replay to another target is recorded under the letter's own.
func (b *Broker) orderOf(ctx context.Context, sent AuditRecord) (order *AuditRecord, err error) {
	for raw, err := range b.read(ctx, AuditStream, auditPrefix+"*.*."+events.Token(sent.Event), 1) {
		if err != nil {
			return nil, err
		}
		r := readRecord(raw)
		switch {
		case r.Action != ActionReplayed && r.Action != ActionResent || r.Event != sent.Event || r.Target != sent.Target && r.NewTarget != sent.Target:
		case sent.LetterNumber != 0 && r.LetterNumber == sent.LetterNumber, sent.LetterNumber == 0 && r.Delivery == sent.Delivery,
			sent.LetterNumber == 0 && r.Action == ActionResent && r.Generation == sent.Generation:
			order = &r
		}
	}
	return order, nil
}
