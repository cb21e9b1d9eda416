package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// maxPanics is the number of panics after which an event or a delivery becomes a
// dead letter.
const maxPanics = 3

// leaseMargin is added to the time by which a send knows its outcome, for the
// write that records the outcome.
const leaseMargin = 10 * time.Second

// longestClaim is how long a claim is tried at most: a cluster has a new leader after some
// seconds, and the relay, which has accepted the envelope, waits for minutes (RFC 5321,
// section 4.5.3.2).
const longestClaim = 15 * time.Second

// job is one delivery message that is being handled.
type job struct {
	r     *Runner
	lane  *lane
	msg   jetstream.Msg
	seq   uint64    // in CERTPOST_DELIVERIES
	since time.Time // when the message, or the one of which it is a copy, was published
	// published is when the event was; zero for deliveries of versions that did not say it.
	published time.Time
	event     *events.Event
	target    string
	token     string // of the event id, for subjects and keys
	key       string // in the ledger
	gen       int
	// eventSeq is the event's sequence in CERTPOST_EVENTS; 0 for the replay of a delivery.
	eventSeq uint64
	// copyOf is the sequence of the message of which this one is a copy in another lane; 0 if
	// it is none. That one may have been in work.
	copyOf uint64
	birth  uint64 // the sequence of the first of those; its own if it is no copy
	// place is the event's in the order of publication; of a replayed event that of the first time.
	place    verdict.Publication
	replayOf uint64 // the dead letter that it replays; 0: none, or not known
	force    bool
	// recipients, when not nil, are the only recipients of a replay.
	recipients []string

	entry    broker.Entry // as last read or written, with this attempt's changes
	revision uint64       // of the stored entry; 0: none
	presumed bool         // the ledger was not read: it seems to have no entry
	mustRead bool         // the ledger is read even if the delivery seems new
	claimed  bool
	claim    broker.Entry // as last written, or tried to be written, with `sending`
	counted  bool         // no longer included in the lane's uncounted
	claimErr error

	described *verdict.Certificate // the certificate, once the attempt has parsed it

	// line is the certificate, if the target's policy depends on which one was sent last.
	line *verdict.Certificate

	stopKeepAlive func() // no more signs of life for the message; may be called again
}

// attempt handles one fetched delivery message: it makes an attempt if one is due,
// and settles the message. However it ends, the server delivers a message that is
// not settled again.
func (r *Runner) attempt(ctx context.Context, l *lane, msg jetstream.Msg) {
	j := &job{r: r, lane: l, msg: msg}
	defer j.count()
	defer j.contain()
	j.stopKeepAlive = keepAlive(r.AckWait(), msg)
	defer j.stopKeepAlive()
	if failure := j.read(); failure != nil {
		j.dead(failure)
		return
	}
	lane, moved := j.movedAway()
	if moved && !r.set.OnlyHost {
		j.moveTo(ctx, lane)
		return
	}
	if !j.due(ctx) {
		return
	}
	if moved { // an agent may not publish in other lanes
		j.settle(ctx, nil, verdict.Fail(verdict.TargetInvalid, verdict.PhaseResolve,
			fmt.Sprintf("target %s is in lane %s by the definitions on this mail host: correct them here, or replay once they are the same everywhere", j.target, lane)))
		return
	}
	ctx, span := j.trace(ctx)
	defer span.End()
	receipt, failure := j.deliver(ctx)
	if j.presumed && receipt == nil && !j.claimed && !j.isNew(ctx) {
		if !j.due(ctx) {
			return
		}
		receipt, failure = j.deliver(ctx)
	}
	traced(span, receipt, failure)
	l.activity.note(receipt, failure)
	r.metrics.attempt(l.label, receipt, failure)
	j.settle(ctx, receipt, failure)
}

// deliver makes one attempt.
func (j *job) deliver(ctx context.Context) (*verdict.Receipt, *verdict.Failure) {
	j.r.reached(pointDue)
	return j.r.courier.Deliver(ctx, j.event, verdict.Attempt{
		Target: j.target, Lane: j.lane.name, Number: j.entry.Attempts, Recipients: j.entry.Owed, Accepted: j.entry.Accepted,
		PossibleDuplicate: j.entry.Uncertain, Claim: j.claimer(ctx), Parsed: j.parsed, Newer: j.newer, Limits: j, Override: j.recipients, Hold: j.entry.Hold,
		Published: j.publication(), Force: j.force,
	})
}

