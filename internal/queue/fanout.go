package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/tracing"
	"github.com/certpost/certpost/internal/verdict"
)

// fanoutBatch is the maximum number of events that are handled together; their
// deliveries share one flush to disk.
const fanoutBatch = 64

// runFanout turns events into deliveries until ctx ends.
func (r *Runner) runFanout(ctx, work context.Context) {
	r.resolving = newWorkers()
	defer r.resolving.Wait()
	defer r.slow.Wait()
	var consumer jetstream.Consumer // nil until fetched from
	var lastLogged time.Time
	for failures := 0; ctx.Err() == nil; {
		err := r.fanoutOnce(ctx, work, &consumer)
		if ctx.Err() != nil {
			return
		}
		r.noted(fetchEvents, partFanout, fetching, err)
		if err == nil {
			failures = 0
			continue
		}
		if time.Since(lastLogged) > time.Minute { // NATS may be unavailable for a day
			lastLogged = time.Now()
			r.log.Warn().Err(err).Msg("events could not be fetched; trying again")
		}
		r.afterFailedFetch(ctx, failures, err)
		failures++
	}
}

const (
	// fetchPause is the wait after a fetch has failed. A consumer has a new leader seconds
	// after the old one has died, and its messages shall not wait for longer.
	fetchPause = 250 * time.Millisecond
	// checkAfter is the number of failed fetches in a row after which streams and consumers
	// are checked. That happens elsewhere (lanes.run): each request of a check may take its
	// time, and a fetch may succeed meanwhile.
	checkAfter = 4
)

// afterFailedFetch waits until the next fetch is to be tried, and requests a check of
// streams and consumers if one is missing or the failure lasts.
func (r *Runner) afterFailedFetch(ctx context.Context, failures int, err error) {
	if !broker.Unanswered(err) || failures%checkAfter == checkAfter-1 {
		r.lanes.check()
	}
	backoff.Sleep(ctx, backoff.Jitter(fetchPause))
}

// fetchHeartbeat is the interval of the server's signs of life while a fetch waits. After
// two intervals without one the fetch was lost with its server.
const fetchHeartbeat = 750 * time.Millisecond

// fetch asks a consumer for messages. If the consumer has no leader, the error is
// jetstream.ErrNoHeartbeat.
func (r *Runner) fetch(ctx context.Context, consumer *jetstream.Consumer, stream, name string, n int) (jetstream.MessageBatch, error) {
	if *consumer == nil { // its name is all that a fetch needs: it is asked for once
		ctx, cancel := context.WithTimeout(ctx, r.RequestTimeout())
		defer cancel()
		found, err := r.JetStream().Consumer(ctx, stream, name)
		if err != nil {
			return nil, err
		}
		*consumer = found
	}
	n, wait := allowed(*consumer, n)
	options := []jetstream.FetchOpt{jetstream.FetchMaxWait(wait)}
	if !r.Embedded() { // that one has no other leader
		options = append(options, jetstream.FetchHeartbeat(min(fetchHeartbeat, wait/3)))
	}
	return (*consumer).Fetch(n, options...)
}

// fanoutOnce turns the events of one fetch into deliveries.
func (r *Runner) fanoutOnce(ctx, work context.Context, consumer *jetstream.Consumer) error {
	batch, err := r.fetch(work, consumer, broker.EventsStream, broker.FanoutConsumer, fanoutBatch)
	if err != nil {
		return err
	}
	for msg := range batch.Messages() {
		group := []jetstream.Msg{msg}
		for more := true; more; {
			select {
			case m, ok := <-batch.Messages():
				if more = ok; ok {
					group = append(group, m)
				}
			default:
				more = false
			}
		}
		if ctx.Err() != nil {
			nakAll(group)
			continue
		}
		r.fanOut(work, group)
	}
	return forgetRefused(consumer, batch.Error())
}

// forgetRefused forgets a consumer that has refused a fetch: its limits may be other ones
// now.
func forgetRefused(consumer *jetstream.Consumer, err error) error {
	if err != nil && !broker.Unanswered(err) && !errors.Is(err, jetstream.ErrMsgNotFound) {
		*consumer = nil
	}
	return err
}

