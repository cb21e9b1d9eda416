package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// settle is the only switch on the verdict: it records the outcome in the ledger,
// and acknowledges the message, NAKs it or makes it a dead letter.
func (j *job) settle(ctx context.Context, receipt *verdict.Receipt, failure *verdict.Failure) {
	if j.claimErr != nil && receipt == nil {
		j.unclaim()
		j.nak(backoff.Jitter(time.Second), j.claimErr)
		return
	}
	if receipt != nil {
		j.r.reached(pointAccepted)
	}
	if failure == nil || failure.Hold == nil {
		j.r.holds.end(j.key)
	}
	j.entry.Learn(receipt, failure)
	if receipt != nil && failure == nil && j.entry.Decided() {
		failure = verdict.RefusedAll(j.entry.Refused) // in earlier attempts
	}
	switch {
	case failure == nil && receipt != nil:
		j.sent()
	case failure == nil:
		// A courier that returns neither a receipt nor a failure has a defect. The
		// delivery must not be lost because of it.
		j.retry(nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseSettle, Reason: "a defect in Certpost: the attempt returned neither a receipt nor a failure"}})
	case ctx.Err() != nil && receipt == nil:
		j.interrupted(failure)
	case failure.Hold != nil && receipt == nil && !j.tooOld():
		j.hold(failure)
	case failure.Skip && receipt == nil:
		j.skipped(failure)
	case failure.Relay && receipt == nil:
		j.relayFailed(failure)
	case failure.Untried && receipt == nil:
		j.releaseClaim(failure)
		j.nak(j.r.untilRelay(failure.After), nil) // not tried, so it does not expire, however old it is
	default:
		final := failure
		switch {
		case failure.Certainty == verdict.MaybeSent && j.r.set.DeadLetterUnknown:
			final = uncertain(failure.Reason)
			final.Transcript = failure.Transcript
		case failure.Retry() && !j.tooOld():
			j.retry(receipt, failure)
			return
		case failure.Retry():
			j.r.holds.end(j.key)
			final = expired(failure, time.Since(j.since))
		}
		// Record who has the mail before the dead letter is published: publishing may
		// fail, and the next attempt must not send to them again.
		if receipt == nil || j.record(j.entry.Waiting(final), j.leaseEnd()) {
			j.dead(final)
		}
	}
}

// interrupted NAKs a delivery that the shutdown interrupted. It does not count as an
// attempt, and does not make a dead letter, however old the delivery is.
func (j *job) interrupted(f *verdict.Failure) {
	j.releaseClaim(f)
	j.nak(0, nil)
}

// releaseClaim ends the lease of a delivery that was claimed in an attempt that does not
// count, so that the next one finds neither a lease nor an unknown outcome.
func (j *job) releaseClaim(f *verdict.Failure) {
	if !j.claimed {
		return
	}
	e := j.entry
	e.State = broker.StateWaiting
	e.Release()
	e.Attempts--
	e.Uncertain = e.Uncertain || f.Definite().Certainty == verdict.MaybeSent
	if err := j.persist(e, time.Now().Add(leaseMargin)); err != nil {
		j.r.log.Warn().Err(err).Str("event", j.event.ID).Str("target", j.target).Msg("this attempt did not count, and the ledger could not be updated; it is retried when its lease ends")
	}
}

// tooOld reports whether the delivery has reached the age GiveUpAfter.
func (j *job) tooOld() bool {
	return !j.since.IsZero() && time.Since(j.since) >= j.r.set.GiveUpAfter
}

// expired returns the failure as DELIVERY_EXPIRED; its reason contains the last failure.
func expired(f *verdict.Failure, age time.Duration) *verdict.Failure {
	e := *f
	e.Code = verdict.DeliveryExpired
	e.Reason = fmt.Sprintf("expired after %s; the last failure was %s: %s", age.Round(time.Second), f.Code, f.Reason)
	return &e
}

// sent records the relay's reply in the ledger, and only then acknowledges.
func (j *job) sent() {
	e := j.entry
	wasDead := e.DeadLetter != ""
	e.State, e.Failure, e.DeadLetter, e.Consented, e.Hold = broker.StateSent, nil, "", false, nil
	e.Release()
	j.noteNewest() // before `sent`: a process that dies in between tries both again
	if !j.record(e, j.leaseEnd()) {
		return
	}
	j.r.reached(pointRecorded)
	j.conclude("sent", nil)
	if j.entry.Generation <= 1 && j.replayOf == 0 {
		j.r.metrics.accepted(j.published, j.entry.Receipt)
	}
	if wasDead || j.mayHaveLetter() {
		if !j.takeLettersOff("") {
			return
		}
	}
	if !j.recordReplay(false) {
		return
	}
	j.ack()
}

