package tracing

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"

func fixed(vars map[string]string) Env {
	return func(name string) (string, bool) { value, set := vars[name]; return value, set }
}

// A variable that cannot be used is told with its name and what to set, and turns traces off; no value that may be a secret is told.
//
// Fault: a variable of OpenTelemetry cannot be used. Result: a warning at the check and at the start says which and what to set, traces are off, and deliveries go on.
func TestWrongVariables(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, authority := file("empty.pem", "canary"), file("ca.pem", lab.SelfSigned("collector.example.com"))
	const good = "http://127.0.0.1:4318"
	for _, c := range []struct{ variable, value, want string }{
		{endpoint, "collector:4318", "does not begin with http:// or https://"},
		{endpoint, "127.0.0.1:4318", "does not begin with http:// or https://"},
		{endpoint, "collector.example.com", "does not begin with http:// or https://"},
		{endpoint, "grpc://collector:4317", "does not begin with http:// or https://"},
		{endpoint, "https:///v1", "has no host"},
		{endpoint, "https://user:canary@collector.example.com", "use OTEL_EXPORTER_OTLP_HEADERS"},
		{endpoint, "  " + good + " ", ""},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318", "does not begin with"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", dir + "/missing.pem", "cannot be read: open " + dir + "/missing.pem: no such file"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", empty, "has no certificate in PEM"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", authority, ""},
		{"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", dir, "cannot be read"},
		{"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", authority, "set both, or neither"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf only"},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf only"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer canary,canary", "as its part 2"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "authorization=canary%zz", "value of its part 1"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x,x-tenant=one", ""},
		{"OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "set gzip or none"},
		{"OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "in milliseconds without a unit"},
		{"OTEL_TRACES_SAMPLER", "sometimes", "set one of always_on, always_off, traceidratio"},
		{"OTEL_TRACES_SAMPLER", "ParentBased_Always_On", ""},
		{"OTEL_TRACES_EXPORTER", "jaeger", "set otlp or none"},
		{"OTEL_TRACES_EXPORTER", "otlp", ""},
		{"OTEL_SDK_DISABLED", "yes", "is neither true nor false"},
		{"OTEL_SDK_DISABLED", "False", ""},
		{"OTEL_RESOURCE_ATTRIBUTES", "prod", "as its part 1"},
		{"OTEL_BSP_SCHEDULE_DELAY", "5s", "set a number above 0"},
	} {
		vars := map[string]string{endpoint: good}
		vars[c.variable] = c.value
		found := fixed(vars).Problems()
		if c.want == "" {
			if len(found) > 0 {
				t.Errorf("%s=%s: %v", c.variable, c.value, found)
			}
			continue
		}
		if len(found) != 1 || found[0].Variable != c.variable || !strings.Contains(found[0].Text, c.want) {
			t.Errorf("%s=%s: %v, want %s", c.variable, c.value, found, c.want)
		}
		var log bytes.Buffer
		if tracer := Open(t.Context(), fixed(vars), "1", zerolog.New(&log)); tracer != nil || !strings.Contains(log.String(), `"variable":"`+c.variable) || !strings.Contains(log.String(), `"level":"warn"`) {
			t.Errorf("%s=%s: %v %s", c.variable, c.value, tracer, log.String())
		}
		if strings.Contains(log.String(), "canary") {
			t.Errorf("%s", log.String())
		}
	}
	ratio := map[string]string{endpoint: good, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10"}
	if found := fixed(ratio).Problems(); len(found) != 1 || found[0].Variable != "OTEL_TRACES_SAMPLER_ARG" || !strings.Contains(found[0].Text, "from 0 to 1") {
		t.Errorf("%v", found)
	}
	if ratio["OTEL_TRACES_SAMPLER"] = "always_on"; fixed(ratio).Problems() != nil {
		t.Error("an argument that the sampler does not take is told")
	}
}

// Without a collector in the environment, or switched off, there is no tracer, and nothing is told of the other variables.
func TestNotAskedFor(t *testing.T) {
	t.Parallel()
	for name, vars := range map[string]map[string]string{
		"nothing":       {"OTEL_TRACES_SAMPLER": "sometimes"},
		"disabled":      {endpoint: "collector", "OTEL_SDK_DISABLED": "true"},
		"disabled TRUE": {endpoint: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "TRUE"},
		"disabled True": {endpoint: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": " True "},
		"none":          {endpoint: "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
	} {
		var log bytes.Buffer
		if e := fixed(vars); e.On() || e.Problems() != nil || Open(t.Context(), e, "1", zerolog.New(&log)) != nil || log.Len() > 0 {
			t.Errorf("%s: %v %s", name, e.Problems(), log.String())
		}
	}
}
