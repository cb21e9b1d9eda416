package queue

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// hasSentCopy reports whether a copy of the message was sent: it is the later message of the same
// generation or a later one. A forced replay that was ordered after that has a later place.
func (j *job) hasSentCopy() bool {
	return j.gen > 1 && j.entry.Generation >= j.gen && j.entry.Sequence > j.seq
}

// fannedOutAgain reports whether the message was made from a publication of the event that the
// entry already knows, and orders no replay. The server that is killed forgets the newest
// acknowledgements of events: these are fanned out again, into messages with other sequences, and
// what became a dead letter meanwhile, or was discarded, must not be sent because of that. A
// restored server gives the sequences after the backup a second time.
func (j *job) fannedOutAgain() bool {
	to := j.r.ledger.RestoredTo
	comparable := to.IsZero() || j.entry.Last.After(to) || !j.published.After(to)
	return comparable && !j.force && j.replayOf == 0 && j.recipients == nil && j.eventSeq != 0 &&
		j.gen <= j.entry.Generation && j.eventSeq <= j.entry.EventSequence
}

// undecided reports whether the delivery waits for an operator to say whether its mail was sent, and
// the message is no replay, but made from the event, which was published again. A hook or a queue
// that publishes again has not looked at the relay.
func (j *job) undecided() bool {
	return j.r.set.DeadLetterUnknown && j.entry.State == broker.StateDead && j.entry.Uncertain && j.replayOf == 0 && j.eventSeq != 0
}

// overtaken reports whether a later message of the delivery, which was published after this one had
// ended, is in work: a replay, or the event published again. The server that is killed forgets the
// newest acknowledgements, and delivers this one again. If it went on with the attempts of the later
// message it would end them in its own name, and the later one would begin anew: a mail whose
// outcome is unknown would go out again that only an operator may order. If the later message is
// gone, this one takes its place.
func (j *job) overtaken(ctx context.Context) (bool, error) {
	e := j.entry
	if e.State != broker.StateWaiting && e.State != broker.StateSending || verdict.OnHost(j.lane.name) { // a deployment is repeated without harm
		return false, nil
	}
	earlier := e.Sequence > j.birth || j.fannedOutAgain()
	if e.Generation <= max(j.gen, 1) || !earlier || e.Sequence == j.seq || e.Sequence == j.copyOf {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, leaseMargin)
	defer cancel()
	var holds bool
	err := j.r.Persist(ctx, func(ctx context.Context) (err error) {
		holds, err = j.r.HoldsDelivery(ctx, e.Sequence, j.target, j.event.ID)
		return err
	})
	return holds, err
}

// fromBackup reports whether the delivery, or its event, lay in a backup that was restored, and
// was not tried since: what became of it after the backup was made is not known.
func (j *job) fromBackup() bool {
	to := j.r.ledger.RestoredTo
	if to.IsZero() || j.entry.Last.After(to) || verdict.OnHost(j.lane.name) { // a deployment is repeated without harm
		return false
	}
	return !j.since.After(to) || !j.published.IsZero() && !j.published.After(to)
}

// readLedger returns the delivery's entry and its revision, 0 if there is none, and how
// long the lease of another attempt still lasts. Without an entry of its own, the one that the
// target has under a former id is returned, with revision 0. It waits for the next leader: a
// message that is NAKed meanwhile is lost sight of for longer.
func (j *job) readLedger(ctx context.Context) (entry broker.Entry, revision uint64, left time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaseMargin)
	defer cancel()
	err = j.r.Persist(ctx, func(ctx context.Context) error {
		entry, revision, err = j.r.ledger.Get(ctx, j.key)
		if errors.Is(err, broker.ErrNoEntry) {
			entry, err = j.r.FormerEntry(ctx, j.target, j.r.formerIDs(j.target), j.token)
		}
		if broker.Unanswered(err) { // an answer may be another replica's, and says nothing of the leader
			j.r.progress.note(keepLedger, err)
		}
		return err
	})
	j.r.ledgerAnswered(ctx, j.key, err)
	if errors.Is(err, broker.ErrNoEntry) {
		return entry, 0, 0, nil
	}
	if err == nil && entry.State == broker.StateSending && !j.orphaned(entry) {
		left, err = j.r.ledger.LeaseLeft(ctx, entry)
	}
	return entry, revision, left, err
}

// orphaned reports whether the owner of the lease has certainly ended: it ran the
// embedded server on the store that this process holds now. An owner that only
// connected to such a server may still run, so its lease is respected.
func (j *job) orphaned(e broker.Entry) bool {
	return j.r.Embedded() && e.Owner != j.r.owner && strings.HasSuffix(e.Owner, embeddedOwner)
}
