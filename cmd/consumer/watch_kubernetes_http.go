package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// kubeOverdue is how long something may wait before the watcher is not ready.
const kubeOverdue = time.Minute

type kubeMetrics struct {
	registry            *prometheus.Registry
	published, failures prometheus.Counter
	lost                *prometheus.CounterVec
}

func newKubeMetrics(w *kubeWatcher) kubeMetrics {
	m := kubeMetrics{
		registry:  prometheus.NewRegistry(),
		published: prometheus.NewCounter(prometheus.CounterOpts{Name: "certpost_watch_published_total", Help: "Events that this watcher has published."}),
		failures:  prometheus.NewCounter(prometheus.CounterOpts{Name: "certpost_watch_failures_total", Help: "Attempts to publish that failed because NATS or Vault did not take it."}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "certpost_watch_unpublished_total",
			Help: "Certificates whose secret was replaced or deleted before they could be published."}, []string{"reason"}),
	}
	for _, how := range []string{"replaced", "deleted"} {
		m.lost.WithLabelValues(how)
	}
	m.registry.MustRegister(m.published, m.failures, m.lost, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
	}
	for _, state := range []kubeState{kubeWaiting, kubePublished, kubeRefused} {
		gauge("certpost_watch_secrets", "Secrets by what became of their certificate; of the leader.", prometheus.Labels{"state": string(state)},
			func() float64 { return float64(w.counts()[state]) })
	}
	gauge("certpost_watch_leader", "1 if this replica publishes.", nil, func() float64 { return oneIf(w.health().Role == kubeLeading) })
	gauge("certpost_watch_ready", "1 if /readyz answers 200.", nil, func() float64 { return oneIf(w.health().Status == healthy) })
	gauge("certpost_watch_oldest_timestamp_seconds", "Since when the oldest certificate waits for its publication; 0 if none does.", nil,
		func() float64 { return unixOrZero(w.health().oldest) })
	return m
}

func unixOrZero(at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return float64(at.UnixMilli()) / 1000
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// kubeHealth is the answer of /healthz. It has no names and addresses: the log has them.
type kubeHealth struct {
	Status  string            `json:"status"` // healthy or unhealthy
	Role    string            `json:"role"`   // leading or standby
	Secrets map[kubeState]int `json:"secrets"`
	Reasons []string          `json:"reasons,omitempty"`

	oldest time.Time // since when it waits
}

func (w *kubeWatcher) health() kubeHealth {
	h := kubeHealth{Status: healthy, Secrets: w.counts()}
	w.mu.Lock()
	defer w.mu.Unlock()
	h.Role = w.role
	for _, s := range w.secrets {
		if s.state == kubeWaiting && (h.oldest.IsZero() || s.since.Before(h.oldest)) {
			h.oldest = s.since
		}
	}
	switch {
	case w.trouble != "":
		h.Reasons = append(h.Reasons, "Kubernetes cannot be watched: the log says why")
	case w.role == "":
		h.Reasons = append(h.Reasons, "the connection to Kubernetes begins")
	case w.role == kubeLeading && !w.complete:
		h.Reasons = append(h.Reasons, "the secrets are being read")
	}
	if waits := time.Since(h.oldest); !h.oldest.IsZero() && waits > kubeOverdue {
		h.Reasons = append(h.Reasons, fmt.Sprintf("%s, the oldest for %s: the log says why", count(h.Secrets[kubeWaiting], "certificate waits", "certificates wait"), waits.Round(time.Second)))
	}
	if len(h.Reasons) > 0 {
		h.Status = unhealthy
	}
	return h
}

// listen serves health and metrics until the returned function is called.
func (w *kubeWatcher) listen(ctx context.Context) (stop func(), err error) {
	if w.cmd.Listen == "none" || w.cmd.Once {
		return func() {}, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", w.cmd.Listen)
	if err != nil {
		return nil, usage("--listen: %w", err)
	}
	server := &http.Server{Handler: w.handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			w.log.Error().Err(err).Msg("health and metrics are not served any more")
		}
	}()
	w.log.Info().Stringer("address", l.Addr()).Msg("health and metrics")
	return func() { _ = server.Close() }, nil
}

func (w *kubeWatcher) handler() http.Handler {
	mux := http.NewServeMux()
	answer := func(out http.ResponseWriter, status string, text string) {
		out.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if status != healthy {
			out.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(out, text)
	}
	mux.HandleFunc("GET /livez", func(out http.ResponseWriter, _ *http.Request) { answer(out, healthy, "alive") })
	mux.HandleFunc("GET /readyz", func(out http.ResponseWriter, _ *http.Request) {
		h := w.health()
		text := "ready"
		if h.Status != healthy {
			text = "not ready"
		}
		answer(out, h.Status, text)
	})
	mux.HandleFunc("GET /healthz", func(out http.ResponseWriter, _ *http.Request) {
		h := w.health()
		out.Header().Set("Content-Type", "application/json")
		if h.Status != healthy {
			out.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(out).Encode(h)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}
