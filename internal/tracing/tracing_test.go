package tracing

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// receiver takes spans by OTLP over HTTP, decoded with the messages of the standard. The first answers are statuses of
// failures.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	refuse   []int
	spans    []*spans.Span
	resource map[string]string
	headers  http.Header
}

func newReceiver(t *testing.T, refuse ...int) *receiver {
	r := &receiver{refuse: refuse, resource: map[string]string{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.refuse) > 0 {
			w.WriteHeader(r.refuse[0])
			r.refuse = r.refuse[1:]
			return
		}
		body, err := io.ReadAll(q.Body)
		var export collector.ExportTraceServiceRequest
		if err != nil || q.URL.Path != "/v1/traces" || q.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(body, &export) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.headers = q.Header
		for _, of := range export.ResourceSpans {
			for _, a := range of.Resource.Attributes {
				r.resource[a.Key] = a.Value.GetStringValue()
			}
			for _, scope := range of.ScopeSpans {
				r.spans = append(r.spans, scope.Spans...)
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// env has the variables, for this process too: the exporter reads them there.
func env(t *testing.T, variables map[string]string) Env {
	for key, value := range variables {
		t.Setenv(key, value)
	}
	return func(name string) (string, bool) { value, set := variables[name]; return value, set }
}

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// A span goes on in the trace of a message's headers, its children in it, and messages go on from there.
func TestSpansReachTheCollector(t *testing.T) {
	r := newReceiver(t)
	tracer := Open(t.Context(), env(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": r.URL, "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=one", "OTEL_SERVICE_NAME": "certpost-eu", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=prod"}), "1.2.3", zerolog.Nop())
	headers := http.Header{"Traceparent": {parent}, "Tracestate": {"a=b"}}
	ctx, span := tracer.Start(t.Context(), Consumer, "process", headers, Text("certpost.event", "e1"))
	_, child := Child(ctx, Client, "vault GET")
	child.Fail("vault")
	child.End()
	at := time.Now().Add(-time.Second)
	span.Past("rcpt", at, time.Second)
	sent := http.Header{}
	Inject(ctx, sent.Set)
	span.End()
	if err := tracer.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(r.spans) != 3 || r.resource["service.name"] != "certpost-eu" || r.resource["service.version"] != "1.2.3" || r.resource["deployment.environment"] != "prod" || r.headers.Get("X-Tenant") != "one" {
		t.Fatalf("%v %v", r.spans, r.resource)
	}
	byName := map[string]*spans.Span{}
	for _, s := range r.spans {
		byName[s.Name] = s
		if got := hex(s.TraceId); got != "4bf92f3577b34da6a3ce929d0e0e4736" {
			t.Errorf("%s is in trace %s", s.Name, got)
		}
	}
	top, vault, phase := byName["process"], byName["vault GET"], byName["rcpt"]
	if hex(top.ParentSpanId) != "00f067aa0ba902b7" || top.Kind != spans.Span_SPAN_KIND_CONSUMER || top.TraceState != "a=b" || top.Attributes[0].Value.GetStringValue() != "e1" {
		t.Errorf("%v", top)
	}
	if !bytes.Equal(vault.ParentSpanId, top.SpanId) || vault.Status.Code != spans.Status_STATUS_CODE_ERROR || vault.Kind != spans.Span_SPAN_KIND_CLIENT {
		t.Errorf("%v", vault)
	}
	if !bytes.Equal(phase.ParentSpanId, top.SpanId) || phase.EndTimeUnixNano-phase.StartTimeUnixNano != uint64(time.Second) {
		t.Errorf("%v", phase)
	}
	if want := "00-4bf92f3577b34da6a3ce929d0e0e4736-" + hex(top.SpanId) + "-01"; sent.Get("Traceparent") != want || sent.Get("Tracestate") != "a=b" {
		t.Errorf("%v, want %s", sent, want)
	}
}

func hex(b []byte) string {
	const digits = "0123456789abcdef"
	var out strings.Builder
	for _, c := range b {
		out.WriteByte(digits[c>>4])
		out.WriteByte(digits[c&15])
	}
	return out.String()
}

// Fault: the collector of traces answers 503, or is away. Result: the spans are sent again, or dropped with a line in the log, and nothing
// waits for them.
func TestCollectorFails(t *testing.T) {
	r := newReceiver(t, http.StatusServiceUnavailable)
	var log bytes.Buffer
	tracer := Open(t.Context(), env(t, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": r.URL + "/v1/traces"}), "1", zerolog.New(&log))
	_, span := tracer.Start(t.Context(), Internal, "one", nil)
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := tracer.provider.ForceFlush(ctx); err != nil || len(r.spans) != 1 {
		t.Errorf("%v: %d spans", err, len(r.spans))
	}
	r.Close()
	_, span = tracer.Start(t.Context(), Internal, "two", nil)
	span.End()
	short, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	if err := tracer.Close(short); err == nil && !strings.Contains(log.String(), "traces could not be sent") {
		t.Errorf("nothing says that the collector is away: %s", log.String())
	}
}

// What the library complains of is logged once a minute.
func TestComplaints(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	now := time.Now()
	c := &complaints{log: zerolog.New(&log), now: func() time.Time { return now }}
	for range 5 {
		c.Handle(io.ErrUnexpectedEOF)
	}
	now = now.Add(time.Minute)
	c.Handle(io.ErrUnexpectedEOF)
	if lines := strings.Count(log.String(), "\n"); lines != 2 || !strings.Contains(log.String(), `"not_logged":4`) {
		t.Errorf("%s", log.String())
	}
}

// A tracer that is off records nothing.
func TestOff(t *testing.T) {
	t.Parallel()
	var off *Tracer
	ctx, span := off.Start(t.Context(), Consumer, "process", http.Header{"Traceparent": {parent}})
	_, child := Child(ctx, Internal, "child")
	set := 0
	Inject(ctx, func(string, string) { set++ })
	span.Fail("x")
	child.End()
	span.Past("x", time.Now(), 1)
	span.End()
	if span.Recording() || child.Recording() || set != 0 || off.Close(t.Context()) != nil {
		t.Error("something is recorded")
	}
}

// BenchmarkOff is what a delivery costs without a collector: its span, a child for Vault, its phases and its headers.
func BenchmarkOff(b *testing.B) {
	var off *Tracer
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		ctx, span := off.Start(ctx, Consumer, "process", nil)
		_, child := Child(ctx, Client, "vault GET")
		child.End()
		Inject(ctx, nil)
		if span.Recording() {
			span.Add(Number("certpost.attempt", 1))
		}
		span.End()
	}
}

// BenchmarkOn is the same with a collector that is never reached.
func BenchmarkOn(b *testing.B) {
	tracer := New()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		ctx, span := tracer.Start(ctx, Consumer, "process", nil)
		_, child := Child(ctx, Client, "vault GET")
		child.End()
		Inject(ctx, http.Header{}.Set)
		span.Add(Number("certpost.attempt", 1))
		span.End()
	}
}
