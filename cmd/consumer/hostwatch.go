package main

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/delivery"
)

// hostWatch looks at the certificates of this mail host: when they expire, and whether the programs
// still serve what was deployed. An administrator may have restored a file, or changed a server's settings.
type hostWatch struct {
	hourly // also ordered when something was deployed, or the definitions have changed

	certificates func(context.Context) []delivery.HostCertificate
	warning      time.Duration // before the end of a certificate
	log          zerolog.Logger
	expiry       *prometheus.GaugeVec
	otherwise    *prometheus.GaugeVec

	mu   sync.Mutex
	seen []delivery.HostCertificate
	said map[string]bool // what the log has said today
}

func newHostWatch(certificates func(context.Context) []delivery.HostCertificate, warning time.Duration, registry prometheus.Registerer, log zerolog.Logger) *hostWatch {
	labels := []string{"target", "where"}
	w := &hostWatch{certificates: certificates, warning: warning, log: log, hourly: newHourly(), said: map[string]bool{},
		expiry: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "certpost_mail_host_certificate_expiry_timestamp_seconds",
			Help: "When a certificate on this mail host expires, in seconds since 1970: that of a target's file, or served at an endpoint."}, labels),
		otherwise: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "certpost_mail_host_served_otherwise",
			Help: "1 if an endpoint on this mail host does not serve the certificate of its target's file, else 0."}, labels)}
	registry.MustRegister(w.expiry, w.otherwise)
	return w
}

func (w *hostWatch) run(ctx context.Context) { w.every(ctx, w.look) }

func (w *hostWatch) look(ctx context.Context) {
	seen, now := w.certificates(ctx), time.Now()
	if ctx.Err() != nil {
		return // cut short by the end of the program
	}
	w.expiry.Reset()
	w.otherwise.Reset()
	said := map[string]bool{}
	for _, c := range seen {
		if !c.Expires.IsZero() {
			w.expiry.WithLabelValues(c.Target, c.Where).Set(float64(c.Expires.Unix()))
		}
		if !strings.HasPrefix(c.Where, "/") {
			value := 0.0
			if c.Otherwise != "" {
				value = 1
			}
			w.otherwise.WithLabelValues(c.Target, c.Where).Set(value)
		}
		if text := c.Problem(now, w.warning); text != "" {
			today := now.Format(time.DateOnly) + text
			if said[today] = true; !w.said[today] {
				w.log.Warn().Str("problem", text).Msg("a certificate on this mail host needs attention")
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.said = seen, said
}

// health is unhealthy if a certificate has expired, degraded if one expires soon or something
// else is served than was deployed. there is false if there is nothing to look at.
func (w *hostWatch) health(now time.Time) (c check, there bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c = check{Name: "mail_host_certificates", Tags: []string{"tls"}, Status: healthy}
	var texts []string
	for _, one := range w.seen {
		text := one.Problem(now, w.warning)
		if text == "" {
			continue
		}
		if c.Status == healthy {
			c.Status = degraded
		}
		if one.Expired(now) {
			c.Status = unhealthy
		}
		if len(texts) < shownProblems {
			texts = append(texts, text)
		}
	}
	c.Message = strings.Join(texts, "; ")
	return c, len(w.seen) > 0
}
