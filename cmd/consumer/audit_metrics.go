package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/certpost/certpost/internal/broker"
)

// auditMetrics registers the metric of the audit's integrity and returns what counts a break.
func auditMetrics(registry prometheus.Registerer) func(broker.AuditFinding) {
	breaks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "certpost_audit_breaks_total", Help: "Places where the audit or the ledger is not what Certpost wrote. Alert on any.",
	}, []string{"where"})
	registry.MustRegister(breaks)
	for _, where := range []string{"audit", "ledger"} {
		breaks.WithLabelValues(where) // 0 from the start, so that an alert sees the first one
	}
	return func(f broker.AuditFinding) { breaks.WithLabelValues(f.Where).Inc() }
}
