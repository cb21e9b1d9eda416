package broker

import (
	"context"
	"iter"
	"time"
)

// Settled is a delivery that is settled.
type Settled struct {
	Target, Token string
	Digest        string // of the event
	Message       Message
}

// letters yields the open letters that the delivery's outcome makes obsolete. One about another
// certificate, published under the same id, is not among them, and neither is one of a
// later delivery: a replay may have failed before this one has looked.
func (s Settled) letters(ctx context.Context, b *Broker) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		for d, err := range b.LettersUnder(ctx, DeadLetterPrefix+"*.*."+s.Target+"."+s.Token) {
			if err == nil && (d.IsOfAnother(s.Digest) || d.ofLaterDelivery(s.Message)) {
				continue
			}
			if !yield(d, err) {
				return
			}
		}
	}
}

// RemoveOlder removes the open letters of a dead delivery except the one with the subject
// keep, and records them as replaced.
func (b *Broker) RemoveOlder(ctx context.Context, s Settled, keep string) error {
	for d, err := range s.letters(ctx, b) {
		if err != nil {
			return err
		}
		if d.Subject == keep {
			continue
		}
		if err := b.RemoveLetter(ctx, d.Sequence); err != nil {
			return err
		}
		b.ObserveReplaced(ctx, d)
	}
	return nil
}

// ObserveReplaced records that a newer letter replaced this one. A failure is only logged:
// it must not delay the newer letter, and package desk detects the replacement as well.
func (b *Broker) ObserveReplaced(ctx context.Context, d DeadLetter) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := b.Observe(ctx, AuditRecord{Action: ActionReplaced, Actor: ProcessActor(b.nc.Opts.Name), Event: d.Event, Target: d.Target, LetterNumber: d.Sequence, Letter: &d}); err != nil {
		b.log.Debug().Err(err).Uint64("letter", d.Sequence).Msg("cannot record that a newer dead letter replaced this one")
	}
}

// RemoveDeadLetter takes the letters of a delivery that has succeeded off the list. It
// first records each as delivered, unless an end is already recorded.
func (b *Broker) RemoveDeadLetter(ctx context.Context, s Settled, by Actor) error {
	for d, err := range s.letters(ctx, b) {
		if err != nil {
			return err
		}
		if err := b.Append(ctx, AuditRecord{Action: ActionDelivered, Actor: by, Event: d.Event, Target: d.Target, LetterNumber: d.Sequence}); err != nil {
			return err
		}
		if err := b.RemoveLetter(ctx, d.Sequence); err != nil {
			return err
		}
	}
	return nil
}
