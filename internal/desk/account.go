package desk

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certpost/certpost/internal/broker"
)

// missingLetter is a letter that was there and is no more, without a word about it.
type missingLetter struct {
	letter *letter // nil: it left before it was read
	since  time.Time
}

// removeAfter is how long a letter may be there whose end the audit has: whoever wrote
// that takes the letter off right after. Later he is dead, and the letter is taken
// off for him.
const removeAfter = 10 * time.Second

// mostAtOnce bounds the records of one look.
const mostAtOnce = 500

// account explains what is gone without a word, once its record had the time to
// arrive, and writes the explanation into the audit: so the next process to read it
// comes to the same balance. It also notes since when the balance does not add up.
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
		f.mismatch = now // a purge takes a while to be written down: that is no standstill
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
				grace *= 2 // another process may have read it, and knows more
			}
			if now.Sub(left.since) < grace || len(records) == mostAtOnce {
				continue
			}
			if r, ok := f.explain(n, left, now); ok {
				records = append(records, r)
			}
		}
	}
	for n, since := range f.endedOpen {
		switch {
		case !x.outcomes.isOpen(n):
			delete(f.endedOpen, n)
		case now.Sub(since) > removeAfter && len(taken) < mostAtOnce:
			taken = append(taken, n)
			f.endedOpen[n] = now
		}
	}
	f.mu.Unlock()
	if !f.mayRecord.Load() || now.Before(f.auditRetryAt) {
		return nil
	}
	for _, n := range taken {
		if err := f.b.TakeOff(ctx, n); err != nil {
			f.log.Warn().Err(err).Uint64("letter", n).Msg("an earlier action on this dead letter was not finished, and cannot be now")
			continue
		}
		f.log.Info().Uint64("letter", n).Msg("an earlier action on this dead letter was not finished; finished it")
	}
	if len(records) == 0 {
		return nil
	}
	if err := f.observe(ctx, records); err != nil {
		// What cannot be written down is a difference in the balance. It keeps nobody from
		// seeing the letters.
		f.auditRetryAt = now.Add(auditRetryDelay)
		f.log.Warn().Err(err).Msg("the audit takes no records of how dead letters left")
	}
	_, err := f.readAudit(ctx)
	return err
}

// auditRetryDelay is how long an audit that took no record is left alone.
const auditRetryDelay = 10 * time.Second

// observers is how many records are on their way at a time; they go into the audit
// together.
const observers = 64

// observe writes what was seen into the audit, where nobody else has yet.
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

// explain says how a letter left that nobody wrote about; false: it cannot be said
// yet. The lock is held.
func (f *follower) explain(number uint64, left missingLetter, now time.Time) (broker.AuditRecord, bool) {
	r := broker.AuditRecord{LetterNumber: number, Actor: f.itself}
	l := left.letter
	if l == nil {
		// It left before it was read: all that is known is its number. Letters expire
		// from the oldest on, so one in front of all that are open may have, if the
		// stream is old enough for that.
		if number < f.first && f.maxAge > 0 && now.Sub(f.lettersCreated) > f.maxAge {
			r.Action, r.Reason = broker.ActionExpired, "it is older than all that are open, and nothing else says what became of it"
			return r, true
		}
		r.Action, r.Reason = broker.ActionRemoved, "it left before Certpost had read it, and nothing says why"
		r.Actor = f.removers.of(number, "")
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
		r.Action, r.Reason = broker.ActionDelivered, "its delivery succeeded after all"
	case newer > number || f.newerMissing(key, number):
		r.Action, r.Reason = broker.ActionReplaced, "a newer dead letter of the same delivery took its place"
	case f.maxAge > 0 && now.Sub(fromNanoseconds(l.at)) >= f.maxAge-time.Second:
		r.Action, r.Reason = broker.ActionExpired, "it was kept for as long as dead letters are kept"
	default:
		r.Action, r.Actor = broker.ActionRemoved, f.removers.of(number, letter.Subject)
	}
	return r, true
}

// newerMissing reports whether a newer letter of the same delivery is gone as well.
func (f *follower) newerMissing(key, number uint64) bool {
	for n, d := range f.missing {
		if n > number && d.letter != nil && f.Desk.letters.delivery(d.letter) == key {
			return true
		}
	}
	return false
}

// pendingDetail is a letter of which it is known that a newer certificate was sent, and not
// which one.
type pendingDetail struct {
	number, revision uint64
}

// readPendingDetails reads what is missing of newer certificates. An entry that has changed
// since comes by itself.
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

// setCertificate says which certificate it is.
func (s *Superseded) setCertificate(e *broker.Entry) {
	s.Event, s.At = e.Event, e.Last
	if c := e.Certificate; c != nil {
		s.Serial, s.NotAfter = c.Serial, c.NotAfter
	}
}
