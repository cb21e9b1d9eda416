package queue

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/certpost/certpost/internal/verdict"
)

// Metrics are the queue's metrics. The values of labels are bounded: lanes, codes and
// fixed words, never addresses or texts.
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
	standstill         *prometheus.GaugeVec
	recovered          *prometheus.CounterVec
	duration           *prometheus.HistogramVec
}

// NewMetrics registers the queue's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_events_total", Help: "Handled events by outcome: fanned_out, invalid, unmatched, retried.",
		}, []string{"outcome"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_attempts_total", Help: "Delivery attempts by lane and code; the code is ok when the relay accepted the mail.",
		}, []string{"lane", "code"}),
		settled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_deliveries_settled_total", Help: "Settled deliveries by lane and state: sent, dead, duplicate, skipped.",
		}, []string{"lane", "state"}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "certpost_possible_duplicates_total", Help: "Mails sent although the outcome of an earlier attempt was unknown.",
		}),
		deadLetterFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "certpost_dead_letter_failures_total", Help: "Failures to store a dead letter; the delivery or event is retried. Alert on any.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "certpost_panics_total", Help: "Panics recovered while handling a message; each is a defect. Alert on any.",
		}),
		breakerOpen: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_breaker_opened_total", Help: "Number of times that a breaker of the lane's relays opened.",
		}, []string{"lane"}),
		breaker: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certpost_breaker_state", Help: "Breakers of the lane's relays: 0 all closed, 1 some closed, 2 none closed.",
		}, []string{"lane"}),
		paused: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certpost_lane_paused", Help: "1 while nothing is fetched from the lane for this reason: suspended, breaker, relay_limit, rate, connections.",
		}, []string{"lane", "reason"}),
		standstill: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certpost_standstill", Help: "Number of standstills of this part of the work: events or deliveries have not moved for a minute. Alert on any.",
		}, []string{"part"}),
		recovered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_recovered_total", Help: "Deliveries and dead letters that the streams had lost and that were stored again. Alert on any.",
		}, []string{"what"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "certpost_delivery_seconds", Help: "Seconds from the publication of a delivery to its settling, by state.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 300, 3600, 86400},
		}, []string{"state"}),
	}
	reg.MustRegister(m.events, m.attempts, m.settled, m.duplicates, m.deadLetterFailures, m.panics, m.breakerOpen, m.breaker, m.paused, m.standstill, m.recovered, m.duration)
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
