package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// settle is the only switch on the verdict: it records the outcome in the ledger,
// and acknowledges the message, NAKs it or makes it a dead letter.
func (j *job) settle(ctx context.Context, receipt *verdict.Receipt, failure *verdict.Failure) {
	if j.claimErr != nil && receipt == nil {
		j.nak(backoff.Jitter(time.Second), j.claimErr)
		return
	}
	if receipt != nil {
		j.r.reached(pointAccepted)
	}
	j.entry.Learn(receipt, failure)
	if receipt != nil && failure == nil && j.entry.Decided() {
		failure = verdict.RefusedAll(j.entry.Refused) // in earlier attempts
	}
	switch {
	case failure == nil && receipt != nil:
		j.sent(ctx)
	case failure == nil:
		// A courier that returns neither a receipt nor a failure has a defect. The
		// delivery must not be lost because of it.
		j.retry(ctx, nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseSettle, Reason: "a defect in Certpost: the attempt returned neither a receipt nor a failure"}})
	case ctx.Err() != nil && receipt == nil:
		j.interrupted(ctx, failure)
	case failure.Relay && receipt == nil:
		j.relayFailed(ctx, failure)
	case failure.Untried && receipt == nil:
		j.nak(failure.After, nil) // not tried, so it does not expire, however old it is
	default:
		final := failure
		switch {
		case failure.Certainty == verdict.MaybeSent && j.r.set.DeadLetterUnknown:
			final = uncertain(failure.Reason)
			final.Transcript = failure.Transcript
		case failure.Retry() && !j.tooOld():
			j.retry(ctx, receipt, failure)
			return
		case failure.Retry():
			final = expired(failure, time.Since(j.since))
		}
		// Record who has the mail before the dead letter is published: publishing may
		// fail, and the next attempt must not send to them again.
		if receipt == nil || j.record(ctx, j.entry.Waiting(final), j.leaseEnd()) {
			j.dead(ctx, final)
		}
	}
}

// interrupted NAKs a delivery that the shutdown interrupted. It does not count as an
// attempt, and does not make a dead letter, however old the delivery is.
func (j *job) interrupted(ctx context.Context, f *verdict.Failure) {
	if j.claimed {
		e := j.entry
		e.State, e.Owner, e.Lease = broker.StateWaiting, "", time.Time{}
		e.Attempts--
		e.Uncertain = e.Uncertain || f.Definite().Certainty == verdict.MaybeSent
		write, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseMargin)
		defer cancel()
		if err := j.write(write, e); err != nil {
			j.r.log.Warn().Err(err).Str("event", j.event.ID).Str("target", j.target).Msg("the shutdown interrupted this delivery and the ledger could not be updated; it is retried when its lease ends")
		}
	}
	j.nak(0, nil)
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
func (j *job) sent(ctx context.Context) {
	e := j.entry
	wasDead := e.DeadLetter != ""
	e.State, e.Owner, e.Lease, e.Failure, e.DeadLetter, e.Consented = broker.StateSent, "", time.Time{}, nil, "", false
	if !j.record(ctx, e, j.leaseEnd()) {
		return
	}
	j.r.reached(pointRecorded)
	if wasDead || j.gen != 1 || j.redelivered() { // 0: published without headers
		j.removeDeadLetter(ctx)
	}
	j.finish(ctx, "sent", nil)
}

// record writes the outcome of the attempt to the ledger, and retries until the given
// time, which is not after the end of the lease. It returns false when it could not
// write, and has NAKed the message then. If the delivery was claimed, the next process
// that reads the entry finds an expired lease, which means an unknown outcome.
func (j *job) record(ctx context.Context, e broker.Entry, until time.Time) bool {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	for delay := 50 * time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		err := j.write(ctx, e)
		if err == nil {
			return true
		}
		if errors.Is(err, broker.ErrClaimLost) || ctx.Err() != nil {
			j.log("the outcome of this attempt could not be recorded in the ledger; the mail may be sent again", "not_recorded", nil)
			j.nak(backoff.Jitter(5*time.Second), err)
			return false
		}
		backoff.Sleep(ctx, delay)
	}
}

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

// removeDeadLetter removes the open dead letters of a delivery that has succeeded.
func (j *job) removeDeadLetter(ctx context.Context) {
	if err := j.r.RemoveDeadLetter(ctx, j.target, j.token, j.event.Digest(), broker.ProcessActor(j.r.owner)); err != nil {
		j.r.log.Warn().Err(err).Str("event", j.event.ID).Str("target", j.target).
			Msg("delivered, but its dead letter could not be removed; discard it")
	}
}