// recordReplay records the success of a replay in the audit, after the ledger says `sent`; other
// deliveries cost no record. again says that an earlier process may have done so. It returns
// false when that was not possible, and has NAKed the message then: due tries again.
func (j *job) recordReplay(again bool) bool {
	if j.replayOf == 0 && j.entry.Generation <= 1 {
		return true
	}
	ctx, cancel := j.r.outlast(deathPatience)
	defer cancel()
	err := j.r.RecordSent(ctx, broker.ProcessActor(j.r.owner), j.entry, j.replayOf, again)
	if err == nil {
		return true
	}
	delay := backoff.Jitter(lettersDelay)
	j.r.log.Warn().Err(err).Str("event", j.event.ID).Str("target", j.target).Dur("again_in", delay).
		Msg("the replay was sent and the ledger says so; the audit does not yet; trying again")
	j.nak(delay, nil)
	return false
}

// record writes the outcome of the attempt to the ledger, and retries until the given
// time, which is not after the end of the lease. It returns false when it could not
// write, and has NAKed the message then. If the delivery was claimed, the next process
// that reads the entry finds an expired lease, which means an unknown outcome.
func (j *job) record(e broker.Entry, until time.Time) bool {
	err := j.persist(e, until)
	if err == nil {
		return true
	}
	j.log("the outcome of this attempt could not be recorded in the ledger; the mail may be sent again", "not_recorded", nil)
	j.nak(backoff.Jitter(5*time.Second), err)
	return false
}

// persist writes the entry, and tries again until the given time, also after the context
// has ended: what is known shall be stored. Each try has its own short deadline, because
// one acknowledgement that is lost with a server must not take all of the time: another
// server answers the next try.
func (j *job) persist(e broker.Entry, until time.Time) error {
	ctx, cancel := j.r.outlast(time.Until(until))
	defer cancel()
	return j.r.PersistUnless(ctx, lostClaim, func(ctx context.Context) error { return j.write(ctx, e) })
}

func lostClaim(err error) bool { return errors.Is(err, broker.ErrClaimLost) }

// leaseEnd returns the end of the lease; leaseMargin from now when there is none.
func (j *job) leaseEnd() time.Time {
	if j.entry.Lease.IsZero() {
		return time.Now().Add(leaseMargin)
	}
	return j.entry.Lease
}

// redelivered reports whether the server has delivered this message before.
func (j *job) redelivered() bool {
	meta, err := j.msg.Metadata()
	return err == nil && meta.NumDelivered > 1
}

// mayHaveLetter reports whether an earlier attempt at the delivery may have left a dead
// letter of which the ledger does not know. Most deliveries succeed at the first attempt,
// and need not look.
func (j *job) mayHaveLetter() bool {
	return j.gen != 1 || // 0: published without headers
		j.redelivered() || j.entry.Attempts > 1 ||
		j.since.Before(j.r.started) // a server that was killed with the process forgets that it delivered the message
}

// takeLettersOff removes the open dead letters of a settled delivery: all of a sent one, all
// but its newest (keep) of a dead one. A process that died between letter and ledger, or a
// second process, may have left one under another code. It returns false when that was not
// possible, and has NAKed the message then: when the server delivers it again, due finds
// it settled and tries again, in whatever process.
func (j *job) takeLettersOff(keep string) bool {
	ctx, cancel := j.r.outlast(deathPatience)
	defer cancel()
	settled := broker.Settled{Target: j.target, Token: j.token, Digest: j.event.Digest(), Message: broker.Message{Sequence: j.seq, Stored: j.since}}
	var err error
	if keep == "" {
		err = j.r.RemoveDeadLetter(ctx, settled, broker.ProcessActor(j.r.owner))
	} else {
		err = j.r.RemoveOlder(ctx, settled, keep)
	}
	if err == nil {
		return true
	}
	delay := backoff.Jitter(lettersDelay)
	j.r.log.Warn().Err(err).Str("event", j.event.ID).Str("target", j.target).Dur("again_in", delay).
		Msg("the outcome is recorded; looking for earlier dead letters of this delivery, or removing one, failed; trying again")
	j.nak(delay, nil)
	return false
}

// lettersDelay is the time after which letters that could not be removed are tried again.
const lettersDelay = 5 * time.Second

