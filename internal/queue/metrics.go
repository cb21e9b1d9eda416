package queue

import (
	"crypto/x509"
	"errors"
	"fmt"
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
	held               *prometheus.GaugeVec
	standstill         *prometheus.GaugeVec
	recovered          *prometheus.CounterVec
	duration           *prometheus.HistogramVec
	fromEvent          prometheus.Histogram
	phases             *prometheus.HistogramVec
	failures           *prometheus.CounterVec
	tlsFailures        *prometheus.CounterVec
	unknown            *prometheus.CounterVec
	rateLeft           *prometheus.GaugeVec
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
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certpost_deliveries_held", Help: "Deployments of the lane that wait for records in DNS, as this process sees it.",
		}, []string{"lane"}),
		standstill: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certpost_standstill", Help: "Number of standstills of this part of the work: events or deliveries have not moved for a minute. Alert on any.",
		}, []string{"part"}),
		recovered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_recovered_total", Help: "Deliveries and dead letters that the streams had lost and that were stored again. Alert on any.",
		}, []string{"what"}),
		duration: prometheus.NewHistogramVec(seconds(prometheus.HistogramOpts{
			Name: "certpost_delivery_seconds", Help: "Seconds from the publication of a delivery to its settling, by state.",
		}), []string{"state"}),
		fromEvent: prometheus.NewHistogram(seconds(prometheus.HistogramOpts{
			Name: "certpost_event_to_accepted_seconds", Help: "Seconds from the publication of an event to the relay's 250 for one of its mails, or to the end of a deployment; without replays.",
		})),
		phases: prometheus.NewHistogramVec(seconds(prometheus.HistogramOpts{
			Name: "certpost_phase_seconds", Help: "Seconds that accepted mails spent in a phase: secrets, render, dial (0 on a connection that was kept), send.",
		}), []string{"phase"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_attempt_failures_total", Help: "Failed attempts by lane, phase and class of the relay's reply: 4xx, 5xx, none.",
		}, []string{"lane", "phase", "reply"}),
		tlsFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_tls_failures_total", Help: "Attempts that failed in TLS, by lane and kind: expired, authority, name, not_offered, other.",
		}, []string{"lane", "kind"}),
		unknown: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_unknown_outcomes_total", Help: "Attempts by lane whose content was sent and whose final reply was not read.",
		}, []string{"lane"}),
		rateLeft: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certpost_rate_left", Help: "Mails that a relay with a rate limit could get when this process last counted one.",
		}, []string{"relay"}),
	}
	reg.MustRegister(m.events, m.attempts, m.settled, m.duplicates, m.deadLetterFailures, m.panics, m.breakerOpen, m.breaker, m.paused, m.held, m.standstill, m.recovered, m.duration,
		m.fromEvent, m.phases, m.failures, m.tlsFailures, m.unknown, m.rateLeft)
	return m
}

// seconds gives a histogram classic buckets from 5 ms to a day, and native ones for servers
// that read them.
func seconds(o prometheus.HistogramOpts) prometheus.HistogramOpts {
	o.Buckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 300, 3600, 86400}
	o.NativeHistogramBucketFactor, o.NativeHistogramMaxBucketNumber, o.NativeHistogramMinResetDuration = 1.1, 160, time.Hour
	return o
}

// attempt counts an attempt, unless it was none: no relay was available, or it waits for records in DNS.
func (m *Metrics) attempt(lane string, receipt *verdict.Receipt, f *verdict.Failure) {
	if f != nil && (f.Untried || f.Hold != nil) {
		return
	}
	if f == nil {
		m.attempts.WithLabelValues(lane, "ok").Inc()
	} else {
		m.attempts.WithLabelValues(lane, string(f.Code)).Inc()
		m.failed(lane, f)
	}
	if receipt == nil || receipt.OnHost() {
		return
	}
	took := receipt.Timings
	m.phases.WithLabelValues("secrets").Observe(took.Secrets.Seconds())
	m.phases.WithLabelValues("render").Observe(took.Render.Seconds())
	m.phases.WithLabelValues("dial").Observe(took.Dial.Seconds())
	m.phases.WithLabelValues("send").Observe(took.Send.Seconds())
}

// failed counts a failed attempt by where and how it failed.
func (m *Metrics) failed(lane string, f *verdict.Failure) {
	reply := "none"
	if f.ReplyCode >= 400 && f.ReplyCode < 600 {
		reply = fmt.Sprintf("%dxx", f.ReplyCode/100)
	}
	m.failures.WithLabelValues(lane, string(f.Phase), reply).Inc()
	if f.Code == verdict.SMTPTLS {
		m.tlsFailures.WithLabelValues(lane, tlsKind(f)).Inc()
	}
	if f.Certainty == verdict.MaybeSent {
		m.unknown.WithLabelValues(lane).Inc()
	}
}

// tlsKind tells the failures of TLS apart that different people mend.
func tlsKind(f *verdict.Failure) string {
	var invalid x509.CertificateInvalidError
	switch {
	case f.Phase == verdict.PhaseSTARTTLS:
		return "not_offered"
	case errors.As(f.Cause, &invalid) && invalid.Reason == x509.Expired:
		return "expired"
	case errors.As(f.Cause, new(x509.HostnameError)):
		return "name"
	case errors.As(f.Cause, new(x509.UnknownAuthorityError)):
		return "authority"
	}
	return "other"
}

// accepted observes how long an event took; published is zero if that is not known.
func (m *Metrics) accepted(published time.Time, receipt *verdict.Receipt) {
	if receipt == nil || published.IsZero() {
		return
	}
	at := receipt.At
	if at.IsZero() {
		at = time.Now()
	}
	m.fromEvent.Observe(max(at.Sub(published), 0).Seconds())
}

func (m *Metrics) settle(lane, state string, since time.Time) {
	m.settled.WithLabelValues(lane, state).Inc()
	if !since.IsZero() {
		m.duration.WithLabelValues(state).Observe(time.Since(since).Seconds())
	}
}

func (m *Metrics) left(relay string, mails int) {
	m.rateLeft.WithLabelValues(relay).Set(float64(max(mails, 0)))
}
