package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// restoreLetters writes the dead letters again that were lost with their stream: the
// stream is another one than at the last comparison, the ledger says `dead`, and the audit
// has no end of the letter. Nothing is sent: the letters are on the list again. It returns
// when the stream was created.
func (rc *reconciler) restoreLetters(ctx context.Context) (created time.Time, err error) {
	letters, _, _, err := rc.r.StreamStates(ctx)
	if err != nil || rc.done.Letters.IsZero() || letters.Created.Equal(rc.done.Letters) {
		return letters.Created, err
	}
	dead := map[string]broker.Entry{} // by key
	for c, err := range rc.r.ReadEntries(ctx, 1) {
		if err != nil {
			return created, err
		}
		if e := c.Entry; !c.Deleted && !c.Unreadable && e.State == broker.StateDead && e.DeadLetter != "" {
			dead[c.Key] = e
		} else {
			delete(dead, c.Key) // it has changed during the read
		}
	}
	if err := rc.dropEnded(ctx, dead, letters.Created); err != nil {
		return created, err
	}
	places, err := rc.placesOf(ctx, dead)
	if err != nil {
		return created, err
	}
	var told []broker.AuditRecord
	for key, e := range dead {
		restored, rerr := rc.restoreLetter(ctx, e, places[key])
		if rerr != nil {
			err = rerr
			break
		}
		if restored {
			told = append(told, broker.AuditRecord{Event: e.Event, Target: e.Target, Lane: e.Lane,
				Reason: fmt.Sprintf("its dead letter was lost when the stream %s was created again; it was written again", broker.DeadLettersStream)})
		}
	}
	rc.tell(ctx, "dead_letter", told)
	return letters.Created, err
}

// dropEnded removes the deliveries whose last letter has ended, as the audit says. That
// a letter was removed outside Certpost counts only before its stream was created again:
// afterwards it is the loss itself that was noticed.
func (rc *reconciler) dropEnded(ctx context.Context, dead map[string]broker.Entry, created time.Time) error {
	if len(dead) == 0 {
		return nil
	}
	for r, err := range rc.r.ReadAudit(ctx, 1) {
		if err != nil {
			return err
		}
		if !r.Action.Ends() || r.Stage == broker.StageIntent || r.Action == broker.ActionRemoved && !r.Stored.Before(created) {
			continue
		}
		key := broker.LedgerKey(r.Target, events.Token(r.Event))
		if e, known := dead[key]; known && r.Action != broker.ActionReplaced && !r.Stored.Before(e.Last) {
			delete(dead, key)
		}
	}
	return nil
}

// placesOf returns the sequences of the deliveries' events in CERTPOST_EVENTS, by ledger
// key, as far as the manifest has them.
func (rc *reconciler) placesOf(ctx context.Context, dead map[string]broker.Entry) (map[string]uint64, error) {
	places := map[string]uint64{}
	if len(dead) == 0 {
		return places, nil
	}
	for m, err := range rc.r.ReadManifest(ctx, 1) {
		if err != nil {
			return nil, err
		}
		for _, e := range m.Events {
			for _, d := range e.Deliveries {
				if key := broker.LedgerKey(d.Target, e.Token); dead[key].Event != "" {
					places[key] = e.Sequence
				}
			}
		}
	}
	return places, nil
}

// restoreLetter writes one letter again from the ledger and the event, unless there is one.
func (rc *reconciler) restoreLetter(ctx context.Context, e broker.Entry, place uint64) (restored bool, err error) {
	for _, err := range rc.r.LettersUnder(ctx, e.DeadLetter) {
		return false, err // there is one, or it cannot be read
	}
	f := &verdict.Failure{}
	if e.Failure != nil {
		f.Outcome, f.Secrets = e.Failure.Outcome, e.Failure.Secrets
	}
	l := letterAbout(f)
	l.Event, l.Token, l.Target, l.Lane, l.Generation = e.Event, events.Token(e.Event), e.Target, e.Lane, max(e.Generation, 1)
	l.Attempts, l.First, l.Last, l.Recipients, l.FailedReplays = e.AllAttempts(), e.FirstOfAll(), e.Last, e.Missing(), e.FailedReplays
	l.ReplaySubject, l.EventSubject = broker.DeliverySubject(e.Lane, e.Target), e.EventSubject
	l.Published.Sequence = e.EventSequence
	ev, err := rc.r.EventAt(ctx, place, l.Token)
	switch {
	case err == nil && ev.Digest() == e.Digest:
		l.Body, l.Published = ev.Encode(), origin{place, ev.Published, ev.Headers}.place()
	case err == nil, errors.Is(err, broker.ErrNoEvent):
		l.Body = broker.Withheld("the letter was lost, and its event is no longer stored: publish the certificate again", l)
	default:
		return false, err
	}
	return true, rc.r.PublishDeadLetter(ctx, l, fmt.Sprintf("restored%d", e.Sequence))
}