// read parses the message. The target is the last token of the subject, and the body
// is the event; the headers add only the generation and a replay's options.
func (j *job) read() *verdict.Failure {
	if meta, err := j.msg.Metadata(); err == nil {
		j.seq, j.since = meta.Sequence.Stream, meta.Timestamp
	}
	j.target = broker.DeliveryTarget(j.msg.Subject())
	h := j.msg.Headers()
	j.since = broker.FirstPublished(h, j.since)
	j.published, _ = time.Parse(time.RFC3339Nano, h.Get(broker.HeaderEventPublished))
	j.gen, _ = strconv.Atoi(h.Get(broker.HeaderGeneration))
	j.eventSeq, _ = strconv.ParseUint(h.Get(broker.HeaderEventSequence), 10, 64)
	j.copyOf, _ = strconv.ParseUint(h.Get(broker.HeaderCopyOf), 10, 64)
	j.birth = broker.Birth(h, j.seq)
	j.replayOf, _ = strconv.ParseUint(h.Get(broker.HeaderLetter), 10, 64)
	j.place = placeOf(h, j.eventSeq, j.published)
	j.force = strings.EqualFold(h.Get(broker.HeaderForce), "true")
	if list := h.Get(broker.HeaderRecipients); list != "" {
		j.recipients = strings.Split(list, ", ")
	}
	ev, err := j.r.seal.Decode(h, j.msg.Data())
	if err != nil {
		return invalid(err)
	}
	ev.Subject = broker.SubjectOfEvent(h)
	j.event, j.token = ev, events.Token(ev.ID)
	j.key = broker.LedgerKey(j.target, j.token)
	return nil
}

// invalid returns the failure of a message that is not a valid event.
func invalid(err error) *verdict.Failure {
	f := verdict.Fail(verdict.EventInvalid, verdict.PhaseDecode, "the event cannot be read")
	if inv := (*events.Invalid)(nil); errors.As(err, &inv) {
		f.Reason, f.Cause = inv.Reason, inv
	}
	return f
}

// seemsNew reports whether the ledger has most likely no entry of the delivery: the fan-out has
// published it since this process started, from an event of no restored backup, and nobody has
// got it before. A target that had other ids before may have entries under these.
func (j *job) seemsNew() bool {
	return j.gen == 1 && j.replayOf == 0 && j.copyOf == 0 && !j.force && !j.redelivered() &&
		j.since.After(j.r.started) && !verdict.OnHost(j.lane.name) && !j.fromBackup() && len(j.r.formerIDs(j.target)) == 0
}

// isNew reports, after an attempt without a claim, whether the ledger has no entry of the
// delivery, as was presumed. If it may have one, what the attempt found says nothing.
func (j *job) isNew(ctx context.Context) bool {
	j.presumed, j.mustRead = false, true
	switch {
	case errors.Is(j.claimErr, broker.ErrClaimLost):
		j.claimErr = nil
		return false
	case j.claimErr != nil || ctx.Err() != nil:
		return true // settle writes no outcome then
	}
	_, revision, _, err := j.readLedger(ctx)
	return err == nil && revision == 0
}