// atOnce is the delay of a NAK after which the message may be delivered again at once.
// The server stores a NAK with a delay. It forgets one without when it is restarted, as
// the embedded server is with this process, and then delivers the message again only
// when its acknowledgement wait ends.
const atOnce = time.Millisecond

func nakAll(group []jetstream.Msg) {
	for _, m := range group {
		_ = m.NakWithDelay(atOnce) // if it fails: delivered again when the acknowledgement wait ends
	}
}

// fanned is one event and the deliveries and letters that it becomes.
type fanned struct {
	msg         jetstream.Msg
	seq         uint64
	stored      time.Time // in CERTPOST_EVENTS
	maybeStored bool      // an earlier try may have stored its deliveries
	event       *events.Event
	token       string
	deliveries  []*nats.Msg
	routes      []verdict.Route // of the deliveries
	letters     []*broker.DeadLetter
	nakDelay    time.Duration // > 0: NAK the event with this delay
	outcome     string        // the label in certpost_events_total
}

// publish publishes the deliveries of resolved events, and only then acknowledges the
// events.
func (r *Runner) publish(ctx context.Context, all []*fanned) {
	var deliveries []*nats.Msg
	for _, f := range all {
		deliveries = append(deliveries, f.deliveries...)
	}
	if err := r.publishDeliveries(ctx, all, deliveries); err != nil {
		r.log.Warn().Err(err).Int("events", len(all)).Msg("deliveries could not be published; the events are retried")
		for _, f := range all {
			_ = f.msg.NakWithDelay(backoff.Jitter(2 * time.Second)) // if it fails: delivered again when the acknowledgement wait ends
		}
		return
	}
	r.reached(pointPublished)
	var known groupLetters
	for _, f := range all {
		known.fail = !r.settleEvent(ctx, f, &known) || known.fail
	}
}

// publishPatience is how long the deliveries of a group of events are tried to publish while
// the stream does not answer. After that others may try.
const publishPatience = 20 * time.Second

// publishDeliveries publishes the deliveries, and tries again while the stream does not
// answer: after a leader's death the next one gets them at once.
func (r *Runner) publishDeliveries(ctx context.Context, all []*fanned, deliveries []*nats.Msg) error {
	known := r.publishedBefore(all)
	for until := time.Now().Add(publishPatience); ; {
		sequences, err := r.PublishAll(ctx, deliveries, known)
		if err == nil {
			err = r.writeManifest(ctx, all, sequences)
		}
		if len(deliveries) > 0 {
			r.noted(publishDeliveries, partFanout, publishing, err)
		}
		if err == nil || !broker.Unanswered(err) || ctx.Err() != nil || time.Now().After(until) {
			return err
		}
		for _, f := range all {
			f.maybeStored = true
		}
		backoff.Sleep(ctx, backoff.Jitter(200*time.Millisecond))
	}
}

