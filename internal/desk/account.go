package desk

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certpost/certpost/internal/broker"
)

// missingLetter is a letter that is gone from the stream although no audit record says
// how it ended.
type missingLetter struct {
	letter *letter   // nil: it left the stream before it was read
	since  time.Time // when this process noticed
}

// removeAfter is how long a letter may stay in the stream after the audit records that an
// action ended it. The process that writes the record removes the letter right after. If it
// died before, another process removes the letter; that both do is harmless.
const removeAfter = 10 * time.Second

// unknownClient is the recorded actor of a letter that was removed outside Certpost. NATS
// does not store which client removed a message.
var unknownClient = broker.Actor{Name: "unknown NATS client", Via: broker.ViaNATS}

// mostAtOnce bounds the audit records of one look.
const mostAtOnce = 500

// account explains letters that are gone without an audit record, after a grace period in
// which the record may still arrive. It writes each explanation into the audit, so that
// every process that reads the audit computes the same balance. It also removes letters
// whose end is recorded but whose removal was not finished, and notes since when the
// balance does not add up.
func (f *follower) account(ctx context.Context) error {
	now := time.Now()
	var records []broker.AuditRecord
	var taken []uint64
	f.mu.Lock()
	x := f.Desk.letters
	switch {
	case x.outcomes.unexplained == 0:
		f.mismatch = time.Time{}
		clear(f.missing)
	case f.mismatch.IsZero(), x.outcomes.unexplained < f.unexplainedBefore:
		f.mismatch = now // recording a purge takes a while; it makes progress
	}
	f.unexplainedBefore = x.outcomes.unexplained
	if x.outcomes.unexplained > 0 {
		for _, n := range x.outcomes.unexplainedNumbers() {
			left, known := f.missing[n]
			if !known {
				left = missingLetter{since: now}
				f.missing[n] = left
			}
			grace := f.pace.grace
			if left.letter == nil {
				grace *= 2 // another process may have read the letter, and can record more
			}
			if now.Sub(left.since) < grace || len(records) == mostAtOnce {
				continue
			}
			if r, ok := f.explain(n, left, now); ok {
				records = append(records, r)
			}
		}
	}
	for n, since := range f.unremoved {
		switch {
		case !x.outcomes.unremoved(n):
			delete(f.unremoved, n)
		case now.Sub(since) > removeAfter && len(taken) < mostAtOnce:
			taken = append(taken, n)
			f.unremoved[n] = now
		}
	}
	f.mu.Unlock()
	if !f.mayRecord.Load() || now.Before(f.auditRetryAt) {
		return nil
	}
	for _, n := range taken {
		if err := f.b.TakeOff(ctx, n); err != nil {
			f.log.Warn().Err(err).Uint64("letter", n).Msg("the end of this dead letter is recorded, but removing it from the list failed; retrying")
			continue
		}
		f.log.Info().Uint64("letter", n).Msg("removed a dead letter whose end an earlier process recorded without removing it")
	}
	if len(records) == 0 {
		return nil
	}
	if err := f.observe(ctx, records); err != nil {
		// The letters stay visible: ends that cannot be recorded are only a difference in
		// the balance.
		f.auditRetryAt = now.Add(auditRetryDelay)
		f.log.Warn().Err(err).Msg("recording how dead letters ended failed; retrying, and the balance shows them as unexplained until then")
	}
	_, err := f.readAudit(ctx)
	return err
}

// auditRetryDelay is how long account waits after the audit refused a record.
const auditRetryDelay = 10 * time.Second

// observers bounds the records written concurrently; the audit stores them in batches.
const observers = 64

// observe writes records of observed ends into the audit, unless another process has.
func (f *follower) observe(ctx context.Context, records []broker.AuditRecord) error {
	var group errgroup.Group
	group.SetLimit(observers)
	for _, r := range records {
		group.Go(func() error {
			_, err := f.b.Observe(ctx, r)
			return err
		})
	}
	return group.Wait()
}

// explain returns the audit record for a letter that ended without one; false: how it
// ended cannot be decided yet. The lock is held.
func (f *follower) explain(number uint64, left missingLetter, now time.Time) (broker.AuditRecord, bool) {
	r := broker.AuditRecord{LetterNumber: number, Actor: f.itself}
	l := left.letter
	if l == nil {
		// It left before it was read, so only its number is known. Letters expire from the
		// oldest on: one older than all open letters may have expired, if the stream is
		// older than the maximum age.
		if number < f.first && f.maxAge > 0 && now.Sub(f.lettersCreated) > f.maxAge {
			r.Action, r.Reason = broker.ActionExpired, "it is older than all open letters, and no record says how it ended"
			return r, true
		}
		r.Action, r.Reason = broker.ActionRemoved, "it was removed before Certpost read it, and no record says why"
		r.Actor = unknownClient
		return r, true
	}
	letter := l.letter().DeadLetter
	r.Event, r.Target, r.Lane, r.Letter = letter.Event, letter.Target, letter.Lane, &letter
	if f.deliveries.reading() {
		return r, false // whether it was delivered is not known yet
	}
	key := f.Desk.letters.delivery(l)
	switch newer := f.Desk.letters.deliveries[key]; {
	case f.deliveries.sentSince(key, l.at):
		r.Action, r.Reason = broker.ActionDelivered, "its delivery succeeded later"
	case newer > number || f.newerMissing(key, number):
		r.Action, r.Reason = broker.ActionReplaced, "a newer dead letter of the same delivery replaced it"
	case f.maxAge > 0 && now.Sub(fromNanoseconds(l.at)) >= f.maxAge-time.Second:
		r.Action, r.Reason = broker.ActionExpired, "it reached the maximum age of dead letters"
	default:
		r.Action, r.Actor, r.Reason = broker.ActionRemoved, unknownClient, "it is gone from the stream: a NATS client removed it, or the store lost it"
	}
	return r, true
}

// newerMissing reports whether a newer letter of the same delivery is missing as well.
func (f *follower) newerMissing(key, number uint64) bool {
	for n, d := range f.missing {
		if n > number && d.letter != nil && f.Desk.letters.delivery(d.letter) == key {
			return true
		}
	}
	return false
}

// pendingDetail is a letter that is known to be superseded, while the details of the
// newer certificate are still to be read from the ledger entry with the revision.
type pendingDetail struct {
	number, revision uint64
}

// readPendingDetails reads the missing details of newer certificates. An entry that has
// changed since is skipped: followLedger reads its new revision.
func (f *follower) readPendingDetails(ctx context.Context) {
	read := map[uint64]broker.LedgerChange{}
	for _, b := range f.pendingDetails {
		c, known := read[b.revision]
		if !known {
			var err error
			if c, err = f.b.EntryAt(ctx, b.revision); err != nil {
				continue
			}
			read[b.revision] = c
		}
		f.mu.Lock()
		if l := f.Desk.letters.find(b.number); l != nil && l.superseded != nil && l.superseded.Event == "" {
			l.superseded.setCertificate(&c.Entry)
		}
		f.mu.Unlock()
	}
	f.pendingDetails = f.pendingDetails[:0]
}

// setCertificate sets the newer certificate from the ledger entry of its delivery.
func (s *Superseded) setCertificate(e *broker.Entry) {
	s.Event, s.At = e.Event, e.Last
	if c := e.Certificate; c != nil {
		s.Serial, s.NotAfter = c.Serial, c.NotAfter
	}
}
