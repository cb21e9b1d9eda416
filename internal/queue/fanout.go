package queue

import (
	"context"
	"fmt"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// fanoutBatch is the maximum number of events that are handled together; their
// deliveries share one flush to disk.
const fanoutBatch = 64

// runFanout turns events into deliveries until ctx ends.
func (r *Runner) runFanout(ctx, work context.Context) {
	var lastLogged time.Time
	for ctx.Err() == nil {
		failed := r.fanoutOnce(ctx, work)
		if failed == nil || ctx.Err() != nil {
			continue
		}
		r.standstills.report(partFanout, fetching, failed)
		backoff.Sleep(ctx, time.Second)
		err := r.EnsureTopology(ctx)
		if ctx.Err() != nil || time.Since(lastLogged) < time.Minute { // NATS may be unavailable for a day
			continue
		}
		lastLogged = time.Now()
		if err != nil {
			r.log.Error().Err(err).Msg("the streams could not be checked or restored; trying again")
		} else {
			r.log.Warn().Err(failed).Msg("events could not be fetched; trying again")
		}
	}
}

// fanoutOnce turns events into deliveries until ctx ends or fetching fails.
func (r *Runner) fanoutOnce(ctx, work context.Context) error {
	consumer, err := r.JetStream().Consumer(work, broker.EventsStream, broker.FanoutConsumer)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		batch, err := fetchFrom(consumer, fanoutBatch)
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
		if err := batch.Error(); err != nil {
			return err
		}
		r.standstills.report(partFanout, fetching, nil)
	}
	return nil
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
	stored      time.Time
	redelivered bool // the server has delivered it before
	event       *events.Event
	token       string
	deliveries  []*nats.Msg
	routes      []verdict.Route // of the deliveries
	letters     []*broker.DeadLetter
	nakDelay    time.Duration // > 0: NAK the event with this delay
	outcome     string        // the label in certpost_events_total
}

// fanOut publishes the deliveries of a group of events, and only then acknowledges the
// events.
func (r *Runner) fanOut(ctx context.Context, group []jetstream.Msg) {
	stop := keepAlive(r.AckWait(), group...)
	defer stop()
	r.reached(pointFetched)
	all := make([]*fanned, 0, len(group))
	var deliveries []*nats.Msg
	for _, msg := range group {
		f := r.resolve(ctx, msg)
		all = append(all, f)
		deliveries = append(deliveries, f.deliveries...)
	}
	sequences, err := r.PublishAll(ctx, deliveries, r.publishedBefore(all))
	if err == nil {
		err = r.writeManifest(ctx, all, sequences)
	}
	r.standstills.report(partFanout, publishing, err)
	if err != nil {
		r.log.Warn().Err(err).Int("events", len(group)).Msg("deliveries could not be published; the events are retried")
		for _, f := range all {
			_ = f.msg.NakWithDelay(backoff.Jitter(5 * time.Second))
		}
		return
	}
	r.reached(pointPublished)
	for _, f := range all {
		r.settleEvent(ctx, f)
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
	f.seq, f.stored, f.redelivered = meta.Sequence.Stream, meta.Timestamp, meta.NumDelivered > 1
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

	f.event, err = events.Decode(msg.Headers(), msg.Data())
	if err != nil {
		f.outcome = "invalid"
		f.addDeadLetter(invalid(err), "", "")
		return f
	}
	f.token = events.Token(f.event.ID)
	routes, failure := r.courier.Resolve(ctx, f.event)
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
		f.deliveries = append(f.deliveries, deliveryOf(f.event, f.token, route, 1, f.msg.Headers()))
		f.routes = append(f.routes, route)
	}
	return f
}

// deliveryOf returns the delivery message of an event for one target. Its body is the whole
// event; of the headers of the event's message it keeps the trace context.
func deliveryOf(ev *events.Event, token string, route verdict.Route, generation int, headers nats.Header) *nats.Msg {
	m := nats.NewMsg(broker.DeliverySubject(route.Lane, route.Target))
	m.Data = ev.Encode()
	gen := strconv.Itoa(generation)
	m.Header.Set(nats.MsgIdHdr, token+"/"+route.Target+"/"+gen)
	m.Header.Set(broker.HeaderEventID, broker.HeaderText(ev.ID))
	m.Header.Set(broker.HeaderTarget, route.Target)
	m.Header.Set(broker.HeaderLane, route.Lane)
	m.Header.Set(broker.HeaderGeneration, gen)
	for _, h := range []string{"traceparent", "tracestate"} {
		if v := headers.Get(h); v != "" {
			m.Header.Set(h, broker.HeaderText(v))
		}
	}
	return m
}

