package queue

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/certpost/certpost/internal/verdict"
)

// Metrics are the broker's counters. Labels are lanes and codes, both bounded;
// never targets' addresses or texts.
type Metrics struct {
	events             *prometheus.CounterVec
	attempts           *prometheus.CounterVec
	settled            *prometheus.CounterVec
	duplicates         prometheus.Counter
	deadLetterFailures prometheus.Counter
	panics             prometheus.Counter
	breakerOpen        *prometheus.CounterVec
	breaker            *prometheus.GaugeVec
	paused             *prometheus.GaugeVec
	duration           *prometheus.HistogramVec
}

// NewMetrics registers the broker's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_events_total", Help: "Events by outcome: fanned_out, invalid, unmatched, retried.",
		}, []string{"outcome"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_attempts_total", Help: "Attempts at deliveries by lane and code; code is ok for accepted ones.",
		}, []string{"lane", "code"}),
		settled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_deliveries_settled_total", Help: "Settled deliveries by lane and state: sent, dead, duplicate.",
		}, []string{"lane", "state"}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "certpost_possible_duplicates_total", Help: "Mails sent although the outcome of an earlier try was unknown.",
		}),
		deadLetterFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "certpost_dead_letter_failures_total", Help: "Dead letters that could not be stored; the deliveries wait. Alert on any.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "certpost_panics_total", Help: "Panics contained while handling a message. Alert on any.",
		}),
		breakerOpen: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_breaker_opened_total", Help: "Times the breaker of one of the lane's relays opened.",
		}, []string{"lane"}),
		breaker: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certpost_breaker_state", Help: "Breakers of the lane's relays: 0 all closed, 1 some not closed and the lane goes on, 2 none closed.",
		}, []string{"lane"}),
		paused: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certpost_lane_paused", Help: "1 while nothing is fetched from the lane for this reason: suspended, breaker, rate, connections.",
		}, []string{"lane", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "certpost_delivery_seconds", Help: "From the delivery's first publication to its settling.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 300, 3600, 86400},
		}, []string{"state"}),
	}
	reg.MustRegister(m.events, m.attempts, m.settled, m.duplicates, m.deadLetterFailures, m.panics, m.breakerOpen, m.breaker, m.paused, m.duration)
	return m
}

func (m *Metrics) attempt(lane string, f *verdict.Failure) {
	code := "ok"
	if f != nil {
		code = string(f.Code)
	}
	m.attempts.WithLabelValues(lane, code).Inc()
}

func (m *Metrics) settle(lane, state string, since time.Time) {
	m.settled.WithLabelValues(lane, state).Inc()
	if !since.IsZero() {
		m.duration.WithLabelValues(state).Observe(time.Since(since).Seconds())
	}
}
