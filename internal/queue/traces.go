package queue

import (
	"context"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/tracing"
	"github.com/certpost/certpost/internal/verdict"
)

// The attributes of messages (OpenTelemetry semantic conventions for messaging), and our own.
const (
	traceSystem      = "messaging.system"
	traceOperation   = "messaging.operation.name"
	traceType        = "messaging.operation.type"
	traceDestination = "messaging.destination.name"
	traceTemplate    = "messaging.destination.template"
	traceConsumer    = "messaging.consumer.group.name"
	traceMessage     = "messaging.message.id"
	traceEventID     = "certpost.event"
	traceTarget      = "certpost.target"
	traceLane        = "certpost.lane"
	traceAttempt     = "certpost.attempt"
	traceGeneration  = "certpost.generation"
	traceDeliveries  = "certpost.deliveries"
	traceLetters     = "certpost.dead_letters"
	traceOutcome     = "certpost.outcome"
	tracePhase       = "certpost.phase"
	traceReply       = "certpost.smtp.reply_code"
)

// traceEvent begins the span of an event that is resolved, in the trace of who published it.
func (r *Runner) traceEvent(ctx context.Context, h nats.Header) (context.Context, tracing.Span) {
	return r.set.Tracer.Start(ctx, tracing.Consumer, "process "+broker.EventSubject, h, // not its subject: sources are many
		tracing.Text(traceSystem, "nats"), tracing.Text(traceOperation, "process"), tracing.Text(traceType, "process"),
		tracing.Text(traceDestination, broker.EventsStream), tracing.Text(traceConsumer, broker.FanoutConsumer))
}

// resolved adds to the span of an event what became of it.
func (f *fanned) resolved(span tracing.Span) {
	if !span.Recording() {
		return
	}
	if f.event != nil {
		span.Add(tracing.Text(traceEventID, f.event.ID), tracing.Text(traceMessage, events.Token(f.event.ID)))
	}
	span.Add(tracing.Number(traceDeliveries, len(f.deliveries)), tracing.Number(traceLetters, len(f.letters)), tracing.Text(traceOutcome, f.outcome))
	for _, d := range f.letters {
		span.Fail(string(d.Code))
	}
}

// trace begins the span of an attempt, in the trace of the event.
func (j *job) trace(ctx context.Context) (context.Context, tracing.Span) {
	if j.r.set.Tracer == nil {
		return ctx, tracing.Span{}
	}
	return j.r.set.Tracer.Start(ctx, tracing.Consumer, "process "+broker.DeliveryPrefix+"{lane}.{target}", j.msg.Headers(),
		tracing.Text(traceSystem, "nats"), tracing.Text(traceOperation, "process"), tracing.Text(traceType, "process"),
		tracing.Text(traceDestination, broker.DeliveriesStream), tracing.Text(traceTemplate, broker.DeliveryPrefix+"{lane}.{target}"),
		tracing.Text(traceConsumer, broker.LaneConsumerPrefix+j.lane.name), tracing.Text(traceMessage, strconv.FormatUint(j.seq, 10)),
		tracing.Text(traceEventID, j.event.ID), tracing.Text(traceTarget, j.target), tracing.Text(traceLane, j.lane.name),
		tracing.Number(traceAttempt, j.entry.Attempts), tracing.Number(traceGeneration, max(j.gen, 1)))
}

// traced adds to the span of an attempt how it ended, and a span for each phase: the attempt knows how long each took,
// one after the other. What they quote from the relay is left out.
func traced(span tracing.Span, receipt *verdict.Receipt, failure *verdict.Failure) {
	if !span.Recording() {
		return
	}
	var steps []verdict.Step
	if receipt != nil {
		steps = receipt.Phases
		span.Add(tracing.Text(traceOutcome, "sent"), tracing.Number(traceReply, receipt.ReplyCode))
	}
	if failure != nil {
		span.Fail(string(failure.Code))
		span.Add(tracing.Text(tracePhase, string(failure.Phase)))
		if failure.ReplyCode != 0 {
			span.Add(tracing.Number(traceReply, failure.ReplyCode))
		}
		if failure.Transcript != nil {
			steps = failure.Transcript.Steps
		}
	}
	var took time.Duration
	for _, s := range steps {
		took += s.Took
	}
	at := time.Now().Add(-took)
	for _, s := range steps {
		span.Past(string(s.Phase), at, s.Took)
		at = at.Add(s.Took)
	}
}