// retry records the failure and NAKs the message with a growing delay. The delay
// starts again at the first one when the relay accepted the mail for some recipients:
// otherwise a relay that accepts two recipients at a time would be tried once an hour.
func (j *job) retry(receipt *verdict.Receipt, f *verdict.Failure) {
	until, tries := time.Now().Add(leaseMargin), max(j.entry.Attempts, 1)
	if receipt != nil {
		until, tries = j.leaseEnd(), 1
	}
	delay := max(j.r.set.retryDelay(tries), j.r.untilRelay(f.After)) // After: the relay reached its limit at a later recipient
	if !j.record(j.entry.Waiting(f).TriedAgain(time.Now().Add(delay)), until) {
		return
	}
	j.r.reached(pointWaiting)
	j.log("", "retry", f)
	j.nak(delay, nil)
}

// relayFailed NAKs the message until the relay may be tried again. This does not count
// as an attempt. A delivery that is too old becomes a dead letter instead.
func (j *job) relayFailed(f *verdict.Failure) {
	if j.tooOld() {
		j.lane.overdue.Store(true) // the next ones may be too old as well
		j.dead(expired(f, time.Since(j.since)))
		return
	}
	j.releaseClaim(f)
	if !f.Untried {
		j.log("", "relay_failed", f)
	}
	delay := f.After
	if delay <= 0 {
		delay = backoff.Jitter(j.r.set.RetryInitial)
	}
	j.nak(j.r.untilRelay(delay), nil)
}

// longestRelayDelay is the Runner's relayDelay.
const longestRelayDelay = time.Minute

// untilRelay returns the delay of a delivery whose relay is not available for a time, which
// may be a day. Breakers and limits keep the lane from its relay for as long as it takes. The
// messages come back earlier, so that a corrected target, or a relay that an operator has
// resumed, gets them soon.
func (r *Runner) untilRelay(wait time.Duration) time.Duration {
	return min(wait, backoff.Jitter(r.relayDelay))
}

// deathPatience is how long a dead letter is tried to store, after which its delivery is
// NAKed. It is longer than a cluster needs to find a new leader.
const deathPatience = 10 * time.Second

// dead publishes the dead letter, then writes the ledger, then acknowledges, in this
// order: if the process dies in between, the server delivers the message again. An
// attempt may be made again then, and its letter is stored only once per subject.
func (j *job) dead(f *verdict.Failure) {
	ctx, cancel := j.r.outlast(deathPatience)
	defer cancel()
	if j.entry.Uncertain && f.Definite().Certainty == verdict.NotSent {
		// This attempt sent nothing, but an earlier one may have.
		earlier := *f
		earlier.Certainty = verdict.MaybeSent
		f = &earlier
	}
	d := j.letter(f)
	if d.Certainty == verdict.NotSent && len(j.entry.Accepted) > 0 {
		d.Certainty = verdict.Accepted // for recipients other than those still owed
	}
	j.r.reached(pointDeadLettering)
	err := j.r.PublishDeadLetter(ctx, d, "d"+strconv.FormatUint(j.letterOf(), 10))
	j.r.noted(storeLetters, partDeadLetters, j.lane.label, err)
	if err != nil {
		j.r.metrics.deadLetterFailures.Inc()
		j.log("the dead letter could not be stored; the delivery waits", "dead_letter_not_stored", f)
		j.nak(j.r.set.deadLetterDelay(), err)
		return
	}
	j.r.reached(pointDeadLettered)
	// An event that cannot be read has no ledger entry, and one that reuses the id of
	// another event must not overwrite the entry of that event.
	if j.event != nil && (j.entry.Digest == j.event.Digest()) {
		e := j.entry
		e.Lane, e.Generation, e.Sequence = j.lane.name, j.gen, max(j.seq, j.letterOf())
		e = e.Failed(f)
		e.State, e.DeadLetter, e.Consented = broker.StateDead, d.Subject, false
		e.FailedReplays, e.LastDead = j.failedReplays(), time.Now()
		e.Release()
		e.Owed, e.Uncertain, e.MayHave = e.Missing(), f.Definite().Certainty == verdict.MaybeSent, nil
		if e.Uncertain {
			e.MayHave = d.Recipients
		}
		if err := j.persist(e, time.Now().Add(leaseMargin)); err != nil {
			j.nak(backoff.Jitter(5*time.Second), err)
			return
		}
		j.r.reached(pointDead)
		j.conclude("dead", f)
		if j.takeLettersOff(d.Subject) {
			j.ack()
		}
		return
	}
	j.r.reached(pointDead)
	j.finish("dead", f)
}

// failedReplays returns the number of replays that failed, the present one included.
func (j *job) failedReplays() int {
	if j.gen > 1 {
		return j.entry.FailedReplays + 1
	}
	return j.entry.FailedReplays
}