// resolve decodes one event and finds its targets. A panic affects only this event, not
// the group.
func (r *Runner) resolve(ctx context.Context, msg jetstream.Msg) (f *fanned) {
	f = &fanned{msg: msg, outcome: "fanned_out"}
	meta, err := msg.Metadata()
	if err != nil {
		f.nakDelay, f.outcome = backoff.Jitter(5*time.Second), "retried"
		return f
	}
	f.seq, f.stored, f.maybeStored = meta.Sequence.Stream, meta.Timestamp, meta.NumDelivered > 1
	defer func() {
		if p := recover(); p != nil {
			r.metrics.panics.Inc()
			r.log.Error().Str("panic", fmt.Sprintf("%T", p)).Str("stack", string(debug.Stack())).
				Uint64("sequence", f.seq).Msg("a defect: resolving an event panicked; please report it with the stack")
			f.deliveries, f.routes, f.nakDelay, f.outcome = nil, nil, backoff.Jitter(10*time.Second), "retried"
			if meta.NumDelivered >= maxPanics {
				f.nakDelay = 0
				f.addDeadLetter(verdict.Fail(verdict.EventInvalid, verdict.PhaseResolve,
					"a defect in Certpost: resolving this event panicked; please report it with the stack from the log"), "", "")
			}
		}
	}()

	ctx, span := r.traceEvent(ctx, msg.Headers())
	defer func() { f.resolved(span); span.End() }()
	f.event, err = events.Decode(msg.Headers(), msg.Data())
	if err != nil {
		f.outcome = "invalid"
		f.addDeadLetter(invalid(err), "", "")
		return f
	}
	f.event.Subject = msg.Subject() // whatever its headers say
	f.token = events.Token(f.event.ID)
	routes, failure := r.resolveRoutes(ctx, f.event)
	switch {
	case failure != nil && ctx.Err() != nil:
		f.nakDelay, f.outcome = time.Millisecond, "retried"
	case failure != nil && failure.Retry() && time.Since(meta.Timestamp) < r.set.GiveUpAfter:
		f.nakDelay, f.outcome = r.set.retryDelay(int(min(meta.NumDelivered, 64))), "retried"
		r.log.Warn().Str("event", f.event.ID).Str("code", string(failure.Code)).Str("reason", failure.Reason).Dur("again_in", f.nakDelay).
			Msg("the event cannot be resolved now; it is retried")
	case failure != nil && failure.Retry():
		f.outcome = "invalid"
		f.addDeadLetter(expired(failure, time.Since(meta.Timestamp)), "", "")
	case failure != nil:
		f.outcome = "invalid"
		f.addDeadLetter(failure, "", "")
	case len(routes) == 0 && r.set.IgnoreUnmatched:
		f.outcome = "unmatched"
		r.log.Info().Str("event", f.event.ID).Msg("no target matches; the event is ignored as configured (events.unmatched)")
	case len(routes) == 0:
		f.outcome = "unmatched"
		f.addDeadLetter(verdict.Fail(verdict.TargetUnknown, verdict.PhaseResolve,
			"no target matches this event: name targets in the event, add a target whose match fits it, or set events.unmatched to ignore"), "", "")
	}
	body := f.event.Body()
	for _, route := range routes {
		if route.Failure != nil {
			f.addDeadLetter(route.Failure, route.Target, route.Lane)
			continue
		}
		if err := r.lanes.open(ctx, route.Lane); err != nil {
			r.log.Warn().Err(err).Str("lane", route.Lane).Msg("the consumer of the lane could not be created; the event is retried")
			f.deliveries, f.routes, f.letters, f.nakDelay, f.outcome = nil, nil, nil, backoff.Jitter(5*time.Second), "retried"
			return f
		}
		m := r.deliveryOf(f.event, body, route, origin{f.seq, f.stored, f.msg.Headers()})
		tracing.Inject(ctx, m.Header.Set)
		f.deliveries = append(f.deliveries, m)
		f.routes = append(f.routes, route)
	}
	return f
}

// firstGeneration is the generation of deliveries that are made from events.
const firstGeneration = "1"

// messageID returns the message id of the delivery to a target.
func messageID(token, target string) string {
	return token + "/" + target + "/" + firstGeneration
}

// origin is the message of an event in CERTPOST_EVENTS.
type origin struct {
	seq       uint64
	published time.Time
	headers   nats.Header
}

// deliveryOf returns the delivery message of an event for one target. Its body is the whole
// event; of the headers of the event's message the trace context is kept. It is sealed: whoever delivers it reads it without searching it for
// private keys again (docs/decisions/0069).
func (r *Runner) deliveryOf(ev *events.Event, body events.Body, route verdict.Route, from origin) *nats.Msg {
	m := nats.NewMsg(broker.DeliverySubject(route.Lane, route.Target))
	m.Data = body.Bytes
	m.Header.Set(nats.MsgIdHdr, messageID(events.Token(ev.ID), route.Target))
	m.Header.Set(broker.HeaderEventID, broker.HeaderText(ev.ID))
	m.Header.Set(broker.HeaderTarget, route.Target)
	m.Header.Set(broker.HeaderLane, route.Lane)
	m.Header.Set(broker.HeaderGeneration, firstGeneration)
	m.Header.Set(broker.HeaderEventSequence, strconv.FormatUint(from.seq, 10))
	m.Header.Set(broker.HeaderEventPublished, from.published.UTC().Format(time.RFC3339Nano))
	m.Header.Set(broker.HeaderEventSubject, broker.HeaderText(ev.Subject))
	if place := from.place(); place.Sequence != from.seq {
		m.Header.Set(broker.HeaderPublication, place.String())
	}
	for _, h := range []string{"traceparent", "tracestate"} {
		if v := from.headers.Get(h); v != "" {
			m.Header.Set(h, broker.HeaderText(v))
		}
	}
	r.seal.Mark(m.Header, body)
	return m
}

