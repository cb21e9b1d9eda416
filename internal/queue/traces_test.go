package queue

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/tracing"
	"github.com/certpost/certpost/internal/verdict"
)

// The spans of an event and its deliveries are in the trace of who published it, and say nothing that is secret.
func TestTraces(t *testing.T) {
	t.Parallel()
	const traced = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	exporter := tracetest.NewInMemoryExporter()
	fake := newFakeCourier("good", "bad")
	fake.plan("bad", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		f := fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
		f.Reason, f.Reply, f.ReplyCode = "canary@example.com was refused", "canary", 550
		f.Transcript = &verdict.Transcript{Steps: []verdict.Step{{Phase: verdict.PhaseConnect, Took: time.Second}, {Phase: verdict.PhaseRcpt, Took: 2 * time.Second}}, Dialogue: []string{"C: canary"}}
		return nil, f
	})
	b := start(t, fake, func(s *Settings) { s.Tracer = tracing.New(sdk.WithSyncer(exporter)) })
	m := nats.NewMsg(broker.EventSubject)
	m.Data = event("e1", "good", "bad").Encode()
	m.Header.Set("traceparent", traced)
	if _, err := b.broker.JetStream().PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	b.settled()
	var spans tracetest.SpanStubs
	b.until("all spans are over", func() bool { spans = exporter.GetSpans(); return len(spans) >= 5 })
	byName := map[string][]tracetest.SpanStub{}
	for _, s := range spans {
		byName[s.Name] = append(byName[s.Name], s)
		if got := s.SpanContext.TraceID().String(); got != "4bf92f3577b34da6a3ce929d0e0e4736" {
			t.Errorf("%s is in trace %s", s.Name, got)
		}
		if text := fmt.Sprint(s.Attributes, s.Status); strings.Contains(text, "canary") || strings.Contains(text, "BEGIN") {
			t.Errorf("%s has %s", s.Name, text)
		}
	}
	events, attempts := byName["process certificate.issued"], byName["process certpost.delivery.{lane}.{target}"]
	if len(events) != 1 || len(attempts) != 2 || len(byName["connect"]) != 1 || len(byName["rcpt"]) != 1 {
		t.Fatalf("%d spans of events, %d of attempts, of %d", len(events), len(attempts), len(spans))
	}
	if events[0].Parent.SpanID().String() != "00f067aa0ba902b7" {
		t.Errorf("the event's span has the parent %s", events[0].Parent.SpanID())
	}
	for _, s := range attempts {
		if s.Parent.SpanID() != events[0].SpanContext.SpanID() {
			t.Errorf("the attempt's span has the parent %s", s.Parent.SpanID())
		}
	}
	rcpt := byName["rcpt"][0]
	failed := slices.IndexFunc(attempts, func(s tracetest.SpanStub) bool { return s.Status.Description == "SMTP_PERMANENT" })
	if failed < 0 || rcpt.Parent.SpanID() != attempts[failed].SpanContext.SpanID() || rcpt.EndTime.Sub(rcpt.StartTime) != 2*time.Second {
		t.Errorf("%+v", attempts)
	}
	if letters := b.letters(); len(letters) != 1 || !strings.Contains(letters[0].TraceParent, "4bf92f3577b34da6a3ce929d0e0e4736-"+events[0].SpanContext.SpanID().String()) {
		t.Errorf("%+v", letters)
	}
}
