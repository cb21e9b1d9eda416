package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

const (
	// compareEvery is the time between two comparisons of the manifest with the streams.
	compareEvery = time.Minute
	// compareAfter is the age from which a record is compared. The order in which streams
	// are read makes any age safe while their leaders are; it leaves time for new ones.
	compareAfter = 2 * time.Minute
	// compareAtOnce is the number of deliveries read from the manifest before they are
	// compared, and recoverAtOnce of those recovered by one comparison.
	compareAtOnce = 10_000
	recoverAtOnce = 1000
	// streamClocks bounds the difference of the servers' clocks: a delivery published less
	// than this after the stream was created may have been stored in the stream before it.
	// A wrong guess costs one look at the target's messages.
	streamClocks = 10 * time.Second
)

// reconciler finds deliveries that are neither settled nor in their stream, and publishes
// them again (docs/decisions/0052).
type reconciler struct {
	r     *Runner
	every time.Duration
	after time.Duration

	// owned by run
	open []openDelivery // unsettled at the last comparison, in the manifest's order
	next uint64         // the first record of the manifest not read yet
	done broker.Reconciled
}

// openDelivery is a delivery that was not settled. What it is for stands in the manifest,
// so that a million of them need little memory.
type openDelivery struct {
	record   uint64 // sequence in the manifest
	index    int    // in the record
	sequence uint64 // in CERTPOST_DELIVERIES
	since    int64  // it was stored there at this time or later, Unix nanoseconds
	missed   bool   // by the last comparison too
}

// lostDelivery is a delivery that its stream does not have and the ledger does not call
// settled.
type lostDelivery struct {
	openDelivery
	broker.ManifestDelivery
	token     string
	event     uint64 // sequence in CERTPOST_EVENTS
	uncertain bool   // an attempt may have been made, of which the ledger knows nothing
}

func (d *lostDelivery) key() string { return broker.LedgerKey(d.Target, d.token) }

func newReconciler(r *Runner) *reconciler {
	return &reconciler{r: r, every: compareEvery, after: compareAfter, next: 1}
}