// addDeadLetter adds a dead letter for the event, or for one target that it names.
func (f *fanned) addDeadLetter(failure *verdict.Failure, target, lane string) {
	d := letterAbout(failure)
	d.Target, d.Lane, d.Generation = target, lane, 1
	d.ReplaySubject, d.EventSubject, d.Body = f.msg.Subject(), f.msg.Subject(), f.msg.Data()
	d.TraceParent = broker.TraceParent(f.msg.Headers())
	d.Published = origin{f.seq, f.stored, f.msg.Headers()}.place()
	if f.event != nil {
		d.Event, d.Token = f.event.ID, events.Token(f.event.ID)
		d.Body = f.event.Encode() // headers of a binary CloudEvent included
	} else {
		unreadable(d, failure, "event-"+strconv.FormatUint(f.seq, 10))
	}
	f.letters = append(f.letters, d)
}

// publishedBefore returns what to do with a delivery whose message id is in the stream's
// duplicate window. If an earlier try to publish the deliveries of this event has stored
// it, there is nothing to do. If the event was published again, the stream must not drop
// the delivery as a duplicate: it may be a replay of a dead one, or another certificate
// with an event id that is used already. It is published with a message id of its own,
// and the ledger decides.
func (r *Runner) publishedBefore(all []*fanned) broker.Known {
	from := map[*nats.Msg]*fanned{}
	for _, f := range all {
		for _, d := range f.deliveries {
			from[d] = f
		}
	}
	return func(ctx context.Context, m *nats.Msg, sequence uint64) (uint64, error) {
		f, target := from[m], m.Header.Get(broker.HeaderTarget)
		if m.Header.Get(nats.MsgIdHdr) != messageID(f.token, target) {
			return sequence, nil // stored by an earlier try, under its own id
		}
		if f.maybeStored {
			stored, err := r.storedFor(ctx, f, target, sequence)
			if err != nil || stored {
				return sequence, err
			}
		}
		m.Header.Set(nats.MsgIdHdr, messageID(f.token, target)+"/"+strconv.FormatUint(f.seq, 10))
		err := r.Persist(ctx, func(ctx context.Context) error {
			ack, err := r.JetStream().PublishMsg(ctx, m)
			if err == nil {
				sequence = ack.Sequence
			}
			return err
		})
		return sequence, err
	}
}

// writeManifest records the deliveries of the events; sequences are those of all
// deliveries, in order.
func (r *Runner) writeManifest(ctx context.Context, all []*fanned, sequences []uint64) error {
	var m broker.Manifest
	for _, f := range all {
		if len(f.routes) == 0 {
			continue
		}
		e := broker.ManifestEvent{Sequence: f.seq, Time: f.stored, Token: f.token}
		for i, route := range f.routes {
			e.Deliveries = append(e.Deliveries, broker.ManifestDelivery{Target: route.Target, Lane: route.Lane, Sequence: sequences[i]})
		}
		sequences = sequences[len(f.routes):]
		m.Events = append(m.Events, e)
	}
	if m.Events == nil {
		return nil
	}
	return r.WriteManifest(ctx, m)
}

