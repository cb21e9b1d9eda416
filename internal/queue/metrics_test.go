package queue

import (
	"crypto/x509"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/certpost/certpost/internal/verdict"
)

// value returns the sum of a metric's series that have the labels.
func value(t *testing.T, reg *prometheus.Registry, name string, labels map[string]string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			same := 0
			for _, l := range m.GetLabel() {
				if labels[l.GetName()] == l.GetValue() {
					same++
				}
			}
			if same < len(labels) {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// TestFailedAttemptsAreCounted: a failed attempt is counted by where and how it failed.
func TestFailedAttemptsAreCounted(t *testing.T) {
	t.Parallel()
	tls := func(phase verdict.Phase, cause error) *verdict.Failure {
		return &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTLS, Phase: phase}, Cause: cause}
	}
	for name, c := range map[string]struct {
		failure *verdict.Failure
		metric  string
		labels  map[string]string
	}{
		"refused": {&verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPPermanent, Phase: verdict.PhaseRcpt, ReplyCode: 550}},
			"certpost_attempt_failures_total", map[string]string{"lane": "l", "phase": "rcpt", "reply": "5xx"}},
		"later": {&verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseMail, ReplyCode: 451}},
			"certpost_attempt_failures_total", map[string]string{"lane": "l", "phase": "mail", "reply": "4xx"}},
		"a reply that is none": {&verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseMail, ReplyCode: 999}},
			"certpost_attempt_failures_total", map[string]string{"lane": "l", "phase": "mail", "reply": "none"}},
		"lost after the content": {&verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPConnect, Phase: verdict.PhaseContent, Certainty: verdict.MaybeSent}},
			"certpost_unknown_outcomes_total", map[string]string{"lane": "l"}},
		"not offered": {tls(verdict.PhaseSTARTTLS, nil), "certpost_tls_failures_total", map[string]string{"kind": "not_offered"}},
		"expired": {tls(verdict.PhaseTLS, fmt.Errorf("tls: %w", x509.CertificateInvalidError{Reason: x509.Expired})),
			"certpost_tls_failures_total", map[string]string{"kind": "expired"}},
		"name":      {tls(verdict.PhaseTLS, fmt.Errorf("tls: %w", x509.HostnameError{Certificate: &x509.Certificate{}})), "certpost_tls_failures_total", map[string]string{"kind": "name"}},
		"authority": {tls(verdict.PhaseTLS, fmt.Errorf("tls: %w", x509.UnknownAuthorityError{})), "certpost_tls_failures_total", map[string]string{"kind": "authority"}},
		"other":     {tls(verdict.PhaseTLS, io.EOF), "certpost_tls_failures_total", map[string]string{"kind": "other"}},
	} {
		reg := prometheus.NewRegistry()
		NewMetrics(reg).attempt("l", nil, c.failure)
		if got := value(t, reg, c.metric, c.labels); got != 1 {
			t.Errorf("%s: %s%v is %v, want 1", name, c.metric, c.labels, got)
		}
	}
}

// TestTimeFromTheEvent: the time from the event counts once it is known, and never below 0.
func TestTimeFromTheEvent(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	m.accepted(time.Time{}, &verdict.Receipt{})
	m.accepted(time.Now(), nil)
	if got := value(t, reg, "certpost_event_to_accepted_seconds", nil); got != 0 {
		t.Errorf("%v times were counted that are not known", got)
	}
	m.accepted(time.Now().Add(time.Hour), &verdict.Receipt{At: time.Now()}) // another clock
	m.accepted(time.Now().Add(-time.Minute), &verdict.Receipt{})
	if got := value(t, reg, "certpost_event_to_accepted_seconds", nil); got != 2 {
		t.Errorf("%v times were counted, want 2", got)
	}
}
