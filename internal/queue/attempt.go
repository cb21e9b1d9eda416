package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// maxPanics is how often a delivery may end in a defect of ours before it stops
// coming back.
const maxPanics = 3

// leaseMargin is added to the moment by which a send knows its outcome, for the
// write that records it.
const leaseMargin = 10 * time.Second

// longestLease is more than any send takes. A lease that ends later was written
// by a clock that was wrong, and is not waited for.
const longestLease = 24 * time.Hour

// job is one delivery message in work.
type job struct {
	r      *Runner
	lane   *lane
	msg    jetstream.Msg
	seq    uint64    // in CERTPOST_DELIVERIES
	since  time.Time // when the message was published
	event  *events.Event
	target string
	token  string // of the event id
	key    string // in the ledger
	gen    int
	force  bool
	// recipients are the only ones whom somebody who replays it wants to get it.
	recipients []string

	entry    broker.Entry // as read, then as we last wrote it
	revision uint64
	claimed  bool
	counted  bool // no longer among the lane's uncounted
	claimErr error
}

// attempt is the life of one delivery message from its arrival here to its
// settling. However it ends, a message that is not settled comes back.
func (r *Runner) attempt(ctx context.Context, l *lane, msg jetstream.Msg) {
	j := &job{r: r, lane: l, msg: msg}
	defer j.count()
	defer j.contain(ctx)
	stop := keepAlive(r.AckWait(), msg)
	defer stop()
	if failure := j.read(); failure != nil {
		j.dead(ctx, failure)
		return
	}
	if !j.due(ctx) {
		return
	}
	r.reached(pointDue)
	receipt, failure := r.courier.Deliver(ctx, j.event, verdict.Attempt{
		Target: j.target, Lane: l.name, Number: j.entry.Attempts, Recipients: j.entry.Owed, Accepted: j.entry.Accepted,
		PossibleDuplicate: j.entry.Uncertain, Claim: j.claim(ctx), Limits: j, Override: j.recipients,
	})
	if failure == nil || !failure.Untried {
		r.metrics.attempt(l.name, failure)
	}
	j.settle(ctx, receipt, failure)
}

// read takes the message apart: the target is the subject's last token, the rest
// stands in the body; the headers only add what a body cannot know.
func (j *job) read() *verdict.Failure {
	if meta, err := j.msg.Metadata(); err == nil {
		j.seq, j.since = meta.Sequence.Stream, meta.Timestamp
	}
	j.target = j.msg.Subject()[strings.LastIndexByte(j.msg.Subject(), '.')+1:]
	h := j.msg.Headers()
	j.gen, _ = strconv.Atoi(h.Get(broker.HeaderGeneration))
	j.force = strings.EqualFold(h.Get(broker.HeaderForce), "true")
	if list := h.Get(broker.HeaderRecipients); list != "" {
		j.recipients = strings.Split(list, ", ")
	}
	ev, err := events.Decode(h, j.msg.Data())
	if err != nil {
		return invalid(err)
	}
	j.event, j.token = ev, events.Token(ev.ID)
	j.key = broker.LedgerKey(j.target, j.token)
	return nil
}

// invalid is the verdict on a body that is no event.
func invalid(err error) *verdict.Failure {
	f := verdict.Fail(verdict.EventInvalid, verdict.PhaseDecode, "the event cannot be read")
	if inv := (*events.Invalid)(nil); errors.As(err, &inv) {
		f.Reason, f.Cause = inv.Reason, inv
	}
	return f
}

// due reads the ledger and says whether this delivery is to be tried now. When
// it is not, the message is settled or on its way back.
func (j *job) due(ctx context.Context) bool {
	entry, revision, err := j.r.ledger.Get(ctx, j.key)
	if err != nil && !errors.Is(err, broker.ErrNoEntry) {
		j.nak(backoff.Jitter(2*time.Second), err)
		return false
	}
	now := time.Now()
	if revision == 0 {
		entry = broker.Entry{Event: j.event.ID, Target: j.target, Digest: j.event.Digest(), First: now}
	}
	j.entry, j.revision = entry, revision

	switch {
	case entry.Digest != j.event.Digest():
		j.entry = broker.Entry{} // not ours to write
		j.dead(ctx, verdict.Fail(verdict.EventInvalid, verdict.PhaseResolve,
			fmt.Sprintf("the event id was used before for another certificate (that delivery is %q); publish this one under an id of its own", entry.State)))
		return false
	case entry.State == broker.StateSent && (!j.force || entry.Sequence == j.seq):
		if j.redelivered() { // who delivered it may have died before he came to that
			listed, cancel := broker.Detached(ctx)
			j.removeDeadLetter(listed)
			cancel()
		}
		j.finish(ctx, "duplicate", nil)
		return false
	case (entry.State == broker.StateDead || entry.State == broker.StateDiscarded) && entry.Sequence == j.seq:
		j.finish(ctx, "dead", nil) // we died before the acknowledgement
		return false
	case entry.State == broker.StateSending && entry.Lease.After(now) && entry.Lease.Before(now.Add(longestLease)) && !j.orphaned(entry):
		j.nak(time.Until(entry.Lease)+backoff.Jitter(time.Second), nil)
		return false
	case entry.State == broker.StateSending:
		j.entry.Uncertain, j.entry.Consented = true, false
	case entry.State == broker.StateWaiting && entry.Decided():
		j.dead(ctx, verdict.RefusedAll(entry.Refused)) // we died before the dead letter
		return false
	case entry.State != broker.StateWaiting: // sent and forced, dead, discarded: a new life
		j.entry.Attempts, j.entry.Panics, j.entry.First = 0, 0, now
		if entry.State != "" {
			// Every life has a generation of its own, whoever began it: the message ids
			// of replays are made from it.
			j.gen = max(j.gen, entry.Generation+1)
		}
		// Whoever does not have the mail gets it: addresses may have been mended.
		j.entry.Owed, j.entry.Refused = nil, nil
		if entry.State == broker.StateSent {
			j.entry.Accepted, j.entry.Uncertain = nil, false
		}
		j.entry.Consented = j.entry.Uncertain && entry.State == broker.StateDead
	}
	if j.entry.Uncertain && !j.entry.Consented && j.r.set.DeadLetterUnknown {
		j.dead(ctx, uncertain("an earlier try ended between the final dot and the relay's reply"))
		return false
	}
	j.entry.Attempts++
	j.entry.Lane, j.entry.Generation, j.entry.Sequence, j.entry.Last = j.lane.name, j.gen, j.seq, now
	if j.entry.Certificate == nil {
		if leaf, err := j.event.Leaf(); err == nil {
			j.entry.Certificate = verdict.CertificateOf(leaf)
		}
	}
	return true
}

