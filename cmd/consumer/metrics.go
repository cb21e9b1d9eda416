package main

import (
	"context"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/secrets"
)

// metricsRegistry is the registry of all metrics, and knows what was registered: docs/metrics.md
// is written from that.
type metricsRegistry struct {
	*prometheus.Registry
	own []prometheus.Collector
}

// MustRegister registers the metrics; names that are taken panic.
func (r *metricsRegistry) MustRegister(all ...prometheus.Collector) {
	r.Registry.MustRegister(all...)
	r.own = append(r.own, all...)
}

// scrapePatience bounds what one reading of the metrics asks of NATS.
const scrapePatience = 4 * time.Second

// deskMetrics are the metrics of what waits and of the dead letters. They are read from the
// index and from NATS when a monitoring system asks, at most once a second.
type deskMetrics struct {
	desk    *desk.Desk
	broker  *broker.Broker
	auditor *broker.Auditor
	descs   map[string]*prometheus.Desc

	mu   sync.Mutex
	at   time.Time
	last []prometheus.Metric
}

// deskGauges are the gauges of deskMetrics: name, meaning, labels.
var deskGauges = []struct {
	name, help string
	labels     []string
}{
	{"certpost_nats_up", "1 if NATS answered what this reading of the metrics asked; the gauges of what waits are left out otherwise.", nil},
	{"certpost_dead_letters", "Open dead letters by code and lane; the lane is empty for letters of events.", []string{"code", "lane"}},
	{"certpost_dead_letters_unexplained", "Dead letters that are gone without a record. Alert on any that stay for a minute.", nil},
	{"certpost_dead_letter_oldest_timestamp_seconds", "When the oldest open dead letter was written, in seconds since 1970; 0 if there is none.", nil},
	{"certpost_dead_letter_soonest_expiry_timestamp_seconds", "When the first certificate of an open dead letter expires that no newer one supersedes, in seconds since 1970; 0 if there is none.", nil},
	{"certpost_events_waiting", "Events that are not fanned out yet.", nil},
	{"certpost_deliveries_waiting", "Deliveries of the lane that are neither settled nor in flight.", []string{"lane"}},
	{"certpost_deliveries_in_flight", "Deliveries of the lane that are being attempted, by all processes.", []string{"lane"}},
	{"certpost_delivery_oldest_timestamp_seconds", "When the oldest delivery that is not settled was published, in seconds since 1970; 0 if there is none.", nil},
	{"certpost_lane_processes", "Processes that serve the lane. Alert on 0 while deliveries wait.", []string{"lane"}},
	{"certpost_last_sent_timestamp_seconds", "When a relay last accepted a mail, or a host was last deployed to, in seconds since 1970; 0 if that is not known.", nil},
	{"certpost_replay_runs", "Replay runs that are not finished.", nil},
	{"certpost_store_bytes", "Bytes that the embedded NATS has stored; absent with nats.url, whose server has metrics of its own.", nil},
	{"certpost_store_limit_bytes", "Bytes that the embedded NATS may store (nats.max_store). A full store takes no events.", nil},
	{"certpost_audit_verified_timestamp_seconds", "When this process last verified audit and ledger completely, in seconds since 1970; 0 if it has not yet.", nil},
}

func newDeskMetrics(registry prometheus.Registerer, d *desk.Desk, b *broker.Broker, a *broker.Auditor) {
	m := &deskMetrics{desk: d, broker: b, auditor: a, descs: map[string]*prometheus.Desc{}}
	for _, g := range deskGauges {
		m.descs[g.name] = prometheus.NewDesc(g.name, g.help, g.labels, nil)
	}
	registry.MustRegister(m)
}

// Describe names the metrics.
func (m *deskMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, g := range deskGauges {
		out <- m.descs[g.name]
	}
}

// Collect reads the metrics.
func (m *deskMetrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.at) > time.Second {
		m.last, m.at = m.read(), time.Now()
	}
	for _, metric := range m.last {
		out <- metric
	}
}

