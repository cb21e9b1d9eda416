package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

const metricsPage = root + "/docs/metrics.md"

// described is a metric of the program, as docs/metrics.md has it.
type described struct{ name, kind, labels, help string }

var descText = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "((?:[^"\\]|\\.)*)", unit: "", constLabels: \{[^}]*\}, variableLabels: \{([^}]*)\}\}$`)

// describe returns the metrics of Certpost's own that were registered, by name.
func (r *metricsRegistry) describe(t *testing.T) []described {
	t.Helper()
	var all []described
	for _, c := range r.own {
		kind := ""
		switch c.(type) {
		case prometheus.Histogram, *prometheus.HistogramVec:
			kind = "histogram"
		case prometheus.Gauge, *prometheus.GaugeVec:
			kind = "gauge"
		case prometheus.Counter, *prometheus.CounterVec:
			kind = "counter"
		}
		descs := make(chan *prometheus.Desc)
		go func() { c.Describe(descs); close(descs) }()
		for d := range descs {
			if !strings.HasPrefix(d.String(), `Desc{fqName: "certpost_`) {
				continue
			}
			m := descText.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("the description of a metric has another form: %s", d)
			}
			k := cmp.Or(kind, "gauge")
			if kind == "" && strings.HasSuffix(m[1], "_total") {
				k = "counter"
			}
			labels := ""
			if m[3] != "" {
				labels = "`" + strings.Join(strings.Split(m[3], ","), "` `") + "`"
			}
			all = append(all, described{m[1], k, labels, strings.ReplaceAll(m[2], `\"`, `"`)})
		}
	}
	slices.SortFunc(all, func(a, b described) int { return cmp.Compare(a.name, b.name) })
	return all
}

// TestManualMetrics: docs/metrics.md has the metrics that a running Certpost registers.
func TestManualMetrics(t *testing.T) {
	o := bareFixture(t)
	o.write("token", ingestToken)
	o.http = ", ingest: {enabled: true, tokens: [{name: ci, token: {file: " + o.path("token") + "}}]}"
	o.furnish(o.alerts(newReceiver(t)) + "outcomes: {enabled: true}\n")
	all := o.service.registry.describe(t)
	var table strings.Builder
	table.WriteString("\n| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, d := range all {
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", d.name, d.kind, d.labels, d.help)
		if suffix := strings.HasSuffix(d.name, "_total"); suffix != (d.kind == "counter") {
			t.Errorf("%s is a %s", d.name, d.kind)
		}
		if !strings.HasSuffix(d.help, ".") {
			t.Errorf("%s: its help is no sentence: %s", d.name, d.help)
		}
	}
	const begin, end = "<!-- metrics: go generate ./cmd/consumer -->\n", "<!-- end of the metrics -->\n"
	partUpToDate(t, metricsPage, begin, end, table.String())
}

// TestScrape: the metrics of what waits and of the dead letters have the values of a store with
// a mail that was sent and a dead letter.
func TestScrape(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	o.publish("sent-1", "ops")
	o.publish("dead-1", "nobody-knows")
	o.until("a mail and a letter", func() bool {
		return strings.Contains(o.scrape(), `certpost_dead_letters{code="TARGET_UNKNOWN",lane=""} 1`) && len(o.relay.Mails()) == 1
	})
	text := ""
	o.until("all of it in the metrics", func() bool {
		text = o.scrape()
		return strings.Contains(text, "certpost_event_to_accepted_seconds_count 1") && strings.Contains(text, "certpost_delivery_oldest_timestamp_seconds 0\n") && !strings.Contains(text, "certpost_last_sent_timestamp_seconds 0\n")
	})
	for _, want := range []string{
		`certpost_nats_up 1`, `certpost_events_waiting 0`, `certpost_dead_letters_unexplained 0`, `certpost_definitions_refused 0`,
		`certpost_phase_seconds_count{phase="send"} 1`, `certpost_delivery_oldest_timestamp_seconds 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	for _, positive := range []string{"certpost_store_bytes", "certpost_store_limit_bytes", "certpost_dead_letter_oldest_timestamp_seconds", "certpost_last_sent_timestamp_seconds"} {
		if !regexp.MustCompile(`(?m)^` + positive + ` [1-9]`).MatchString(text) {
			t.Errorf("%s is not above 0", positive)
		}
	}
	if !regexp.MustCompile(`(?m)^certpost_lane_processes\{lane="[^"]+"\} 1$`).MatchString(text) {
		t.Error("no lane is served")
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(text)
		}
	})
}

// scrape reads the metrics as Prometheus does.
func (o *fixture) scrape() string {
	o.t.Helper()
	answer, err := http.Get(strings.TrimSuffix(o.service.http.address(), "/") + "/metrics")
	if err != nil {
		o.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		o.t.Fatalf("GET /metrics: %s, %v", answer.Status, err)
	}
	return string(text)
}