// storedFor reports whether the delivery with a sequence in CERTPOST_DELIVERIES was made
// from this event, and not from an earlier publication of the same event id. If it is no
// longer there, it was settled, and the ledger says from which event it was made.
func (r *Runner) storedFor(ctx context.Context, f *fanned, target string, sequence uint64) (bool, error) {
	event, err := r.EventOfDelivery(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		var entry broker.Entry
		err = r.Persist(ctx, func(ctx context.Context) (err error) {
			entry, _, err = r.ledger.Get(ctx, broker.LedgerKey(target, f.token))
			return err
		})
		if errors.Is(err, broker.ErrNoEntry) {
			return false, nil
		}
		event = entry.EventSequence
	}
	return event == f.seq, err
}

// settleEvent publishes the dead letters of the event and acknowledges the event, or NAKs
// it. It returns false when letters cannot be read or written now. With known.fail, that was
// found out by another event of the group, and is not tried.
func (r *Runner) settleEvent(ctx context.Context, f *fanned, known *groupLetters) (ok bool) {
	if f.nakDelay > 0 {
		r.metrics.events.WithLabelValues(f.outcome).Inc()
		_ = f.msg.NakWithDelay(f.nakDelay)
		return true
	}
	if known.fail {
		_ = f.msg.NakWithDelay(backoff.Jitter(lettersDelay))
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	for i, d := range f.letters {
		known.none = false
		err := r.PublishDeadLetter(ctx, d, fmt.Sprintf("%s/e%d.%d", d.Target, f.seq, i))
		r.noted(storeLetters, partDeadLetters, "", err)
		if err != nil {
			r.metrics.deadLetterFailures.Inc()
			r.log.Error().Err(err).Str("event", d.Event).Msg("the dead letter could not be stored; the event is retried")
			_ = f.msg.NakWithDelay(r.set.deadLetterDelay())
			return false
		}
		r.log.Warn().Str("event", d.Event).Str("target", d.Target).Str("code", string(d.Code)).Str("phase", string(d.Phase)).
			Str("reason", d.Reason).Msg("dead letter")
	}
	if len(f.letters) == 0 && f.event != nil {
		if err := r.removeEventLetters(ctx, f, known); err != nil {
			delay := backoff.Jitter(lettersDelay)
			r.log.Warn().Err(err).Str("event", f.event.ID).Dur("again_in", delay).
				Msg("the event was resolved; looking for earlier dead letters of it, or removing one, failed; trying again")
			_ = f.msg.NakWithDelay(delay) // if it fails: delivered again when the acknowledgement wait ends
			return false
		}
	}
	r.metrics.events.WithLabelValues(f.outcome).Inc()
	// The acknowledgement is not confirmed: if it is lost, the event is delivered again,
	// and makes deliveries that the stream or the ledger recognizes.
	if err := f.msg.Ack(); err != nil {
		r.log.Debug().Err(err).Uint64("sequence", f.seq).Msg("the acknowledgement of an event could not be sent")
	}
	return true
}

// groupLetters is what the events of a group have found out about dead letters.
type groupLetters struct {
	fail bool // they cannot be read or written now
	none bool // there is none of any event itself: no event of the group has to look for its own
	some bool // there are such letters
}

// removeEventLetters removes the dead letters of the event itself (those without a lane)
// after the event was published again and could be resolved.
func (r *Runner) removeEventLetters(ctx context.Context, f *fanned, known *groupLetters) error {
	if !known.none && !known.some {
		known.none = true
		for _, err := range r.LettersUnder(ctx, broker.DeadLetterPrefix+"*."+broker.NoToken+".>") {
			known.none = false
			if err != nil {
				return err
			}
			known.some = true
			break
		}
	}
	if known.none {
		return nil
	}
	for d, err := range r.LettersUnder(ctx, broker.DeadLetterPrefix+"*."+broker.NoToken+".*."+f.token) {
		if err == nil && (d.IsOfAnother(f.event.Digest()) || d.OfLaterEvent(broker.Message{Sequence: f.seq, Stored: f.stored})) {
			continue
		}
		if err == nil {
			err = r.Append(ctx, broker.AuditRecord{Action: broker.ActionDelivered, Actor: broker.ProcessActor("a new publication of the event"), Event: d.Event, Target: d.Target,
				LetterNumber: d.Sequence})
		}
		if err == nil {
			err = r.RemoveLetter(ctx, d.Sequence)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
