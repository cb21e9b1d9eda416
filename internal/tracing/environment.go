package tracing

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Env reads a variable of the environment.
type Env func(name string) (value string, set bool)

// get is the value without the blanks around it, as the library reads it.
func (e Env) get(name string) string {
	value, _ := e(name)
	return strings.TrimSpace(value)
}

// The names of the variables that both the general setting and that of traces have, without OTEL_EXPORTER_OTLP_ or
// OTEL_EXPORTER_OTLP_TRACES_.
const (
	general = "OTEL_EXPORTER_OTLP_"
	special = "OTEL_EXPORTER_OTLP_TRACES_"
)

// On reports whether the environment asks for traces: it names a collector (OTEL_EXPORTER_OTLP_ENDPOINT, or
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT), and neither OTEL_SDK_DISABLED=true, in any case of letters, nor OTEL_TRACES_EXPORTER=none.
func (e Env) On() bool {
	named := e.get(general+"ENDPOINT") != "" || e.get(special+"ENDPOINT") != ""
	return named && !strings.EqualFold(e.get("OTEL_SDK_DISABLED"), "true") && e.get("OTEL_TRACES_EXPORTER") != "none"
}

// Problem is a variable that cannot be used. Text says what is wrong and what to set, and quotes no value that may be a secret.
type Problem struct{ Variable, Text string }

// Problems returns what keeps an environment that asks for traces from having them; the library would ignore most of it, and send
// the spans to localhost, or all of them. None if it asks for none.
func (e Env) Problems() (found []Problem) {
	if !e.On() {
		return nil
	}
	add := func(variable string, err error) {
		if err != nil {
			found = append(found, Problem{variable, err.Error()})
		}
	}
	if value := e.get("OTEL_SDK_DISABLED"); value != "" && !strings.EqualFold(value, "false") {
		add("OTEL_SDK_DISABLED", fmt.Errorf("is neither true nor false"))
	}
	if value := e.get("OTEL_TRACES_EXPORTER"); value != "" && value != "otlp" {
		add("OTEL_TRACES_EXPORTER", fmt.Errorf("is %q: set otlp or none", value))
	}
	for _, prefix := range []string{general, special} {
		for _, one := range []struct {
			name  string
			check func(string) error
		}{{"ENDPOINT", checkEndpoint}, {"PROTOCOL", checkProtocol}, {"CERTIFICATE", checkAuthorities}, {"HEADERS", checkPairs}, {"COMPRESSION", checkCompression}, {"TIMEOUT", checkMilliseconds}} {
			if value := e.get(prefix + one.name); value != "" {
				add(prefix+one.name, one.check(value))
			}
		}
		if certificate, key := e.get(prefix+"CLIENT_CERTIFICATE"), e.get(prefix+"CLIENT_KEY"); certificate != "" || key != "" {
			add(prefix+"CLIENT_CERTIFICATE", checkClient(certificate, key))
		}
	}
	add("OTEL_TRACES_SAMPLER", checkSampler(e.get("OTEL_TRACES_SAMPLER")))
	if strings.HasSuffix(strings.ToLower(e.get("OTEL_TRACES_SAMPLER")), "traceidratio") {
		add("OTEL_TRACES_SAMPLER_ARG", checkRatio(e.get("OTEL_TRACES_SAMPLER_ARG")))
	}
	if value := e.get("OTEL_RESOURCE_ATTRIBUTES"); value != "" {
		add("OTEL_RESOURCE_ATTRIBUTES", checkPairs(value))
	}
	for _, name := range []string{"OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"} {
		if value := e.get(name); value != "" {
			add(name, checkMilliseconds(value))
		}
	}
	return found
}

func checkEndpoint(value string) error {
	const want = "set an address such as http://collector.example.com:4318"
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("does not begin with http:// or https://: %s", want)
	case u.Hostname() == "":
		return fmt.Errorf("has no host: %s", want)
	case u.User != nil:
		return fmt.Errorf("has a user name or a password, which would not be sent: use OTEL_EXPORTER_OTLP_HEADERS")
	}
	return nil
}

func checkProtocol(value string) error {
	if value != "http/protobuf" {
		return fmt.Errorf("is %q: traces are sent by http/protobuf only (port 4318 of a collector)", value)
	}
	return nil
}

func checkAuthorities(file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot be read: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(content) {
		return fmt.Errorf("names %s, which has no certificate in PEM", file)
	}
	return nil
}

func checkClient(certificate, key string) error {
	if certificate == "" || key == "" {
		return fmt.Errorf("goes together with CLIENT_KEY: set both, or neither")
	}
	if _, err := tls.LoadX509KeyPair(certificate, key); err != nil {
		return fmt.Errorf("cannot be used with CLIENT_KEY: %w", err)
	}
	return nil
}

// checkPairs checks a list such as a=1,b=2. Its values may be credentials.
func checkPairs(value string) error {
	for i, pair := range strings.Split(value, ",") {
		name, text, found := strings.Cut(pair, "=")
		if !found || strings.TrimSpace(name) == "" || strings.ContainsAny(strings.TrimSpace(name), " \t\"") {
			return fmt.Errorf("has no name=value as its part %d: set a list such as name=value,other=value", i+1)
		}
		if _, err := url.PathUnescape(text); err != nil {
			return fmt.Errorf("has a %% in the value of its part %d that encodes nothing: write it as %%25", i+1)
		}
	}
	return nil
}

func checkCompression(value string) error {
	if value != "gzip" && value != "none" {
		return fmt.Errorf("is %q: set gzip or none", value)
	}
	return nil
}

// checkMilliseconds checks a number of milliseconds, or of spans.
func checkMilliseconds(value string) error {
	if n, err := strconv.Atoi(value); err != nil || n <= 0 {
		return fmt.Errorf("is %q: set a number above 0, times in milliseconds without a unit", value)
	}
	return nil
}

var samplers = []string{"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"}

func checkSampler(value string) error {
	if value != "" && !slices.Contains(samplers, strings.ToLower(value)) {
		return fmt.Errorf("is %q: set one of %s", value, strings.Join(samplers, ", "))
	}
	return nil
}

func checkRatio(value string) error {
	if value == "" {
		return nil
	}
	if ratio, err := strconv.ParseFloat(value, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
		return fmt.Errorf("is %q: set a number from 0 to 1", value)
	}
	return nil
}
