package desk

import (
	"context"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
)

// chunk is how many changes are applied to the index under one lock: page requests are
// served in between.
const chunk = 256

// follower is the state of reading the letters and the audit. Only followLetters uses it.
type follower struct {
	*Desk
	letters, audit               uint64                   // sequence to be read next
	lettersCreated, auditCreated time.Time                // when the streams were created
	first                        uint64                   // the oldest open letter
	compareAgainAt               time.Time                // no comparison with the stream before this time
	missing                      map[uint64]missingLetter // letters that are gone without a record, by number
	unremoved                    map[uint64]time.Time     // letters that an action has ended and not removed from the stream, since when that is known
	unexplainedBefore            int                      // letters that were unexplained at the last look
	auditRetryAt                 time.Time                // no records are written before this time: the audit refused some
	pendingDetails               []pendingDetail
}

func newFollower(d *Desk) *follower {
	return &follower{Desk: d, letters: 1, audit: 1, missing: map[uint64]missingLetter{}, unremoved: map[uint64]time.Time{}}
}

// followLetters keeps the index of letters and their ends up to date until the context
// ends.
func (d *Desk) followLetters(ctx context.Context) {
	f := newFollower(d)
	tick := time.NewTicker(d.pace.look)
	defer tick.Stop()
	for ctx.Err() == nil {
		err := f.look(ctx)
		if err != nil && ctx.Err() == nil && d.setFollowErr(err) {
			d.log.Warn().Err(err).Msg("dead letters cannot be read now; lists show the last known state")
		}
		if err == nil && d.setFollowErr(nil) {
			d.log.Info().Msg("dead letters are read again")
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

// setFollowErr stores whether the streams can be read, and reports whether that is a
// change.
func (d *Desk) setFollowErr(err error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	news := (d.followErr == nil) != (err == nil)
	d.followErr = err
	return news
}

// CatchUp waits until the index has read what is in the streams at this moment, so that a
// caller sees its own action (read-your-writes). It waits for two seconds at most: the
// next look happens anyway.
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
	for ctx.Err() == nil && d.ledgerBehind() { // followLedger reads it
		backoff.Sleep(ctx, 5*time.Millisecond)
	}
}

// look reads what is new since the last look, and explains what is gone.
//
// An action writes its audit record before it removes a letter. So the audit is read
// after the missing letters were found: an end that is not recorded by then was made
// outside Certpost, or its record is still on its way.
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
	if err := f.b.NoteLetters(ctx, letters.Last); err != nil {
		f.log.Debug().Err(err).Msg("the number of the newest dead letter could not be noted; trying again")
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
			} else {
				f.trackLate(r)
			}
		}
		change.Letters, change.Audit = true, true
	}
	return nil
}

// restartIfRecreated empties the index when a stream is not the one it was: it was
// deleted and created again, or restored from a backup.
func (f *follower) restartIfRecreated(letters, audit broker.StreamState) {
	same := letters.Created.Equal(f.lettersCreated) && audit.Created.Equal(f.auditCreated)
	if !f.lettersCreated.IsZero() && (!same || letters.Last+1 < f.letters || audit.Last+1 < f.audit) {
		f.log.Warn().Msg("the stream of dead letters or the audit was recreated or restored; reading both from the beginning")
		f.mu.Lock()
		f.Desk.letters = newLetters(f.Desk.letters.hash, f.Desk.letters.limit)
		f.discarded = newDiscarded(f.Desk.letters.hash)
		f.history = newHistory(f.history.limit)
		f.mismatch = time.Time{}
		f.mu.Unlock()
		f.letters, f.audit = 1, 1
		clear(f.missing)
		clear(f.unremoved)
	}
	f.lettersCreated, f.auditCreated, f.first = letters.Created, audit.Created, letters.First
	f.mu.Lock()
	defer f.mu.Unlock()
	f.maxAge, f.auditAge, f.history.first = letters.MaxAge, audit.MaxAge, audit.First
	f.Desk.letters.outcomes.base = letters.Base
	f.discarded.expire(audit.First)
}

// readLetters reads the new letters, and returns how many. Numbers up to last that the
// stream does not have belong to letters that left before they could be read.
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

// put adds a letter, with what is known of it already: hold, run and newer certificate.
// The lock is held.
func (f *follower) put(d *broker.DeadLetter, l *letter) {
	x := f.Desk.letters
	if hold, ok := f.runs.holds[l.number]; ok {
		l.hold = &hold
	}
	l.run = f.runs.of(l.number)
	if key, ok := x.pairOf(l); ok {
		if newer, ok := f.deliveries.newest[key]; ok && int64(newer.notBefore) > l.leaf.Value().notBefore && f.deliveries.covers(newer.revision, l.leaf.Value().allNames()) {
			l.superseded = &Superseded{} // readPendingDetails reads which
			f.pendingDetails = append(f.pendingDetails, pendingDetail{l.number, newer.revision})
		}
	}
	x.put(d, l)
	if x.outcomes.unremoved(l.number) { // the audit record was read first
		f.unremoved[l.number] = time.Now()
	}
	if l.group != nil {
		f.runs.letterAdded(x.delivery(l), l)
	}
}

