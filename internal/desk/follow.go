package desk

import (
	"context"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// chunk is how many changes are made to the index at a time: pages come in between.
const chunk = 256

// follower is where the reading of letters and audit stands. Only followLetters has
// it.
type follower struct {
	*Desk
	letters, audit               uint64               // to be read next
	lettersCreated, auditCreated time.Time            // of the streams that are read
	first                        uint64               // the oldest open letter
	compareAgainAt                        time.Time            // until when a count that does not fit is not looked into again
	missing                         map[uint64]missingLetter // letters that are gone without a word
	endedOpen                    map[uint64]time.Time // letters that are there although they have ended
	unexplainedBefore                      int                  // letters that were gone unexplained at the last look
	auditRetryAt                      time.Time            // until when the audit, which took no record, is left alone
	pendingDetails                       []pendingDetail
}

func newFollower(d *Desk) *follower {
	return &follower{Desk: d, letters: 1, audit: 1, missing: map[uint64]missingLetter{}, endedOpen: map[uint64]time.Time{}}
}

// followLetters keeps the index of letters and their ends.
func (d *Desk) followLetters(ctx context.Context) {
	f := newFollower(d)
	tick := time.NewTicker(d.pace.look)
	defer tick.Stop()
	for ctx.Err() == nil {
		err := f.look(ctx)
		if err != nil && ctx.Err() == nil && d.setFollowErr(err) {
			d.log.Warn().Err(err).Msg("the dead letters cannot be followed now; what is shown of them stands still")
		}
		if err == nil && d.setFollowErr(nil) {
			d.log.Info().Msg("the dead letters are followed again")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case asked := <-d.looks:
			if err := f.look(ctx); err == nil {
				_ = d.setFollowErr(nil)
			}
			close(asked)
		}
	}
}

// setFollowErr notes whether the streams can be followed, and reports whether that is
// news.
func (d *Desk) setFollowErr(err error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	news := (d.followErr == nil) != (err == nil)
	d.followErr = err
	return news
}

// CatchUp waits until the index has seen what is in the streams at this moment, so
// that whoever acted sees what he did; for two seconds at most: the next look comes
// by itself.
func (d *Desk) CatchUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	done := make(chan struct{})
	select {
	case d.looks <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// look reads what is new since the last look, and explains what is gone.
//
// Whoever takes a letter off writes into the audit first. So the audit is read after
// what is gone has been seen: an end that it does not know by then was made past
// Certpost, or its record is still under way.
func (f *follower) look(ctx context.Context) error {
	letters, audit, ledger, err := f.b.StreamStates(ctx)
	if err != nil {
		return err
	}
	f.restartIfRecreated(letters, audit)
	f.noteLedgerState(ledger)
	f.mu.RLock()
	if x := f.Desk.letters; x.beyond() > 0 && x.byNumber.size < x.limit*3/4 {
		f.letters = letters.First // there is room for older ones again
	}
	f.mu.RUnlock()
	var change Change
	defer func() { f.listeners.notify(change) }()
	if letters.Last >= f.letters {
		n, err := f.readLetters(ctx, letters.Last)
		change.Letters, change.Newer = n > 0, n
		if err != nil {
			return err
		}
	}
	gone, err := f.compare(ctx, letters)
	change.Letters = change.Letters || gone
	if err != nil {
		return err
	}
	if gone || audit.Last >= f.audit {
		n, err := f.readAudit(ctx)
		change.Audit = n > 0
		change.Letters = change.Letters || n > 0
		if err != nil {
			return err
		}
	}
	if err := f.account(ctx); err != nil {
		return err
	}
	f.readPendingDetails(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.read {
		f.read = true
		close(f.ready)
		for _, r := range f.runs.all {
			if r.record.State.unfinished() {
				f.beginTracking(r)
			}
		}
		change.Letters, change.Audit = true, true
	}
	return nil
}

// restartIfRecreated forgets everything when a stream is not the one it was: it was deleted
// and made again, or put back from a backup.
func (f *follower) restartIfRecreated(letters, audit broker.StreamState) {
	same := letters.Created.Equal(f.lettersCreated) && audit.Created.Equal(f.auditCreated)
	if !f.lettersCreated.IsZero() && (!same || letters.Last+1 < f.letters || audit.Last+1 < f.audit) {
		f.log.Warn().Msg("the stream of dead letters, or the audit, was made anew or put back; reading both from the beginning")
		f.mu.Lock()
		f.Desk.letters = newLetters(f.Desk.letters.hash, f.Desk.letters.limit)
		f.history = newHistory(f.history.limit)
		f.mismatch = time.Time{}
		f.mu.Unlock()
		f.letters, f.audit = 1, 1
		clear(f.missing)
		clear(f.endedOpen)
	}
	f.lettersCreated, f.auditCreated, f.first = letters.Created, audit.Created, letters.First
	f.mu.Lock()
	defer f.mu.Unlock()
	f.maxAge, f.auditAge, f.history.first = letters.MaxAge, audit.MaxAge, audit.First
}

// readLetters reads the letters that are new, and returns how many. What is missing
// up to the number last has left before it could be read.
func (f *follower) readLetters(ctx context.Context, last uint64) (n int, err error) {
	type pair struct {
		d broker.DeadLetter
		l *letter
	}
	var some []pair
	apply := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i := range some {
			f.put(&some[i].d, some[i].l)
		}
		n += len(some)
		some = some[:0]
	}
	for d, rerr := range f.b.ReadLetters(ctx, f.letters) {
		if err = rerr; err != nil {
			break
		}
		l := newLetter(&d) // the certificate is parsed here, outside of the lock
		d.Body = nil
		if some = append(some, pair{d, l}); len(some) == chunk {
			apply()
		}
		f.letters = d.Sequence + 1
	}
	apply()
	if err != nil {
		return n, err
	}
	f.letters = max(f.letters, last+1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Desk.letters.outcomes.extendTo(f.letters - 1)
	return n, nil
}

// put adds a letter, with what is known of it already. The lock is held.
func (f *follower) put(d *broker.DeadLetter, l *letter) {
	x := f.Desk.letters
	if hold, ok := f.runs.holds[l.number]; ok {
		l.hold = &hold
	}
	l.run = f.runs.of(l.number)
	if key, ok := x.pairOf(l); ok {
		if newer, ok := f.deliveries.newest[key]; ok && int64(newer.notBefore) > l.leaf.Value().notBefore && f.deliveries.covers(newer.revision, l.leaf.Value().allNames()) {
			l.superseded = &Superseded{} // which one is read in a moment
			f.pendingDetails = append(f.pendingDetails, pendingDetail{l.number, newer.revision})
		}
	}
	x.put(d, l)
	if x.outcomes.decided(l.number) { // the audit was faster
		f.endedOpen[l.number] = time.Now()
	}
	if l.group != nil {
		f.runs.letterAdded(x.delivery(l), l)
	}
}

// compare looks for letters that are gone since they were read. state is from before
// the last reading.
func (f *follower) compare(ctx context.Context, state broker.StreamState) (gone bool, err error) {
	f.mu.RLock()
	open := uint64(f.Desk.letters.outcomes.openUpTo(state.Last))
	f.mu.RUnlock()
	now := time.Now()
	if open == state.Messages || now.Before(f.compareAgainAt) {
		return false, nil
	}
	there, err := f.b.OpenLetters(ctx)
	if err != nil {
		return false, err
	}
	// The answer is long when much is gone: no more than a tenth of the time is spent
	// on it.
	f.compareAgainAt = now.Add(9 * time.Since(now))
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.Desk.letters
	for n := uint64(1); n <= min(there.Last, x.outcomes.total()); n++ {
		if !x.outcomes.isOpen(n) || there.Has(n) {
			continue
		}
		gone = true
		if l := x.gone(n); !x.outcomes.decided(n) {
			f.missing[n] = missingLetter{l, now}
		}
	}
	if uint64(x.outcomes.openUpTo(there.Last)) < there.Messages {
		for n := uint64(1); n <= min(there.Last, f.letters-1); n++ {
			if there.Has(n) && !x.outcomes.isOpen(n) {
				f.letters = n // it was put back, or a replica did not have it yet
				break
			}
		}
	}
	return gone, nil
}

// readAudit reads the records that are new, and returns how many.
func (f *follower) readAudit(ctx context.Context) (n int, err error) {
	var some []broker.AuditRecord
	apply := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i := range some {
			f.applyRecord(&some[i])
		}
		n += len(some)
		some = some[:0]
	}
	for r, rerr := range f.b.ReadAudit(ctx, f.audit) {
		if err = rerr; err != nil {
			break
		}
		r.Body = nil
		if some = append(some, r); len(some) == chunk {
			apply()
		}
		f.audit = r.Sequence + 1
	}
	apply()
	return n, err
}

// applyRecord takes in one record. The lock is held.
func (f *follower) applyRecord(r *broker.AuditRecord) {
	f.history.put(r)
	for run := range f.runs.each {
		f.trackRecord(run.tracker, r, causeOf(r))
	}
	// Both moments are the server's: the clock of who wrote the record may be wrong.
	if r.Stored.Before(f.lettersCreated.Add(-time.Second)) {
		return // about letters of a stream that is no more
	}
	x := f.Desk.letters
	number := numberOf(r)
	if r.Action == broker.ActionRestored && r.Stage != broker.StageIntent {
		x.restored++
	}
	fate := outcomeOf(r)
	if fate == 0 || number == 0 {
		return
	}
	x.outcomes.setOutcome(number, fate)
	delete(f.missing, number)
	if x.outcomes.isOpen(number) {
		f.endedOpen[number] = time.Now()
	}
	if r.Letter != nil && x.outcomes.count(number) {
		x.dead.add(r.Letter.Time.UnixNano(), 1)
		if x.since.IsZero() || r.Letter.Time.Before(x.since) {
			x.since = r.Letter.Time
		}
	}
}

// numberOf is the number of the letter that a record is about, 0 for none.
func numberOf(r *broker.AuditRecord) uint64 {
	if r.LetterNumber == 0 && r.Letter != nil { // as earlier versions wrote it
		return r.Letter.Sequence
	}
	return r.LetterNumber
}