// due reports whether an attempt is to be made now. If not, it has settled or NAKed the
// message. It reads the ledger, except for a delivery that seems new: the claim of one that has
// an entry fails, and isNew looks before another outcome is recorded (docs/decisions/0097).
func (j *job) due(ctx context.Context) bool {
	var entry broker.Entry
	var revision uint64
	var left time.Duration
	if j.presumed = !j.mustRead && j.seemsNew(); !j.presumed {
		var err error
		if entry, revision, left, err = j.readLedger(ctx); err != nil {
			j.nak(backoff.Jitter(2*time.Second), err)
			return false
		}
	}
	now := time.Now()
	if revision == 0 && entry.Target == "" { // otherwise it is that of a former id
		entry = broker.Entry{Event: j.event.ID, Target: j.target, Digest: j.event.Digest(), First: now}
	}
	j.entry, j.revision = entry, revision
	if j.event.Subject == "" && entry.Digest == j.event.Digest() {
		j.event.Subject = entry.EventSubject // published again without headers
	}

	if failure := entry.Refuses(j.event); failure != nil {
		j.entry = broker.Entry{} // the stored one belongs to the other event: do not overwrite it
		j.dead(failure)
		return false
	}
	if over, err := j.overtaken(ctx); err != nil {
		j.nak(backoff.Jitter(2*time.Second), err)
		return false
	} else if over {
		j.ack()
		j.r.metrics.settle(j.lane.label, "duplicate", j.since)
		j.log("a later message of the delivery, such as its replay, goes on with it; acknowledged without sending", "duplicate", nil)
		return false
	}
	if entry.State == broker.StateWaiting || entry.State == broker.StateSending {
		j.gen = max(j.gen, entry.Generation) // goes on with it; the message may not know its generation
	}
	if entry.Cancels(j.birth, j.replayOf != 0) {
		j.endCancelled()
		return false
	}
	j.entry.Cancel = nil // an order about an earlier message
	same := entry.Sequence == j.seq || entry.Sequence == j.copyOf
	ended := same || j.fannedOutAgain()
	switch {
	case entry.State == broker.StateSent && (!j.force || ended || j.hasSentCopy()):
		// The process that delivered it may have died before it removed the letter. The
		// server forgets at kill -9 that it delivered the message; its sequence says so too.
		if (entry.Sequence == j.seq || j.redelivered()) && !j.takeLettersOff("") {
			return false
		}
		if same && !j.recordReplay(true) {
			return false
		}
		j.finish("duplicate", nil)
		return false
	case entry.State == broker.StateSkipped && ended:
		j.finish("skipped", nil) // the process died before the acknowledgement
		return false
	case (entry.State == broker.StateDead || entry.State == broker.StateDiscarded) && ended, j.undecided():
		// The process died before the acknowledgement, or was at work when the copy was made.
		if entry.DeadLetter != "" && !j.takeLettersOff(entry.DeadLetter) {
			return false
		}
		j.finish("dead", nil)
		return false
	case left > 0 && !verdict.OnHost(j.lane.name): // the files of a host have a lock of their own
		j.nak(left+backoff.Jitter(time.Second), nil)
		return false
	case entry.State == broker.StateSending && verdict.OnHost(j.lane.name):
		// A deployment is repeated without harm: the same files are `unchanged`.
	case entry.State == broker.StateSending:
		j.entry.Uncertain, j.entry.Consented = true, false
	case entry.State == broker.StateWaiting && entry.Decided():
		j.dead(verdict.RefusedAll(entry.Refused)) // the letter or the ledger's `dead` was not written
		return false
	case entry.State != broker.StateWaiting: // no entry yet, or a replay of sent (forced), dead, discarded or skipped
		j.entry.Renew(now)
		if entry.State != "" {
			// Every replay has its own generation, whether Certpost or another client
			// published it: the message ids of replays are made from it.
			j.gen = max(j.gen, entry.Generation+1)
		}
		// Try all recipients that do not have the mail, also those refused before: the
		// addresses may have been corrected.
		j.entry.Owed, j.entry.Refused = nil, nil
		if entry.State == broker.StateSent {
			j.entry.Accepted, j.entry.Uncertain = nil, false
		}
		j.entry.Consented = j.entry.Uncertain && entry.State == broker.StateDead
	}
	if j.eventSeq != 0 {
		j.entry.EventSequence = j.eventSeq
	}
	why := "an earlier attempt ended before the relay's reply to the content was recorded"
	if j.fromBackup() {
		j.entry.Uncertain, why = true, "it comes from a backup that was restored, and may have been sent after the backup was made"
	}
	if j.entry.Uncertain && !j.entry.Consented && j.r.set.DeadLetterUnknown {
		j.dead(uncertain(why))
		return false
	}
	if j.entry.First.IsZero() { // made before the first attempt, for an order
		j.entry.First = now
	}
	j.entry.Attempts++
	j.entry.EventSubject = j.event.Subject
	j.entry.Lane, j.entry.Generation, j.entry.Sequence, j.entry.Last = j.lane.name, j.gen, j.seq, now
	return true
}

// uncertain returns the failure of a delivery that must not be sent again although
// its outcome is unknown.
func uncertain(why string) *verdict.Failure {
	return &verdict.Failure{
		Outcome: verdict.Outcome{
			Code:      verdict.DeliveryUncertain,
			Phase:     verdict.PhaseContent,
			Reason:    why + ": the relay may have the mail; look for its Message-ID at the relay, then replay or discard the letter",
			Certainty: verdict.MaybeSent,
		},
	}
}

// claimer returns the function that writes `sending` with a lease to the ledger: the
// last step before content is sent. A second call in the same attempt extends the lease.
// It tries for half of the time that is left, so that the other half is left for sending,
// but at least twice.
func (j *job) claimer(ctx context.Context) func(until time.Time) error {
	return func(until time.Time) error {
		e, now := j.entry, time.Now()
		e.State, e.Owner, e.Claimed, e.Lease = broker.StateSending, j.r.owner, now, until.Add(leaseMargin)
		duplicate := e.Uncertain && !j.claimed // one that is claimed again was refused: it is the same mail
		if duplicate {
			e.PossibleDuplicates++
		}
		j.claim = e
		j.r.reached(pointClaiming)
		ctx, cancel := context.WithTimeout(ctx, min(max(time.Until(until)/2, 2*j.r.RequestTimeout()), longestClaim))
		defer cancel()
		j.claimErr = j.r.Persist(ctx, func(ctx context.Context) error { return j.write(ctx, e) })
		j.claimed = j.claimed || j.claimErr == nil
		if j.claimErr == nil && duplicate {
			j.r.metrics.duplicates.Inc()
		}
		j.r.reached(pointClaimed)
		return j.claimErr
	}
}

