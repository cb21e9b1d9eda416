package outcome

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of outcomes. The values of labels are types and the names of configured webhooks.
type Metrics struct {
	published *prometheus.CounterVec
	late      prometheus.Gauge
	posts     *prometheus.CounterVec
	waiting   *prometheus.GaugeVec
	retrying  *prometheus.GaugeVec
	dropped   *prometheus.GaugeVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_outcomes_published_total", Help: "Outcomes that this process has published to CERTPOST_OUTCOMES, by type; only with the section outcomes.",
		}, []string{"type"}),
		late: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "certpost_outcomes_behind_seconds", Help: "Age of the oldest outcome when this process published it last; 0 if none waits. Alert on more than 60.",
		}),
		posts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certpost_outcome_posts_total", Help: "Requests of this process to webhooks of outcomes, by webhook and result: ok, failed.",
		}, []string{"webhook", "result"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certpost_outcome_webhook_waiting", Help: "Outcomes that a webhook does not have yet.",
		}, []string{"webhook"}),
		retrying: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certpost_outcome_webhook_retrying", Help: "Those of certpost_outcome_webhook_waiting that the receiver did not take and that are tried again. 0 and many waiting: the webhook is paused or slow.",
		}, []string{"webhook"}),
		dropped: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certpost_outcome_webhook_dropped", Help: "Outcomes that a webhook will never get, because the limits of CERTPOST_OUTCOMES have removed them first. Alert on any.",
		}, []string{"webhook"}),
	}
	reg.MustRegister(m.published, m.late, m.posts, m.waiting, m.retrying, m.dropped)
	for _, t := range Types() {
		m.published.WithLabelValues(string(t))
	}
	return m
}

func (m *Metrics) publish(t Type) { m.published.WithLabelValues(string(t)).Inc() }

func (m *Metrics) behind(late time.Duration) { m.late.Set(max(late, 0).Seconds()) }

func (m *Metrics) post(webhook string, failed bool) {
	result := "ok"
	if failed {
		result = "failed"
	}
	m.posts.WithLabelValues(webhook, result).Inc()
}