func (m *deskMetrics) read() (all []prometheus.Metric) {
	gauge := func(name string, value float64, labels ...string) {
		all = append(all, prometheus.MustNewConstMetric(m.descs[name], prometheus.GaugeValue, value, labels...))
	}
	gauge("certpost_audit_verified_timestamp_seconds", unix(m.auditor.State().Verified))
	if used, limit, ok := m.broker.Stored(); ok {
		gauge("certpost_store_bytes", float64(used))
		gauge("certpost_store_limit_bytes", float64(limit))
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapePatience)
	defer cancel()
	o, err := m.desk.Overview(ctx)
	if err != nil {
		m.letters(m.desk.Groups(desk.Query{}), gauge) // the index knows them without NATS
		gauge("certpost_nats_up", 0)
		return all
	}
	m.letters(o.Groups, gauge)
	gauge("certpost_nats_up", 1)
	gauge("certpost_events_waiting", float64(o.Backlog.Events))
	gauge("certpost_delivery_oldest_timestamp_seconds", unix(o.Backlog.Oldest))
	gauge("certpost_last_sent_timestamp_seconds", unix(o.LastSuccess))
	gauge("certpost_replay_runs", float64(len(o.Runs)))
	for _, l := range o.Lanes {
		gauge("certpost_deliveries_waiting", float64(l.Waiting), l.Lane)
		gauge("certpost_deliveries_in_flight", float64(l.InFlight), l.Lane)
		gauge("certpost_lane_processes", float64(l.Replicas), l.Lane)
	}
	return all
}

// letters adds the gauges of the dead letters.
func (m *deskMetrics) letters(groups []desk.Group, gauge func(name string, value float64, labels ...string)) {
	type cause struct{ code, lane string }
	open := map[cause]int{}
	var oldest, soonest time.Time
	for _, g := range groups {
		open[cause{string(g.Code), g.Lane}] += g.Count
		if oldest.IsZero() || g.First.Before(oldest) {
			oldest = g.First
		}
		if !g.SoonestExpiry.IsZero() && (soonest.IsZero() || g.SoonestExpiry.Before(soonest)) {
			soonest = g.SoonestExpiry
		}
	}
	for c, n := range open {
		gauge("certpost_dead_letters", float64(n), c.code, c.lane)
	}
	gauge("certpost_dead_letters_unexplained", float64(max(m.desk.Balance().Unexplained, 0)))
	gauge("certpost_dead_letter_oldest_timestamp_seconds", unix(oldest))
	gauge("certpost_dead_letter_soonest_expiry_timestamp_seconds", unix(soonest))
}

// unix returns a time as metrics have it; 0 for the zero time.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// buildMetric says which program it is.
func buildMetric(registry prometheus.Registerer) {
	revision := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "certpost_build_info", Help: "1, with the version of the program, of Go, and the revision of the sources.",
	}, []string{"version", "go", "revision"})
	registry.MustRegister(build)
	build.WithLabelValues(programVersion(), goVersion(), revision).Set(1)
}

// definitionMetrics says whether the target definitions in force are those on disk.
type definitionMetrics struct{ loaded, refused prometheus.Gauge }

func newDefinitionMetrics(registry prometheus.Registerer) *definitionMetrics {
	m := &definitionMetrics{
		loaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "certpost_definitions_loaded_timestamp_seconds", Help: "When the target definitions in force were read, in seconds since 1970.",
		}),
		refused: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "certpost_definitions_refused", Help: "1 while newer target definitions cannot be used and the old ones stay in force. Alert on it.",
		}),
	}
	registry.MustRegister(m.loaded, m.refused)
	m.loaded.SetToCurrentTime()
	return m
}

func (m *definitionMetrics) reloaded(c delivery.Change) {
	if c.Kept {
		m.refused.Set(1)
		return
	}
	m.refused.Set(0)
	m.loaded.SetToCurrentTime()
}

// vaultMetrics are the metrics of the requests to Vault.
type vaultMetrics struct {
	store          *secrets.Store
	requests, ends *prometheus.Desc
}

func newVaultMetrics(registry prometheus.Registerer, store *secrets.Store) {
	registry.MustRegister(&vaultMetrics{
		store: store,
		requests: prometheus.NewDesc("certpost_vault_requests_total",
			"Requests to Vault by operation (login, token, read, write) and outcome: ok, not_found, denied, refused, unavailable, abandoned.",
			[]string{"operation", "outcome"}, nil),
		ends: prometheus.NewDesc("certpost_vault_token_expiry_timestamp_seconds",
			"When the token for Vault ends if it is not renewed, in seconds since 1970; 0 if there is none, or it does not end.", nil, nil),
	})
}

// Describe names the metrics.
func (m *vaultMetrics) Describe(out chan<- *prometheus.Desc) { out <- m.requests; out <- m.ends }

// Collect reads the metrics.
func (m *vaultMetrics) Collect(out chan<- prometheus.Metric) {
	for kind, n := range m.store.Requests() {
		out <- prometheus.MustNewConstMetric(m.requests, prometheus.CounterValue, float64(n), kind.Operation, kind.Outcome)
	}
	out <- prometheus.MustNewConstMetric(m.ends, prometheus.GaugeValue, unix(m.store.TokenEnds()))
}