// unclaim takes back a claim of which it is not known whether it was stored, because its
// acknowledgement did not come. Nothing was sent, and the entry shall not say that the
// outcome is unknown. A claim that was refused, or that another process has won, is none.
func (j *job) unclaim() {
	if !broker.Unanswered(j.claimErr) && !errors.Is(j.claimErr, context.Canceled) {
		return
	}
	until := time.Now().Add(leaseMargin)
	if err := j.persist(j.claim, until); err != nil { // the same write again: now it is known
		j.r.log.Debug().Err(err).Str("lane", j.lane.name).Msg("a claim could not be taken back")
		return
	}
	e := j.entry
	e.State = broker.StateWaiting
	e.Attempts--
	if e.Uncertain {
		e.PossibleDuplicates--
	}
	e.Release()
	if err := j.persist(e, until); err != nil {
		j.r.log.Debug().Err(err).Str("lane", j.lane.name).Msg("a claim could not be taken back")
	}
}

// parsed keeps what the attempt says of the certificate, for the ledger.
func (j *job) parsed(c *verdict.Certificate) { j.described = c }

// write stores the entry by compare-and-set and keeps it with its new revision. It adds what
// the certificate is.
func (j *job) write(ctx context.Context, e broker.Entry) error {
	if e.Certificate == nil {
		e.Certificate = j.described
	}
	if e.Certificate == nil { // the attempt ended before
		if leaf, err := j.event.Leaf(); err == nil {
			e.Certificate = verdict.CertificateOf(leaf)
		}
	}
	rev, err := j.r.ledger.Put(ctx, j.key, e, j.revision)
	j.r.progress.note(keepLedger, err)
	j.r.ledgerAnswered(ctx, j.key, err)
	if err != nil {
		return err
	}
	j.entry, j.revision = e, rev
	return nil
}

// Take asks the rate meter for one mail to the relay; it implements verdict.Limits.
func (j *job) Take(relay string, limit verdict.Rate) (wait time.Duration) {
	wait = j.r.meter.take(relay, limit)
	j.count()
	return wait
}

// Share returns this process's part of a relay's connections; it implements
// verdict.Limits.
func (j *job) Share(connections int) int {
	return j.r.replicas.share(connections, time.Now())
}

// Pause shares the pause of a relay; it implements verdict.Limits.
func (j *job) Pause(p verdict.RelayPause) {
	j.r.replicas.pauses.share(p)
	j.r.replicas.heartbeatNow() // which stores it
}

// count removes this delivery from the lane's uncounted, once: the rate meter has
// counted its mail, or no longer has to.
func (j *job) count() {
	if !j.counted {
		j.counted = true
		j.lane.uncounted.Add(-1)
	}
}

// contain recovers from a panic, so that it affects only the delivery that caused it.
func (j *job) contain() {
	p := recover()
	if p == nil {
		return
	}
	j.r.metrics.panics.Inc()
	// The panic value may contain input, so only its type and the stack are logged.
	j.r.log.Error().Str("panic", fmt.Sprintf("%T", p)).Str("stack", string(debug.Stack())).
		Str("lane", j.lane.name).Str("target", j.target).Msg("a defect: handling a delivery panicked; please report it with the stack")
	if j.event == nil {
		if meta, err := j.msg.Metadata(); err == nil && meta.NumDelivered >= maxPanics {
			j.dead(&verdict.Failure{Outcome: verdict.Outcome{Code: verdict.EventInvalid, Phase: verdict.PhaseDecode, Reason: "a defect in Certpost: reading this event panicked; please report it with the stack from the log"}})
			return
		}
		j.nak(backoff.Jitter(10*time.Second), nil)
		return
	}
	j.entry.Panics++
	f := &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseSettle, Reason: "a defect in Certpost: the attempt panicked; please report it with the stack from the log"}}
	if j.claimed {
		f.Certainty = verdict.MaybeSent
	}
	if j.entry.Panics >= maxPanics {
		f.Code = verdict.SMTPPayload
		j.dead(f)
		return
	}
	j.retry(nil, f)
}

// keepAlive extends the acknowledgement wait of the messages, at every third of it,
// until the returned function is called; it may be called again.
func keepAlive(ackWait time.Duration, msgs ...jetstream.Msg) (stop func()) {
	var mu sync.Mutex
	mu.Lock() // until timer is set
	defer mu.Unlock()
	stopped := false
	var timer *time.Timer // cheaper than a goroutine for each delivery
	timer = time.AfterFunc(ackWait/3, func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		for _, m := range msgs {
			// An error means that the message is settled or there is no
			// connection; neither needs an action here.
			_ = m.InProgress()
		}
		timer.Reset(ackWait / 3)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}