// retry records the failure and NAKs the message with a growing delay. The delay
// starts again at the first one when the relay accepted the mail for some recipients:
// otherwise a relay that accepts two recipients at a time would be tried once an hour.
func (j *job) retry(ctx context.Context, receipt *verdict.Receipt, f *verdict.Failure) {
	until, tries := time.Now().Add(leaseMargin), max(j.entry.Attempts, 1)
	if receipt != nil {
		until, tries = j.leaseEnd(), 1
	}
	if !j.record(ctx, j.entry.Waiting(f), until) {
		return
	}
	j.r.reached(pointWaiting)
	j.log("", "retry", f)
	j.nak(j.r.set.retryDelay(tries), nil)
}

// relayFailed NAKs the message until the relay may be tried again. This does not count
// as an attempt. A delivery that is too old becomes a dead letter instead.
func (j *job) relayFailed(ctx context.Context, f *verdict.Failure) {
	if j.tooOld() {
		j.lane.overdue.Store(true) // the next ones may be too old as well
		j.dead(ctx, expired(f, time.Since(j.since)))
		return
	}
	if !f.Untried {
		j.log("", "relay_failed", f)
	}
	delay := f.After
	if delay <= 0 {
		delay = backoff.Jitter(j.r.set.RetryInitial)
	}
	j.nak(delay, nil)
}

// dead publishes the dead letter, then writes the ledger, then acknowledges, in this
// order: if the process dies in between, the server delivers the message again. An
// attempt may be made again then, and its letter is stored only once per subject.
func (j *job) dead(ctx context.Context, f *verdict.Failure) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
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
	err := j.r.PublishDeadLetter(ctx, d, "d"+strconv.FormatUint(j.seq, 10))
	j.r.standstills.report(partDeadLetters, j.lane.label, err)
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
		old := e.DeadLetter
		e.Lane, e.Generation, e.Sequence = j.lane.name, j.gen, j.seq
		e = e.Failed(f)
		e.State, e.Owner, e.Lease, e.DeadLetter, e.Consented = broker.StateDead, "", time.Time{}, d.Subject, false
		e.Owed, e.Uncertain = e.Missing(), f.Definite().Certainty == verdict.MaybeSent
		if err := j.write(ctx, e); err != nil {
			j.nak(backoff.Jitter(5*time.Second), err)
			return
		}
		if old != "" && old != d.Subject {
			j.replaceLetter(ctx, old)
		}
	}
	j.r.reached(pointDead)
	j.finish(ctx, "dead", f)
}

// replaceLetter removes the letter of an earlier generation that had another code, and
// records that it was replaced.
func (j *job) replaceLetter(ctx context.Context, subject string) {
	earlier, err := j.r.RemoveEarlier(ctx, subject)
	if err != nil {
		j.r.log.Warn().Err(err).Str("subject", subject).Msg("an earlier dead letter of the same delivery could not be removed; discard it")
	}
	if earlier != nil {
		j.r.ObserveReplaced(ctx, *earlier)
	}
}

// letter returns the dead letter of this delivery.
func (j *job) letter(f *verdict.Failure) *broker.DeadLetter {
	d := letterAbout(f)
	d.Target, d.Lane, d.Generation = j.target, j.lane.name, max(j.gen, 1)
	d.Attempts, d.First, d.Last = j.entry.Attempts, j.entry.First, j.entry.Last
	d.ReplaySubject, d.Body = j.msg.Subject(), j.msg.Data()
	d.TraceParent = broker.TraceParent(j.msg.Headers())
	if missing := j.entry.Missing(); missing != nil {
		d.Recipients = missing // including those refused in earlier attempts
	}
	if j.event != nil {
		d.Event, d.Token = j.event.ID, j.token
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

// finish acknowledges and waits until the server confirms it.
func (j *job) finish(ctx context.Context, state string, f *verdict.Failure) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := j.msg.DoubleAck(ctx); err != nil {
		// If it was lost, the server delivers the message again, which is then settled
		// the same way.
		j.r.log.Debug().Err(err).Str("lane", j.lane.name).Msg("the acknowledgement of a delivery was not confirmed")
	}
	j.r.reached(pointSettled)
	j.r.metrics.settle(j.lane.label, state, j.since)
	j.log("", state, f)
}

// nak NAKs the message: the server delivers it again after the delay. why, when not nil,
// is logged as the reason.
func (j *job) nak(delay time.Duration, why error) {
	if why != nil {
		j.r.log.Warn().Err(why).Str("lane", j.lane.name).Str("target", j.target).Dur("again_in", delay).Msg("the delivery was not settled; it is retried")
	}
	if err := j.msg.NakWithDelay(max(delay, atOnce)); err != nil {
		j.r.log.Debug().Err(err).Str("lane", j.lane.name).Msg("a NAK could not be sent; the server delivers the message again when its acknowledgement wait ends")
	}
}