// compare looks for letters that are gone since they were read. state was read before the
// last call of readLetters.
func (f *follower) compare(ctx context.Context, state broker.StreamState) (gone bool, err error) {
	f.mu.RLock()
	stored := uint64(f.Desk.letters.outcomes.storedUpTo(state.Last))
	f.mu.RUnlock()
	now := time.Now()
	if stored == state.Messages || now.Before(f.compareAgainAt) {
		return false, nil
	}
	there, err := f.b.OpenLetters(ctx)
	if err != nil {
		return false, err
	}
	// The answer is long when many letters are gone: at most a tenth of the time is spent
	// on it.
	f.compareAgainAt = now.Add(9 * time.Since(now))
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.Desk.letters
	for n := uint64(1); n <= min(there.Last, x.outcomes.highest()); n++ {
		if !x.outcomes.isStored(n) || there.Has(n) {
			continue
		}
		gone = true
		if l := x.gone(n); !x.outcomes.decided(n) {
			f.missing[n] = missingLetter{l, now}
		}
	}
	if uint64(x.outcomes.storedUpTo(there.Last)) < there.Messages {
		for n := uint64(1); n <= min(there.Last, f.letters-1); n++ {
			if there.Has(n) && !x.outcomes.isStored(n) {
				f.letters = n // it was restored, or the replica did not have it before
				break
			}
		}
	}
	return gone, nil
}

// readAudit reads the new records, and returns how many.
func (f *follower) readAudit(ctx context.Context) (n int, err error) {
	type discardedLetter struct {
		d broker.DeadLetter
		l *letter // nil for other records
	}
	var some []broker.AuditRecord
	discarded := map[uint64]discardedLetter{}
	apply := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i := range some {
			f.applyRecord(&some[i])
			if one, ok := discarded[some[i].Sequence]; ok && !f.ofEarlierStream(&some[i]) {
				f.discarded.put(some[i].Sequence, &one.d, one.l)
			}
		}
		clear(discarded)
		n += len(some)
		some = some[:0]
	}
	for r, rerr := range f.b.ReadAudit(ctx, f.audit) {
		if err = rerr; err != nil {
			break
		}
		f.audit = r.Sequence + 1
		if r.Action == broker.ActionCheckpoint {
			continue // once a minute, and about no letter: lists leave them out
		}
		if d, l := newDiscardedLetter(&r); l != nil { // the certificate is parsed here, outside of the lock
			discarded[r.Sequence] = discardedLetter{d, l}
		}
		r.Body = nil
		if some = append(some, r); len(some) == chunk {
			apply()
		}
	}
	apply()
	return n, err
}

// applyRecord applies one audit record. The lock is held.
func (f *follower) applyRecord(r *broker.AuditRecord) {
	f.history.put(r)
	for t := range f.runs.each {
		f.trackRecord(t, r, causeOf(r))
	}
	if f.ofEarlierStream(r) {
		return
	}
	x := f.Desk.letters
	number := numberOf(r)
	if r.Action == broker.ActionRestored && r.Stage != broker.StageIntent && number != 0 {
		x.restored++
		f.discarded.letters.gone(number)
	}
	outcome := outcomeOf(r)
	if outcome == 0 || number == 0 {
		return
	}
	x.ended(number, outcome)
	delete(f.missing, number)
	if x.outcomes.unremoved(number) {
		f.unremoved[number] = time.Now()
		if r.Stored.Before(f.began) {
			f.unremoved[number] = time.Time{} // the process that recorded it was most likely killed: removed at once
		}
	}
	if r.Letter != nil && x.outcomes.count(number) {
		x.dead.add(r.Letter.Time.UnixNano(), 1)
		if x.since.IsZero() || r.Letter.Time.Before(x.since) {
			x.since = r.Letter.Time
		}
	}
}

// ofEarlierStream reports whether a record is about a letter of an earlier stream. Both times are
// the server's: the clock of the process that wrote the record may be wrong.
func (f *follower) ofEarlierStream(r *broker.AuditRecord) bool {
	return r.Stored.Before(f.lettersCreated.Add(-time.Second))
}

// numberOf returns the number of the letter that a record is about, 0 for none.
func numberOf(r *broker.AuditRecord) uint64 {
	if r.LetterNumber == 0 && r.Letter != nil { // as earlier versions wrote it
		return r.Letter.Sequence
	}
	return r.LetterNumber
}
