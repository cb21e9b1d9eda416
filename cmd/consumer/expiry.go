package main

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/certpost/certpost/internal/delivery"
)

// expiresSoon is how long before its end `check` warns of a certificate. For the running program
// it is the default of health.expiry_warning.
const expiresSoon = 30 * 24 * time.Hour

// HealthConfig is the section health.
type HealthConfig struct {
	// ExpiryWarning is how long before their end certificates and recipients' keys are reported: in
	// the log, and on /healthz (tag tls) as degraded; once they have expired, as unhealthy.
	ExpiryWarning time.Duration `yaml:"expiry_warning" min:"1h" max:"8760h"`
}

// expiry is the health of what ends at a time: unhealthy afterwards, degraded within the warning.
func expiry(end, now time.Time, warning time.Duration) string {
	switch {
	case end.IsZero():
		return healthy
	case !now.Before(end):
		return unhealthy
	case end.Sub(now) < warning:
		return degraded
	}
	return healthy
}

// worse returns the worse of two states.
func worse(a, b string) string {
	if a == unhealthy || b == unhealthy {
		return unhealthy
	}
	if a == degraded || b == degraded {
		return degraded
	}
	return healthy
}

// shownProblems is how many certificates or keys a check on /healthz names.
const shownProblems = 5

// relayCertificates is the check of the certificates that relays have shown in their last handshakes
// with this process; there is false if none has.
func relayCertificates(all []delivery.RelayCertificate, now time.Time, warning time.Duration) (c check, there bool) {
	c = check{Name: "relay_certificates", Tags: []string{"tls"}, Status: healthy}
	var texts []string
	for _, r := range all {
		status := expiry(r.Expires, now, warning)
		if status == healthy {
			continue
		}
		ends := "expires"
		if status == unhealthy {
			ends = "expired"
		}
		c.Status = worse(c.Status, status)
		if len(texts) < shownProblems {
			texts = append(texts, "relay "+r.Relay+": "+r.Name+" "+ends+" "+when(r.Expires)+" (seen "+when(r.Seen)+")")
		}
	}
	c.Message = strings.Join(texts, "; ")
	return c, len(all) > 0
}

// expiryMetrics has the ends of the certificates of relays and of our own servers. They are read when
// Prometheus asks.
type expiryMetrics struct {
	relays  func() []delivery.RelayCertificate
	servers func() []*serverCertificate // nil ones are left out
	relay   *prometheus.Desc
	server  *prometheus.Desc
}

func newExpiryMetrics(relays func() []delivery.RelayCertificate, servers func() []*serverCertificate) *expiryMetrics {
	return &expiryMetrics{relays: relays, servers: servers,
		relay: prometheus.NewDesc("certpost_relay_certificate_expiry_timestamp_seconds",
			"When the certificate expires that a relay has shown in the last handshake with this process, in seconds since 1970.", []string{"relay"}, nil),
		server: prometheus.NewDesc("certpost_server_certificate_expiry_timestamp_seconds",
			"When the certificate of one of Certpost's own servers expires, in seconds since 1970.", []string{"server"}, nil)}
}

// Describe implements prometheus.Collector.
func (m *expiryMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.relay; ch <- m.server }

// Collect implements prometheus.Collector.
func (m *expiryMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, r := range m.relays() {
		ch <- prometheus.MustNewConstMetric(m.relay, prometheus.GaugeValue, float64(r.Expires.Unix()), r.Relay)
	}
	for _, c := range m.servers() {
		if c != nil {
			ch <- prometheus.MustNewConstMetric(m.server, prometheus.GaugeValue, float64(c.leaf().NotAfter.Unix()), c.use.section)
		}
	}
}
