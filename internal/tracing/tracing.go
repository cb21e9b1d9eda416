// Package tracing records what happens to an event as OpenTelemetry spans and sends them by OTLP over HTTP, if the
// standard variables name a collector. Off, it costs a look into the context (docs/performance.md).
//
// A Tracer begins the spans at the edges: an event, a delivery, an order of an operator. What happens within one of
// them is a Child of the span in the context, so that packages further down need no Tracer. docs/traces.md lists all
// spans and attributes: none has a secret, an address or a key.
package tracing

import (
	"context"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/certpost/certpost/internal/legible"
)

// scope is the name of the instrumentation.
const scope = "certpost"

// Tracer begins spans. nil records none.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// Open returns the tracer that the environment asks for; nil if it asks for none, or with variables that cannot be used, which the log
// names: traces never keep deliveries from starting. The collector is not asked for: spans that it does not take are dropped, and the log says
// so at most once a minute.
func Open(ctx context.Context, env Env, version string, log zerolog.Logger) *Tracer {
	if problems := env.Problems(); len(problems) > 0 || !env.On() {
		for _, p := range problems {
			log.Warn().Str("variable", p.Variable).Msg("traces are off: " + p.Variable + " " + p.Text)
		}
		return nil
	}
	exporter, err := otlptracehttp.New(ctx) // reads OTEL_EXPORTER_OTLP_*
	if err != nil {
		log.Warn().Err(err).Msg("traces are off: the exporter cannot be made")
		return nil
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "certpost"), attribute.String("service.version", version)),
		resource.WithTelemetrySDK(), resource.WithFromEnv()) // OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
	if err != nil {
		log.Warn().Err(err).Msg("traces lack attributes: OTEL_RESOURCE_ATTRIBUTES cannot be read")
	}
	otel.SetErrorHandler(&complaints{log: log, now: time.Now}) // the library knows no other way
	return New(sdk.WithBatcher(exporter), sdk.WithResource(about))
}

// New returns a tracer with a provider of its own.
func New(options ...sdk.TracerProviderOption) *Tracer {
	provider := sdk.NewTracerProvider(options...)
	return &Tracer{provider, provider.Tracer(scope)}
}

// Close sends what was recorded.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// Kind is how a span is related to others.
type Kind = trace.SpanKind

// The kinds.
const (
	Consumer = trace.SpanKindConsumer // of a message
	Server   = trace.SpanKindServer   // of a request
	Client   = trace.SpanKindClient   // that sends one
	Internal = trace.SpanKindInternal
)

// Attribute is a fact of a span.
type Attribute = attribute.KeyValue

// Text is an attribute with a text, cleaned and cut.
func Text(key, value string) Attribute { return attribute.String(key, legible.Clean(value, 200)) }

// Number is an attribute with a number.
func Number(key string, value int) Attribute { return attribute.Int(key, value) }

var w3c = propagation.TraceContext{}

// Headers are those of a message. A span continues the trace in them, if they have one.
type Headers interface{ Get(key string) string }

// incoming reads the headers that trace contexts stand in.
type incoming struct{ Headers }

func (incoming) Set(string, string) {}
func (incoming) Keys() []string     { return []string{"traceparent", "tracestate"} }

// Start begins a span at an edge. from are the headers of the message or request; nil if there are none.
func (t *Tracer) Start(ctx context.Context, kind Kind, name string, from Headers, facts ...Attribute) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	if from != nil {
		ctx = w3c.Extract(ctx, incoming{from})
	}
	ctx, s := t.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(facts...))
	return ctx, Span{s}
}

// Child begins a span within that of the context. Without one, it records nothing.
func Child(ctx context.Context, kind Kind, name string, facts ...Attribute) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Span{}
	}
	ctx, s := parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(facts...))
	return ctx, Span{s}
}

// WithSpanOf returns ctx with the span of another context, for work that goes on when that one ends.
func WithSpanOf(ctx, other context.Context) context.Context {
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(other))
}

// Span is a span; the zero value records nothing.
type Span struct{ span trace.Span }

// Recording reports whether what is added is kept, so that callers need not make what is not.
func (s Span) Recording() bool { return s.span != nil && s.span.IsRecording() }

// Add adds facts.
func (s Span) Add(facts ...Attribute) {
	if s.span != nil {
		s.span.SetAttributes(facts...)
	}
}

// Fail says that what the span is about failed, with the kind of error, such as SMTP_PERMANENT.
func (s Span) Fail(kind string) {
	if s.span != nil {
		s.span.SetAttributes(attribute.String("error.type", kind))
		s.span.SetStatus(codes.Error, kind)
	}
}

// End ends the span.
func (s Span) End() {
	if s.span != nil {
		s.span.End()
	}
}

// Past adds a child that is over.
func (s Span) Past(name string, from time.Time, took time.Duration, facts ...Attribute) {
	if !s.Recording() {
		return
	}
	_, child := s.span.TracerProvider().Tracer(scope).Start(trace.ContextWithSpan(context.Background(), s.span), name, trace.WithTimestamp(from), trace.WithAttributes(facts...))
	child.End(trace.WithTimestamp(from.Add(took)))
}

// Inject sets the headers with which a message continues the trace of the context's span. Without a span it leaves
// them as they are.
func Inject(ctx context.Context, set func(key, value string)) {
	if trace.SpanContextFromContext(ctx).IsValid() {
		w3c.Inject(ctx, outgoing{set})
	}
}

// outgoing sets the headers that trace contexts stand in.
type outgoing struct{ set func(key, value string) }

func (outgoing) Get(string) string       { return "" }
func (o outgoing) Set(key, value string) { o.set(key, value) }
func (outgoing) Keys() []string          { return nil }