// run compares until the context ends.
func (rc *reconciler) run(ctx context.Context) {
	started := false
	for ctx.Err() == nil {
		err := rc.start(ctx, &started)
		if err == nil {
			err = rc.round(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		rc.r.standstills.report(partReconcile, "", err)
		if err != nil {
			rc.r.log.Warn().Err(err).Msg("the deliveries could not be compared with the streams; trying again")
		}
		backoff.Sleep(ctx, rc.every)
	}
}

// start continues where an earlier process has stopped.
func (rc *reconciler) start(ctx context.Context, started *bool) (err error) {
	if *started {
		return nil
	}
	if rc.done, err = rc.r.ReadReconciled(ctx); err == nil {
		rc.next, *started = max(rc.done.Manifest, 1), true
	}
	return err
}

// round reads what is new in the manifest, and compares all open deliveries.
func (rc *reconciler) round(ctx context.Context) error {
	last, err := rc.r.ManifestEnd(ctx)
	if err != nil {
		return err
	}
	if rc.next > last+1 { // it was created again
		rc.next, rc.open = 1, nil
	}
	for more := true; more; {
		var fresh map[uint64]broker.Manifest
		if fresh, more, err = rc.readOn(ctx); err != nil {
			return err
		}
		if err := rc.compare(ctx, fresh); err != nil {
			return err
		}
	}
	letters, err := rc.restoreLetters(ctx)
	if err != nil {
		return err
	}
	return rc.save(ctx, letters)
}

// readOn reads records that are old enough, some at a time.
func (rc *reconciler) readOn(ctx context.Context) (fresh map[uint64]broker.Manifest, more bool, err error) {
	fresh, read := map[uint64]broker.Manifest{}, 0
	for m, err := range rc.r.ReadManifest(ctx, rc.next) {
		if err != nil {
			return nil, false, err
		}
		if time.Since(m.Time) < rc.after {
			return fresh, false, nil
		}
		fresh[m.Sequence], rc.next = m, m.Sequence+1
		i := 0
		for _, e := range m.Events {
			for _, d := range e.Deliveries {
				rc.open = append(rc.open, openDelivery{record: m.Sequence, index: i, sequence: d.Sequence, since: e.Time.UnixNano()})
				i++
			}
		}
		if read += i; read >= compareAtOnce {
			return fresh, true, nil
		}
	}
	return fresh, false, nil
}

// compare drops the open deliveries that are settled, and recovers those that are lost.
// The order matters: a delivery is settled in the ledger before its message is removed, so
// the ledger is read after the stream, and again after the search for a copy.
func (rc *reconciler) compare(ctx context.Context, records map[uint64]broker.Manifest) error {
	if len(rc.open) == 0 {
		return nil
	}
	held, err := rc.r.HeldDeliveries(ctx)
	if err != nil {
		return err
	}
	created := held.Created.Add(streamClocks).UnixNano()
	var open []openDelivery
	var gone []lostDelivery
	for _, o := range rc.open {
		if held.Has(o.sequence) && o.since > created {
			o.missed = false
			open = append(open, o)
			continue
		}
		d, err := rc.find(ctx, o, records)
		if err != nil {
			return err
		}
		if d != nil {
			gone = append(gone, *d)
		}
	}
	lost, err := rc.unsettled(ctx, gone, held.Created)
	if err != nil {
		return err
	}
	stillOpen, err := rc.recover(ctx, lost)
	rc.open = append(open, stillOpen...)
	return err
}

// find returns what the manifest says of a delivery; nil if its record has expired.
func (rc *reconciler) find(ctx context.Context, o openDelivery, records map[uint64]broker.Manifest) (*lostDelivery, error) {
	m, known := records[o.record]
	if !known {
		var err error
		if m, err = rc.r.ManifestAt(ctx, o.record); err != nil {
			return nil, err
		}
		records[o.record] = m
	}
	i := o.index
	for _, e := range m.Events {
		if i < len(e.Deliveries) {
			return &lostDelivery{openDelivery: o, ManifestDelivery: e.Deliveries[i], token: e.Token, event: e.Sequence}, nil
		}
		i -= len(e.Deliveries)
	}
	return nil, nil
}

// unsettled returns the deliveries for which the ledger has no outcome. A ledger that was
// created later than the delivery cannot tell: the delivery counts as settled, because
// nearly all are after some minutes, unless its stream was created later as well. Then its
// outcome is unknown.
func (rc *reconciler) unsettled(ctx context.Context, gone []lostDelivery, streamCreated time.Time) (lost []lostDelivery, err error) {
	if len(gone) == 0 {
		return nil, nil
	}
	keys := make([]string, len(gone))
	for i, d := range gone {
		keys[i] = d.key()
	}
	entries, err := rc.r.LedgerEntries(ctx, keys)
	if err != nil {
		return nil, err
	}
	_, _, ledger, err := rc.r.StreamStates(ctx)
	if err != nil {
		return nil, err
	}
	unknown := 0
	for _, d := range gone {
		switch entry, known := entries[d.key()]; {
		case entry.State.Final():
		case known || time.Unix(0, d.since).After(ledger.Created):
			lost = append(lost, d)
		case time.Unix(0, d.since).Before(streamCreated):
			d.uncertain = true
			lost = append(lost, d)
		default:
			unknown++
		}
	}
	if unknown > 0 {
		rc.r.log.Error().Int("deliveries", unknown).Time("created", ledger.Created).
			Msg("the ledger was created again, so Certpost does not know whether these deliveries were settled; they are taken as settled because they are no longer in " + broker.DeliveriesStream)
	}
	return lost, nil
}

// recover publishes again what two comparisons in a row have found lost, unless the stream
// has a copy: a stream that is just being deleted, or has no leader, may answer anything. It
// returns what is open afterwards.
func (rc *reconciler) recover(ctx context.Context, lost []lostDelivery) (open []openDelivery, err error) {
	copies := map[string]map[string]uint64{} // target -> token -> sequence
	for _, d := range lost {
		if copies[d.Target] != nil {
			continue
		}
		byToken := map[string]uint64{}
		if err := rc.r.WaitingFor(ctx, d.Target, func(token string, sequence uint64) { byToken[token] = sequence }); err != nil {
			return opened(lost), err
		}
		copies[d.Target] = byToken
	}
	now := time.Now().UnixNano()
	var told []broker.AuditRecord
	for i, d := range lost {
		if sequence := copies[d.Target][d.token]; sequence != 0 {
			d.sequence, d.since, d.missed = sequence, now, false
			open = append(open, d.openDelivery)
			continue
		}
		if !d.missed {
			d.missed = true
			open = append(open, d.openDelivery)
			continue
		}
		if len(told) == recoverAtOnce {
			open = append(open, opened(lost[i:])...)
			break
		}
		record, sequence, rerr := rc.recoverOne(ctx, &d)
		if rerr != nil {
			open, err = append(open, opened(lost[i:])...), rerr
			break
		}
		if record != nil {
			told = append(told, *record)
		}
		if sequence != 0 {
			d.sequence, d.since, d.missed = sequence, now, false
			open = append(open, d.openDelivery)
		}
	}
	rc.tell(ctx, "delivery", told)
	return open, err
}

func opened(lost []lostDelivery) []openDelivery {
	open := make([]openDelivery, len(lost))
	for i, d := range lost {
		open[i] = d.openDelivery
	}
	return open
}

// recoverOne publishes one delivery again, or its dead letter if the event is gone as well.
// It returns what the audit is to say, nil if another process was faster, and the sequence
// of the delivery, 0 if it is settled.
func (rc *reconciler) recoverOne(ctx context.Context, d *lostDelivery) (told *broker.AuditRecord, sequence uint64, err error) {
	entry, revision, missing := rc.r.LatestEntry(ctx, d.key())
	switch err := missing; {
	case errors.Is(err, broker.ErrNoEntry):
		entry = broker.Entry{Event: d.token, Target: d.Target, First: time.Unix(0, d.since)}
	case errors.Is(err, broker.ErrUnreadableEntry):
		rc.r.ledgerAnswered(ctx, d.key(), err)
		return nil, d.sequence, nil // an operator has to look at it first
	case err != nil:
		return nil, 0, err
	case entry.State.Final():
		return nil, 0, nil
	case entry.State == broker.StateSending:
		read, _, err := rc.r.ledger.Get(ctx, d.key())
		if err != nil {
			return nil, 0, err
		}
		if left, err := rc.r.ledger.LeaseLeft(ctx, read); err != nil || left > 0 {
			return nil, d.sequence, err // an attempt is under way
		}
	}
	stored, err := rc.r.EventAt(ctx, d.event, d.token)
	if errors.Is(err, broker.ErrNoEvent) {
		told, err := rc.lostForGood(ctx, d, entry, revision)
		return told, 0, err
	}
	if err != nil {
		return nil, 0, err
	}
	ev := stored.Event
	lane, ok := rc.r.courier.LaneOf(d.Target)
	if !ok {
		lane = d.Lane // ends as TARGET_UNKNOWN
	} else if err := rc.r.lanes.open(ctx, lane); err != nil {
		return nil, 0, err
	}
	if d.uncertain && errors.Is(missing, broker.ErrNoEntry) {
		entry.Event, entry.EventSequence, entry.Digest, entry.Lane, entry.State, entry.Uncertain = ev.ID, d.event, ev.Digest(), lane, broker.StateWaiting, true
		if _, err := rc.r.ledger.Put(ctx, d.key(), entry, revision); err != nil {
			return nil, 0, err
		}
	}
	m := rc.r.deliveryOf(ev, ev.Body(), verdict.Route{Target: d.Target, Lane: lane}, origin{d.event, stored.Published, stored.Headers})
	published := stored.Published
	if entry.Generation > 1 {
		published = entry.First // of the replay: about its publication, which is not known
	}
	setPublished(m.Header, published)
	m.Header.Set(broker.HeaderGeneration, strconv.Itoa(max(entry.Generation, 1)))
	m.Header.Set(nats.MsgIdHdr, fmt.Sprintf("%s/lost%d", m.Header.Get(nats.MsgIdHdr), d.sequence))
	ack, err := rc.r.JetStream().PublishMsg(ctx, m)
	if err != nil {
		return nil, 0, fmt.Errorf("publish a lost delivery again: %w", broker.Explain(err, broker.DeliveriesStream))
	}
	if ack.Duplicate {
		return nil, ack.Sequence, nil
	}
	return &broker.AuditRecord{Event: ev.ID, Target: d.Target, Lane: lane, Delivery: ack.Sequence,
		Reason: fmt.Sprintf("delivery %d was neither settled nor in %s; it was published again", d.sequence, broker.DeliveriesStream)}, ack.Sequence, nil
}

// lostForGood writes the dead letter of a delivery whose event is gone as well.
func (rc *reconciler) lostForGood(ctx context.Context, d *lostDelivery, e broker.Entry, revision uint64) (*broker.AuditRecord, error) {
	f := verdict.Fail(verdict.DeliveryExpired, verdict.PhaseSettle, fmt.Sprintf(
		"the delivery was lost from %s, and its event is no longer in %s: publish the certificate again", broker.DeliveriesStream, broker.EventsStream))
	if d.uncertain || e.Uncertain || e.State == broker.StateSending {
		f.Certainty = verdict.MaybeSent
	}
	l := letterAbout(f)
	l.Event, l.Token, l.Target, l.Lane, l.Generation = e.Event, d.token, d.Target, d.Lane, max(e.Generation, 1)
	l.Attempts, l.First, l.Last, l.Recipients, l.FailedReplays = e.AllAttempts(), e.FirstOfAll(), e.Last, e.Missing(), e.FailedReplays
	l.ReplaySubject, l.EventSubject = broker.DeliverySubject(d.Lane, d.Target), e.EventSubject
	l.Body = broker.Withheld("the event is no longer stored", l)
	if err := rc.r.PublishDeadLetter(ctx, l, fmt.Sprintf("lost%d", d.sequence)); err != nil {
		return nil, err
	}
	e.Lane, e.Generation, e.Sequence = d.Lane, l.Generation, d.sequence
	e = e.Failed(f)
	e.State, e.Owner, e.Lease, e.DeadLetter = broker.StateDead, "", time.Time{}, l.Subject
	e.Uncertain = f.Definite().Certainty == verdict.MaybeSent
	if _, err := rc.r.ledger.Put(ctx, d.key(), e, revision); err != nil {
		return nil, err
	}
	return &broker.AuditRecord{Event: e.Event, Target: d.Target, Lane: d.Lane,
		Reason: fmt.Sprintf("delivery %d was neither settled nor in %s, and its event is gone: a dead letter says so", d.sequence, broker.DeliveriesStream)}, nil
}

// tell says what was recovered: in the log, the audit and the metrics.
func (rc *reconciler) tell(ctx context.Context, what string, told []broker.AuditRecord) {
	if len(told) == 0 {
		return
	}
	rc.r.metrics.recovered.WithLabelValues(what).Add(float64(len(told)))
	for i := range told {
		told[i].Actor = broker.ProcessActor(rc.r.owner)
		if i < 10 {
			rc.r.log.Error().Str("event", told[i].Event).Str("target", told[i].Target).Str("lane", told[i].Lane).Msg("lost from the streams, and recovered: " + told[i].Reason)
		}
	}
	rc.r.log.Error().Int("recovered", len(told)).Str("what", what).
		Msg("messages disappeared from the streams without Certpost: find out whether an administrator, a restored backup or a damaged store did it; `certpost audit list --action recovered` lists them")
	if err := rc.r.RecordRecovered(ctx, told); err != nil {
		rc.r.log.Error().Err(err).Int("recovered", len(told)).Msg("the audit has no record of what was recovered")
	}
}

// save stores how far everything is settled and compared, if that has changed.
func (rc *reconciler) save(ctx context.Context, letters time.Time) error {
	done := broker.Reconciled{Manifest: rc.next, Letters: letters}
	for _, o := range rc.open {
		done.Manifest = min(done.Manifest, o.record)
	}
	if done.Manifest == rc.done.Manifest && done.Letters.Equal(rc.done.Letters) {
		return nil
	}
	if err := rc.r.StoreReconciled(ctx, done); err != nil {
		return err
	}
	rc.done = done
	return nil
}