// letter returns the dead letter of this delivery.
func (j *job) letter(f *verdict.Failure) *broker.DeadLetter {
	d := letterAbout(f)
	d.Target, d.Lane, d.Generation = j.target, j.lane.name, max(j.gen, 1)
	d.Attempts, d.First, d.Last, d.FailedReplays = j.entry.AllAttempts(), j.entry.FirstOfAll(), j.entry.Last, j.failedReplays()
	d.ReplaySubject, d.Body = j.msg.Subject(), j.msg.Data()
	d.TraceParent = broker.TraceParent(j.msg.Headers())
	if missing := j.entry.Missing(); missing != nil {
		d.Recipients = missing // including those refused in earlier attempts
	}
	d.EventSubject, d.Published = broker.SubjectOfEvent(j.msg.Headers()), j.publication()
	if a, ok := j.r.courier.(Addresser); ok && j.event != nil && d.Certainty == verdict.MaybeSent {
		var all []string
		if d.MessageID, all = a.Addressed(j.event, j.target); len(d.Recipients) == 0 && j.recipients == nil {
			d.Recipients = slices.DeleteFunc(all, func(r string) bool { return slices.Contains(j.entry.Accepted, r) })
		}
	}
	if j.event != nil {
		d.Event, d.Token = j.event.ID, j.token
		d.EventSubject = j.event.Subject
		return d
	}
	unreadable(d, f, "delivery-"+strconv.FormatUint(j.seq, 10))
	return d
}

// letterAbout returns a dead letter that holds the failure and nothing of the delivery.
func letterAbout(f *verdict.Failure) *broker.DeadLetter {
	return &broker.DeadLetter{Outcome: f.Definite(), Recipients: slices.Clone(f.Recipients), Secrets: verdict.Versions(f.Secrets)}
}

// unreadable completes the letter of a message that is not a valid event. Its event id
// is the id in the message, or place if none could be read; the body is left out if it
// contains a private key.
func unreadable(d *broker.DeadLetter, f *verdict.Failure, place string) {
	d.Event = place
	if inv := (*events.Invalid)(nil); errors.As(f.Cause, &inv) {
		if inv.ID != "" {
			d.Event = inv.ID
		}
		if inv.HoldsKey {
			d.Body = broker.Withheld("the event contains a private key and is not copied; "+f.Reason, d)
		}
	}
	d.Token = events.Token(d.Event)
}

// finish acknowledges, and counts and logs the outcome.
func (j *job) finish(state string, f *verdict.Failure) {
	j.ack()
	j.conclude(state, f)
}

// conclude counts and logs the outcome.
func (j *job) conclude(state string, f *verdict.Failure) {
	j.r.metrics.settle(j.lane.label, state, j.since)
	j.log("", state, f)
}

// ack acknowledges and waits until the server confirms it. If it does not within
// leaseMargin, the server delivers the message again, which is then settled the same way.
func (j *job) ack() {
	ctx, cancel := j.r.outlast(leaseMargin)
	defer cancel()
	if err := j.r.Persist(ctx, j.msg.DoubleAck); err != nil {
		j.r.log.Debug().Err(err).Str("lane", j.lane.name).Msg("the acknowledgement of a delivery was not confirmed")
	}
	j.r.reached(pointSettled)
}

// nak NAKs the message: the server delivers it again after the delay. why, when not nil,
// is logged as the reason.
func (j *job) nak(delay time.Duration, why error) {
	if why != nil {
		j.r.log.Warn().Err(why).Str("lane", j.lane.name).Str("target", j.target).Dur("again_in", delay).Msg("the delivery was not settled; it is retried")
	}
	j.stopKeepAlive()
	if err := j.r.nak(j.msg, delay); err != nil {
		j.r.log.Debug().Err(err).Str("lane", j.lane.name).Msg("a NAK was not confirmed; the server delivers the message again when its acknowledgement wait ends at the latest")
	}
}

// nak NAKs a message with a delay and waits until the server confirms it: a NAK that is
// lost with a server costs the whole acknowledgement wait. It is tried again for a third
// of that time: later the message may be in work elsewhere, and a NAK would take it away.
// No sign of life may be sent for the message any more, because that would end the delay.
func (r *Runner) nak(msg jetstream.Msg, delay time.Duration) error {
	if msg.Reply() == "" {
		return nil // a stray: the next search finds it
	}
	ctx, cancel := r.outlast(r.AckWait() / 3)
	defer cancel()
	body := fmt.Appendf(nil, "-NAK {\"delay\": %d}", max(delay, atOnce).Nanoseconds())
	return r.Persist(ctx, func(ctx context.Context) error {
		_, err := r.Conn().RequestWithContext(ctx, msg.Reply(), body)
		return err
	})
}
