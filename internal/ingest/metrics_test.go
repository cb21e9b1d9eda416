package ingest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/certpost/certpost/internal/apiproblem"
)

// Requests and events are counted by sender; whoever is not known has no name in a label.
func TestMetrics(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	token := bearer(ciToken)
	h.post("/v1/events", bare("one", ops), token)
	h.post("/v1/events", bare("one", ops), token)
	h.post("/v1/events", "{", token)
	h.post("/v1/events", bare("x", ops), bearer("canary-of-a-stranger"))
	h.post("/v1/events", bare("x", ops), "X-Hub-Signature-256: sha256=00")
	h.post("/v1/events", bare("x", ops), token, "Content-Type: text/plain")
	revoked := `{"status": "Revoked", "pem": "x"}`
	h.post("/v1/events", revoked, "X-Hub-Signature-256: sha256="+hex.EncodeToString(mac([]byte(hubSecret), []byte(revoked))))
	h.failure = errors.New("no responders")
	h.post("/v1/events", bare("two", ops), token)

	w := httptest.NewRecorder()
	promhttp.HandlerFor(h.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	lines := strings.Split(w.Body.String(), "\n")
	for _, want := range []string{
		`certpost_ingest_requests_total{outcome="accepted",sender="ci"} 2`,
		`certpost_ingest_requests_total{outcome="invalid",sender="ci"} 1`,
		`certpost_ingest_requests_total{outcome="unavailable",sender="ci"} 1`,
		`certpost_ingest_requests_total{outcome="unauthorized",sender=""} 2`,
		`certpost_ingest_requests_total{outcome="unsupported",sender=""} 1`,
		`certpost_ingest_requests_total{outcome="ignored",sender="hub"} 1`,
		`certpost_ingest_requests_total{outcome="accepted",sender="hub"} 0`,
		`certpost_ingest_events_total{outcome="stored",sender="ci"} 1`,
		`certpost_ingest_events_total{outcome="duplicate",sender="ci"} 1`,
		`certpost_ingest_events_total{outcome="failed",sender="ci"} 1`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %s in\n%s", want, w.Body)
		}
	}
}

// step-ca signs every request, with an empty secret if it has none: a client certificate is then
// the proof. One that is nobody's does not spoil a good signature.
func TestCertificateBesideASignature(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	send := func(san string, header ...string) int {
		r := httptest.NewRequest(http.MethodPost, "/v1/events", strings.NewReader(bare(san, "")))
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{DNSNames: []string{san}}}}
		r.Header.Set("Content-Type", "application/json")
		for _, line := range header {
			name, value, _ := strings.Cut(line, ": ")
			r.Header.Set(name, value)
		}
		status, _ := h.serve(r)
		return status
	}
	unsigned := "X-Smallstep-Signature: " + hex.EncodeToString(mac(nil, []byte(bare("web1.example.com", ""))))
	for _, c := range []struct {
		san, header string
		want        int
	}{
		{"web1.example.com", unsigned, 202},
		{"web1.example.com", "X-Request-Id: 1", 202},
		{"web2.example.com", unsigned, 401},
		{"web2.example.com", "X-Request-Id: 1", 401},
		{"web2.example.com", bearer(ciToken), 400}, // ci names targets
	} {
		if got := send(c.san, c.header); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	body := `{"status": "Revoked", "pem": "x"}`
	r := httptest.NewRequest(http.MethodPost, "/v1/events", strings.NewReader(body))
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{DNSNames: []string{"web2.example.com"}}}}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac([]byte(hubSecret), []byte(body))))
	if status, text := h.serve(r); status != 200 {
		t.Errorf("%d %s", status, text)
	}
}

// Who a token or certificate belongs to can be asked; nobody else learns anything.
func TestKnown(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, c := range []struct {
		header, san string
		status      int
		body        string
	}{
		{header: bearer(ciToken), status: 200, body: `{"sender":"ci"}`},
		{san: "web1.example.com", status: 200, body: `{"sender":"web1"}`},
		{header: bearer("canary-of-a-stranger"), status: 401},
		{san: "web2.example.com", status: 401},
		{header: "X-Hub-Signature-256: sha256=" + hex.EncodeToString(mac([]byte(hubSecret))), status: 401},
		{status: 401},
		{header: "Sec-Fetch-Site: cross-site", san: "web1.example.com", status: 403},
	} {
		r := httptest.NewRequest(http.MethodGet, "/v1/events", nil)
		if c.san != "" {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{DNSNames: []string{c.san}}}}
		}
		if name, value, found := strings.Cut(c.header, ": "); found {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		h.handler.Known(w, r)
		if got := strings.TrimSpace(w.Body.String()); w.Code != c.status || c.body != "" && got != c.body || c.body == "" && (w.Header().Get("Content-Type") != apiproblem.Type || !strings.Contains(got, `"detail":"`)) {
			t.Errorf("%+v: %d %s", c, w.Code, got)
		}
	}
}
