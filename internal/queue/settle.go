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

// settle is the one switch on the verdict.
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
		failure = verdict.RefusedAll(j.entry.Refused) // by earlier tries
	}
	switch {
	case failure == nil && receipt != nil:
		j.sent(ctx)
	case failure == nil:
		// A courier that gives neither receipt nor reason has a defect; the
		// delivery must not be lost for it.
		j.retry(ctx, nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseSettle, Reason: "the attempt ended without a verdict"}})
	case ctx.Err() != nil && receipt == nil:
		j.interrupted(ctx, failure)
	case failure.Relay && receipt == nil:
		j.relayFailed(ctx, failure)
	case failure.Untried && receipt == nil:
		j.nak(failure.After, nil) // its turn comes, however old it is
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
		// Who has the mail is written down before the dead letter, which may not be
		// stored at once.
		if receipt == nil || j.record(ctx, j.entry.Waiting(final), j.leaseEnd()) {
			j.dead(ctx, final)
		}
	}
}

// interrupted gives back what a shutdown cut short: that is no failure, costs no
// attempt, and is no dead letter however old the delivery is.
func (j *job) interrupted(ctx context.Context, f *verdict.Failure) {
	if j.claimed {
		e := j.entry
		e.State, e.Owner, e.Lease = broker.StateWaiting, "", time.Time{}
		e.Attempts--
		e.Uncertain = e.Uncertain || f.Definite().Certainty == verdict.MaybeSent
		write, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseMargin)
		defer cancel()
		if err := j.write(write, e); err != nil {
			j.r.log.Warn().Err(err).Str("event", j.event.ID).Str("target", j.target).Msg("cut short by the shutdown; tried again when its lease ends")
		}
	}
	j.nak(0, nil)
}

func (j *job) tooOld() bool {
	return !j.since.IsZero() && time.Since(j.since) >= j.r.set.GiveUpAfter
}

// expired keeps what the last failure said and adds that it was one too many.
func expired(f *verdict.Failure, age time.Duration) *verdict.Failure {
	e := *f
	e.Code = verdict.DeliveryExpired
	e.Reason = fmt.Sprintf("given up after %s; the last failure was %s: %s", age.Round(time.Second), f.Code, f.Reason)
	return &e
}

// sent records the relay's reply and only then acknowledges.
func (j *job) sent(ctx context.Context) {
	e := j.entry
	wasDead := e.DeadLetter != ""
	e.State, e.Owner, e.Lease, e.Failure, e.DeadLetter, e.Consented = broker.StateSent, "", time.Time{}, nil, "", false
	if !j.record(ctx, e, j.leaseEnd()) {
		return
	}
	j.r.reached(pointRecorded)
	if wasDead || j.gen != 1 || j.redelivered() { // 0: published by hand
		j.removeDeadLetter(ctx)
	}
	j.finish(ctx, "sent", nil)
}

// remember writes what came of the try, until a moment that the lease covers: if
// it is never written, the next one to look finds an unknown outcome. Then the
// message has been given back.
func (j *job) record(ctx context.Context, e broker.Entry, until time.Time) bool {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	for delay := 50 * time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		err := j.write(ctx, e)
		if err == nil {
			return true
		}
		if errors.Is(err, broker.ErrClaimLost) || ctx.Err() != nil {
			j.log("the ledger could not be told what came of this try; it may be sent again", "unrecorded", nil)
			j.nak(backoff.Jitter(5*time.Second), err)
			return false
		}
		backoff.Sleep(ctx, delay)
	}
}

func (j *job) leaseEnd() time.Time {
	if j.entry.Lease.IsZero() {
		return time.Now().Add(leaseMargin)
	}
	return j.entry.Lease
}

func (j *job) redelivered() bool {
	meta, err := j.msg.Metadata()
	return err == nil && meta.NumDelivered > 1
}

// offTheList removes the open letters of a delivery that has succeeded.
func (j *job) removeDeadLetter(ctx context.Context) {
	if err := j.r.RemoveDeadLetter(ctx, j.target, j.token, j.event.Digest(), broker.ProcessActor(j.r.owner)); err != nil {
		j.r.log.Warn().Err(err).Str("event", j.event.ID).Str("target", j.target).
			Msg("delivered, but its dead letter is still on the list; discard it by hand")
	}
}

// retry records the failure and gives the message back with a growing delay,
// which begins anew when the try got the mail to somebody: a relay that takes
// two recipients at a time is not asked once an hour.
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

