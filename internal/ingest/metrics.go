package ingest

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of POST /v1/events. The values of labels are bounded: the names of the
// configured senders, "" for a request without a valid proof, and fixed words.
type Metrics struct {
	requests *prometheus.CounterVec
	events   *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_ingest_requests_total",
			Help: "Requests of POST /v1/events by sender (empty if it is not known) and outcome: accepted, ignored, invalid, unauthorized, forbidden, too_large, unsupported, limited, unavailable.",
		}, []string{"sender", "outcome"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_ingest_events_total",
			Help: "Events of POST /v1/events by sender and outcome: stored, duplicate (the stream had it already), failed (the sender was told to send it again).",
		}, []string{"sender", "outcome"}),
	}
	reg.MustRegister(m.requests, m.events)
	return m
}

// outcomes are the words for the statuses of answers.
var outcomes = map[int]string{
	http.StatusAccepted: "accepted", http.StatusOK: "ignored", http.StatusBadRequest: "invalid", http.StatusUnauthorized: "unauthorized", http.StatusForbidden: "forbidden",
	http.StatusRequestEntityTooLarge: "too_large", http.StatusUnsupportedMediaType: "unsupported", http.StatusTooManyRequests: "limited", http.StatusServiceUnavailable: "unavailable",
}

// start makes the series that alerts compare with, at 0.
func (m *Metrics) start(senders []Sender) {
	for _, s := range senders {
		for _, outcome := range []string{"accepted", "invalid", "limited", "unavailable"} {
			m.requests.WithLabelValues(s.Name, outcome)
		}
		for _, outcome := range []string{"stored", "duplicate", "failed"} {
			m.events.WithLabelValues(s.Name, outcome)
		}
	}
	m.requests.WithLabelValues("", outcomes[http.StatusUnauthorized])
}

func (m *Metrics) answered(s *Sender, status int) {
	name := ""
	if s != nil {
		name = s.Name
	}
	m.requests.WithLabelValues(name, outcomes[status]).Inc()
}

func (m *Metrics) published(s *Sender, outcome string) {
	m.events.WithLabelValues(s.Name, outcome).Inc()
}