// orphaned reports a lease whose owner is certainly gone: it ran the embedded
// server on a store that is ours now. Owners that only talk to that server may be
// alive; their leases count.
func (j *job) orphaned(e broker.Entry) bool {
	return j.r.Embedded() && e.Owner != j.r.owner && strings.HasSuffix(e.Owner, embeddedOwner)
}

func uncertain(why string) *verdict.Failure {
	return &verdict.Failure{
		Outcome: verdict.Outcome{
			Code:      verdict.DeliveryUncertain,
			Phase:     verdict.PhaseContent,
			Reason:    why + ": the relay may have the mail; look for its Message-ID there, then replay or discard",
			Certainty: verdict.MaybeSent,
		},
	}
}

// claim writes `sending` with a lease: the last step before content goes out.
func (j *job) claim(ctx context.Context) func(until time.Time) error {
	return func(until time.Time) error {
		e := j.entry
		e.State, e.Owner, e.Lease = broker.StateSending, j.r.owner, until.Add(leaseMargin)
		if e.Uncertain {
			e.PossibleDuplicates++
		}
		j.r.reached(pointClaiming)
		j.claimErr = j.write(ctx, e)
		j.claimed = j.claimErr == nil
		if j.claimed && e.Uncertain {
			j.r.metrics.duplicates.Inc()
		}
		j.r.reached(pointClaimed)
		return j.claimErr
	}
}

// write puts the entry and remembers what is there now.
func (j *job) write(ctx context.Context, e broker.Entry) error {
	rev, err := j.r.ledger.Put(ctx, j.key, e, j.revision)
	if err != nil {
		return err
	}
	j.entry, j.revision = e, rev
	return nil
}

// Take and Share are the limits that this delivery's courier asks for.
func (j *job) Take(relay string, limit verdict.Rate) (wait time.Duration) {
	wait = j.r.meter.take(relay, limit)
	j.count()
	return wait
}

// Share is this process's part of a relay's connections.
func (j *job) Share(connections int) int {
	return j.r.replicas.share(connections, time.Now())
}

// count says that what this delivery takes of a rate is known by now.
func (j *job) count() {
	if !j.counted {
		j.counted = true
		j.lane.uncounted.Add(-1)
	}
}

// contain keeps a panic to the delivery that caused it.
func (j *job) contain(ctx context.Context) {
	p := recover()
	if p == nil {
		return
	}
	j.r.metrics.panics.Inc()
	// The value may quote input; its type and our stack say enough.
	j.r.log.Error().Str("panic", fmt.Sprintf("%T", p)).Str("stack", string(debug.Stack())).
		Str("lane", j.lane.name).Str("target", j.target).Msg("a defect: handling a delivery panicked")
	if j.event == nil {
		if meta, err := j.msg.Metadata(); err == nil && meta.NumDelivered >= maxPanics {
			j.dead(ctx, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.EventInvalid, Phase: verdict.PhaseDecode, Reason: "a defect in Certpost keeps it from reading this event; please report it with the stack from the log"}})
			return
		}
		j.nak(backoff.Jitter(10*time.Second), nil)
		return
	}
	j.entry.Panics++
	f := &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseSettle, Reason: "a defect in Certpost; please report it with the stack from the log"}}
	if j.claimed {
		f.Certainty = verdict.MaybeSent
	}
	if j.entry.Panics >= maxPanics {
		f.Code = verdict.SMTPPayload
		j.dead(ctx, f)
		return
	}
	j.retry(ctx, nil, f)
}

// keepAlive tells the server that messages are in work until the returned
// function is called.
func keepAlive(ackWait time.Duration, msgs ...jetstream.Msg) (stop func()) {
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(ackWait / 3)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				for _, m := range msgs {
					// Settled meanwhile or not connected: nothing to do about either.
					_ = m.InProgress()
				}
			}
		}
	}()
	return func() { close(done) }
}