// relayFailed costs the delivery nothing: it stays away for as long as the relay
// is left alone.
func (j *job) relayFailed(ctx context.Context, f *verdict.Failure) {
	if j.tooOld() {
		j.lane.overdue.Store(true) // as may be those behind it
		j.dead(ctx, expired(f, time.Since(j.since)))
		return
	}
	if !f.Untried {
		j.log("", "relay_away", f)
	}
	away := f.After
	if away <= 0 {
		away = backoff.Jitter(j.r.set.RetryInitial)
	}
	j.nak(away, nil)
}

// dead writes the letter, then the ledger, then acknowledges, in this order: a
// death in between brings the message back and makes nothing twice.
func (j *job) dead(ctx context.Context, f *verdict.Failure) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if j.entry.Uncertain && f.Definite().Certainty == verdict.NotSent {
		// This try sent nothing, but an earlier one may have.
		earlier := *f
		earlier.Certainty = verdict.MaybeSent
		f = &earlier
	}
	d := j.letter(f)
	if d.Certainty == verdict.NotSent && len(j.entry.Accepted) > 0 {
		d.Certainty = verdict.Accepted // by others than it is owed to
	}
	j.r.reached(pointDeadLettering)
	if err := j.r.PublishDeadLetter(ctx, d, "d"+strconv.FormatUint(j.seq, 10)); err != nil {
		j.r.metrics.deadLetterFailures.Inc()
		j.log("a dead letter could not be stored; the delivery waits", "unburied", f)
		j.nak(j.r.set.deadLetterDelay(), err)
		return
	}
	j.r.reached(pointDeadLettered)
	// An event that cannot be read has no place in the ledger, and one under
	// another's id must not overwrite what is known of that.
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

// replaceLetter removes the letter of an earlier life that stood under another code.
func (j *job) replaceLetter(ctx context.Context, subject string) {
	earlier, err := j.r.RemoveEarlier(ctx, subject)
	if err != nil {
		j.r.log.Warn().Err(err).Str("subject", subject).Msg("an earlier dead letter of the same delivery is still on the list")
	}
	if earlier != nil {
		j.r.ObserveReplaced(ctx, *earlier)
	}
}

func (j *job) letter(f *verdict.Failure) *broker.DeadLetter {
	d := newLetter(f)
	d.Target, d.Lane, d.Generation = j.target, j.lane.name, max(j.gen, 1)
	d.Attempts, d.First, d.Last = j.entry.Attempts, j.entry.First, j.entry.Last
	d.ReplaySubject, d.Body = j.msg.Subject(), j.msg.Data()
	d.TraceParent = broker.TraceParent(j.msg.Headers())
	if missing := j.entry.Missing(); missing != nil {
		d.Recipients = missing // those of earlier tries among them
	}
	if j.event != nil {
		d.Event, d.Token = j.event.ID, j.token
		return d
	}
	unreadable(d, f, "delivery-"+strconv.FormatUint(j.seq, 10))
	return d
}

func newLetter(f *verdict.Failure) *broker.DeadLetter {
	return &broker.DeadLetter{Outcome: f.Definite(), Recipients: slices.Clone(f.Recipients), Secrets: verdict.Versions(f.Secrets)}
}

// unreadable completes the letter of a message that is no event: named by the id
// if one could be read, else by its place in the stream, and without the body if
// that holds a private key.
func unreadable(d *broker.DeadLetter, f *verdict.Failure, place string) {
	d.Event = place
	if inv := (*events.Invalid)(nil); errors.As(f.Cause, &inv) {
		if inv.ID != "" {
			d.Event = inv.ID
		}
		if inv.HoldsKey {
			d.Body = broker.Withheld("the event holds a private key and is not copied; "+f.Reason, d)
		}
	}
	d.Token = events.Token(d.Event)
}

// finish acknowledges and waits until the server has it.
func (j *job) finish(ctx context.Context, state string, f *verdict.Failure) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := j.msg.DoubleAck(ctx); err != nil {
		// It comes back, finds the ledger's entry and is acknowledged then.
		j.r.log.Debug().Err(err).Str("lane", j.lane.name).Msg("an acknowledgement was not confirmed")
	}
	j.r.reached(pointSettled)
	j.r.metrics.settle(j.lane.name, state, j.since)
	j.log("", state, f)
}

// giveBack lets the message come again after the delay.
func (j *job) nak(delay time.Duration, why error) {
	if why != nil {
		j.r.log.Warn().Err(why).Str("lane", j.lane.name).Str("target", j.target).Dur("again_in", delay).Msg("not settled; comes back")
	}
	if err := j.msg.NakWithDelay(max(delay, atOnce)); err != nil {
		j.r.log.Debug().Err(err).Str("lane", j.lane.name).Msg("a NAK was not sent; the message comes back when its acknowledgement is overdue")
	}
}
