//go:build collector

package main

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// collected is a span as the collector prints it.
type collected struct{ trace, parent, id, name, kind string }

var spanText = regexp.MustCompile(`(?m)^Span #\d+\n +Trace ID +: (\w*)\n +Parent ID +: (\w*)\n +ID +: (\w*)\n +Name +: (.*)\n +Kind +: (\w*)$`)

// TestRealCollector publishes an event with the trace context of its publisher in its NATS headers. A real OpenTelemetry collector
// gets the spans of the whole way to the relay's 250, as one tree in that trace, and nothing that is secret.
func TestRealCollector(t *testing.T) {
	program := lab.Need(t, "otelcol")
	dir, listen := t.TempDir(), lab.FreeAddress(t)
	config, output := filepath.Join(dir, "collector.yaml"), filepath.Join(dir, "spans")
	lab.Write(t, config, []byte(`receivers: {otlp: {protocols: {http: {endpoint: "`+listen+`"}}}}
exporters: {debug: {verbosity: detailed, use_internal_logger: false}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [debug]}}
`))
	log, err := os.Create(output)
	if err != nil {
		t.Fatal(err)
	}
	collector := exec.Command(program, "--config=file:"+config)
	collector.Stdout, collector.Stderr = log, log
	if err := collector.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = collector.Process.Kill()
		_ = collector.Wait()
		_ = log.Close()
	})
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listen)
	t.Setenv("OTEL_SERVICE_NAME", "certpost-proof")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100")

	v := newVaultBench(t)
	v.until("the collector listens", func() bool {
		answer, err := http.Post("http://"+listen+"/v1/traces", "application/json", strings.NewReader("{}"))
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	v.start("1h", "1m")
	const trace, publisher = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	m := nats.NewMsg(broker.EventSubject)
	m.Header.Set("traceparent", "00-"+trace+"-"+publisher+"-01")
	m.Data = (&events.Event{ID: "traced", Certificate: events.Certificate{PEM: v.cert}, Targets: []string{"ops"}}).Encode()
	if _, err := v.services[0].broker.JetStream().PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	v.deliveredOnce(1)

	want := []string{"process certificate.issued", "process certpost.delivery.{lane}.{target}", "secrets", "vault GET", "render", "connect", "starttls", "tls", "auth", "mail", "rcpt", "data", "content"}
	var text []byte
	var spans map[string]collected // by name
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%q is wanted; the collector has\n%s", want, text)
		}
	})
	v.until("the collector has the spans", func() bool {
		if text, err = os.ReadFile(output); err != nil {
			t.Fatal(err)
		}
		spans = map[string]collected{}
		for _, s := range spanText.FindAllSubmatch(text, -1) {
			if c := (collected{string(s[1]), string(s[2]), string(s[3]), string(s[4]), string(s[5])}); c.trace == trace {
				spans[c.name] = c
			}
		}
		for _, name := range want {
			if spans[name].id == "" {
				return false
			}
		}
		return true
	})
	event, attempt := spans[want[0]], spans[want[1]]
	if event.parent != publisher || event.kind != "Consumer" {
		t.Errorf("the event's span is %+v", event)
	}
	if attempt.parent != event.id || attempt.kind != "Consumer" {
		t.Errorf("the attempt's span is %+v", attempt)
	}
	if s := spans["vault GET"]; s.kind != "Client" || s.parent != spans["secrets"].id && s.parent != attempt.id {
		t.Errorf("Vault's span is %+v", s)
	}
	for _, phase := range want[2:] {
		if s := spans[phase]; phase != "vault GET" && s.parent != attempt.id {
			t.Errorf("%s is not within the attempt: %+v", phase, s)
		}
	}
	for _, needed := range []string{"service.name: Str(certpost-proof)", "messaging.system: Str(nats)", "certpost.event: Str(traced)", "certpost.target: Str(ops)", "certpost.smtp.reply_code: Int(250)"} {
		if !bytes.Contains(text, []byte(needed)) {
			t.Errorf("no span has %s", needed)
		}
	}
	for _, secret := range []string{"first-password", "ops@example.com", "certs@example.com", "smtp-auth", v.vault.RootToken, "BEGIN CERT", vaultUser + "@"} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("the spans have %q", secret)
		}
	}
}