// addDeadLetter adds a dead letter for the event, or for one target that it names.
func (f *fanned) addDeadLetter(failure *verdict.Failure, target, lane string) {
	d := letterAbout(failure)
	d.Target, d.Lane, d.Generation = target, lane, 1
	d.ReplaySubject, d.Body = f.msg.Subject(), f.msg.Data()
	d.TraceParent = broker.TraceParent(f.msg.Headers())
	if f.event != nil {
		d.Event, d.Token = f.event.ID, events.Token(f.event.ID)
		d.Body = f.event.Encode() // headers of a binary CloudEvent included
	} else {
		unreadable(d, failure, "event-"+strconv.FormatUint(f.seq, 10))
	}
	f.letters = append(f.letters, d)
}

// publishedBefore returns what to do with a delivery whose message id is in the stream's
// duplicate window. If the server delivered the event again, because an acknowledgement
// was lost or the event was NAKed, the delivery counts as stored already. If the event was
// published again, the stream must not drop the delivery as a duplicate: it may be a
// replay of a dead one, or another certificate with an event id that is used already.
// It is published with a message id of its own, and the ledger decides.
func (r *Runner) publishedBefore(all []*fanned) broker.Known {
	from := map[*nats.Msg]*fanned{}
	for _, f := range all {
		for _, d := range f.deliveries {
			from[d] = f
		}
	}
	return func(ctx context.Context, m *nats.Msg, stored uint64) (uint64, error) {
		f := from[m]
		if f.redelivered {
			return stored, nil
		}
		m.Header.Set(nats.MsgIdHdr, m.Header.Get(nats.MsgIdHdr)+"/"+strconv.FormatUint(f.seq, 10))
		ack, err := r.JetStream().PublishMsg(ctx, m)
		if err != nil {
			return 0, err
		}
		return ack.Sequence, nil
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

// settleEvent publishes the dead letters of the event and acknowledges the event, or NAKs
// it.
func (r *Runner) settleEvent(ctx context.Context, f *fanned) {
	if f.nakDelay > 0 {
		r.metrics.events.WithLabelValues(f.outcome).Inc()
		_ = f.msg.NakWithDelay(f.nakDelay)
		return
	}
	for i, d := range f.letters {
		err := r.PublishDeadLetter(ctx, d, fmt.Sprintf("%s/e%d.%d", d.Target, f.seq, i))
		r.standstills.report(partDeadLetters, "", err)
		if err != nil {
			r.metrics.deadLetterFailures.Inc()
			r.log.Error().Err(err).Str("event", d.Event).Msg("the dead letter could not be stored; the event is retried")
			_ = f.msg.NakWithDelay(r.set.deadLetterDelay())
			return
		}
		r.log.Warn().Str("event", d.Event).Str("target", d.Target).Str("code", string(d.Code)).Str("phase", string(d.Phase)).
			Str("reason", d.Reason).Msg("dead letter")
	}
	if len(f.letters) == 0 && f.event != nil {
		r.removeEventLetters(ctx, f)
	}
	r.metrics.events.WithLabelValues(f.outcome).Inc()
	// The acknowledgement is not confirmed: if it is lost, the event is delivered again,
	// and makes deliveries that the stream or the ledger recognizes.
	if err := f.msg.Ack(); err != nil {
		r.log.Debug().Err(err).Uint64("sequence", f.seq).Msg("the acknowledgement of an event could not be sent")
	}
}

// removeEventLetters removes the dead letters of the event itself (those without a lane)
// after the event was published again and could be resolved.
func (r *Runner) removeEventLetters(ctx context.Context, f *fanned) {
	for d, err := range r.LettersUnder(ctx, broker.DeadLetterPrefix+"*."+broker.NoToken+".*."+f.token) {
		if err == nil && d.IsOfAnother(f.event.Digest()) {
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
			r.log.Warn().Err(err).Str("event", f.event.ID).Msg("the event was resolved, but its dead letter could not be removed; discard it")
			return
		}
	}
}
