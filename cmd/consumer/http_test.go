package main

import (
	"context"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// ask makes a request to the running service.
func (o *fixture) ask(method, path string) (*http.Response, string) {
	o.t.Helper()
	req, err := http.NewRequestWithContext(o.t.Context(), method, o.service.http.address()+path, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return resp, string(body)
}

type healthAnswer struct {
	Status, Version string
	Checks          []check
}

func TestHealth(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "delivery: {retry: {initial: 100ms}}\n")
	for path, want := range map[string]string{"/livez": "alive\n", "/readyz": "ready\n"} {
		if resp, body := o.ask("GET", path); resp.StatusCode != http.StatusOK || body != want || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
	if resp, body := o.ask("GET", "/"); resp.StatusCode != http.StatusOK || !strings.Contains(body, "<title>Overview") || resp.Header.Get("X-Frame-Options") != "DENY" {
		t.Errorf("/: %d %.100s", resp.StatusCode, body)
	}
	for path, status := range map[string]int{"/absent": http.StatusNotFound, "/healthz/x": http.StatusNotFound} {
		if resp, _ := o.ask("GET", path); resp.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, status)
		}
	}
	if resp, _ := o.ask("POST", "/readyz"); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /readyz: %d", resp.StatusCode)
	}

	resp, body := o.ask("GET", "/healthz")
	answer := read[healthAnswer](t, body)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" || answer.Status != healthy || answer.Version == "" || len(answer.Checks) != 6 {
		t.Errorf("/healthz: %d %s", resp.StatusCode, body)
	}
	for i, name := range []string{"nats", "vault", "relays", "queue", "audit", "spool"} {
		if c := answer.Checks[i]; c.Name != name || c.Status != healthy || c.Message != "" || len(c.Tags) != 1 || c.Tags[0] != map[string]string{"nats": "nats", "vault": "vault", "relays": "relay", "queue": "nats", "audit": "audit", "spool": "nats"}[name] {
			t.Errorf("/healthz: %+v", c)
		}
	}

	// A relay that is down means degraded; the process stays ready.
	o.write("targets.yaml", "targets:\n  - {id: away, host: 127.0.0.1, port: "+port(lab.FreeAddress(t))+", from_address: a@demo.example, to: [b@demo.example]}\n")
	o.until("the new definition", func() bool { _, ok := o.service.cfg.Book.Current().Get("away"); return ok })
	for _, id := range []string{"one", "two", "three"} {
		o.publish(id, "away")
	}
	o.until("degraded", func() bool {
		_, body = o.ask("GET", "/healthz")
		return read[healthAnswer](t, body).Status == degraded
	})
	if answer := read[healthAnswer](t, body); answer.Checks[2].Status != degraded || !strings.HasPrefix(answer.Checks[2].Message, "no answer from the relay of lane 127_0_0_1-") {
		t.Errorf("/healthz: %s", body)
	}
	if resp, body := o.ask("GET", "/readyz"); resp.StatusCode != http.StatusOK || body != "ready\n" {
		t.Errorf("/readyz without a relay: %d %q", resp.StatusCode, body)
	}
	if backlog, err := o.service.broker.Backlog(t.Context()); err != nil || backlog.Deliveries != 3 || backlog.Dead != 0 {
		t.Errorf("backlog %+v, %v", backlog, err)
	}
}

// Without NATS nothing is delivered: not ready, with the reason.
func TestHealthWithoutStreams(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	o.service.broker.Close()
	o.until("unready", func() bool {
		resp, _ := o.ask("GET", "/readyz")
		return resp.StatusCode == http.StatusServiceUnavailable
	})
	if _, body := o.ask("GET", "/readyz"); !strings.HasPrefix(body, "not ready: nats: not connected to NATS at nats://127.0.0.1:") {
		t.Errorf("/readyz: %q", body)
	}
	if resp, body := o.ask("GET", "/healthz"); resp.StatusCode != http.StatusServiceUnavailable || read[healthAnswer](t, body).Status != unhealthy {
		t.Errorf("/healthz: %d %q", resp.StatusCode, body)
	}
	if resp, _ := o.ask("GET", "/livez"); resp.StatusCode != http.StatusOK {
		t.Errorf("/livez: %d: a restart would not bring NATS back", resp.StatusCode)
	}
}

// A client that disconnects does not make the process unready for the others.
func TestHealthWithoutPatience(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	h := &health{s: o.service}
	h.examine(gone)
	for _, c := range h.examine(t.Context()) {
		if c.Status != healthy {
			t.Errorf("%+v", c)
		}
	}
}

// Without access /readyz says that it is not ready, but names no hosts.
func TestReadinessForStrangers(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	o.http = ", url: \"http://localhost\", metrics_token: {file: " + o.path("token") + "}, sign_in: {users: [{name: ada, password_hash: \"" + hashFor(t, "x") + "\", role: viewer}]}"
	o.write("token", "0123456789abcdef")
	o.furnish("")
	o.service.broker.Close()
	readyz := func(header, value string) string {
		req, err := http.NewRequestWithContext(t.Context(), "GET", o.service.http.address()+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(header, value)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
			return ""
		}
		return string(body)
	}
	o.until("unready", func() bool { return readyz("X-Forwarded-For", "198.51.100.1") != "" })
	if got := readyz("X-Forwarded-For", "198.51.100.1"); got != "not ready: nats\n" {
		t.Errorf("without access: %q", got)
	}
	if got := readyz("Authorization", "Bearer 0123456789abcdef"); !strings.HasPrefix(got, "not ready: nats: not connected to NATS at nats://127.0.0.1:") {
		t.Errorf("with the token: %q", got)
	}
}

// The demo's inbox holds mails with keys, so other sites must not read it.
func TestLocalPages(t *testing.T) {
	t.Parallel()
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "mails") })
	for _, test := range []struct {
		listen, host string
		want         int
	}{
		{"127.0.0.1:8025", "127.0.0.1:8025", 200}, {"127.0.0.1:8025", "localhost:8025", 200}, {"127.0.0.1:8025", "evil.example:8025", 421}, {"127.0.0.1:8025", "", 421},
		{"0.0.0.0:8025", "container.example:8025", 200},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.Host = test.host
		w := httptest.NewRecorder()
		if local(test.listen, page).ServeHTTP(w, r); w.Code != test.want || (w.Body.String() == "mails") != (test.want == 200) {
			t.Errorf("%+v: %d %s", test, w.Code, w.Body)
		}
	}
}

// The standard library's log goes to Certpost's: lines of JSON, with the stack of a panic
// but not its value.
func TestServerLog(t *testing.T) {
	t.Parallel()
	log := &writings{}
	server := stdlog.New(httpLog{zerolog.New(log).Level(zerolog.InfoLevel)}, "", 0)
	server.Printf("http: TLS handshake error from 198.51.100.1:4711: EOF")
	if got := log.String(); got != "" {
		t.Errorf("of a handshake: %s", got)
	}
	server.Printf("http: panic serving 198.51.100.1:4711: canary\ngoroutine 1 [running]:\nmain.main()")
	if got := log.String(); !strings.Contains(got, `"level":"error"`) || !strings.Contains(got, `goroutine 1 [running]:\nmain.main()`) || strings.Contains(got, "canary") {
		t.Errorf("of a panic: %s", got)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	o.publish("one", "ops", "nobody")
	o.publish("two", "absent-target")
	o.publishRaw("certificate.issued", `{"id": "three"}`)
	o.settled()
	o.until("the last count", func() bool {
		_, body := o.ask("GET", "/metrics")
		return strings.Contains(body, `certpost_events_total{outcome="invalid"} 1`) && strings.Contains(body, `state="dead"} 1`) && strings.Contains(body, `state="sent"} 1`)
	})
	resp, body := o.ask("GET", "/metrics")
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Errorf("/metrics: %d %s", resp.StatusCode, resp.Header)
	}
	lane := `localhost-` + port(o.relay.Submission())
	for _, line := range []string{
		`certpost_events_total{outcome="fanned_out"} 2`,
		`certpost_attempts_total{code="ok",lane="` + lane + `"} 1`,
		`certpost_attempts_total{code="` + string(verdict.SMTPPermanent) + `",lane="` + lane + `"} 1`,
		`certpost_deliveries_settled_total{lane="` + lane + `",state="sent"} 1`,
		`certpost_deliveries_settled_total{lane="` + lane + `",state="dead"} 1`,
		`certpost_possible_duplicates_total 0`, `certpost_dead_letter_failures_total 0`, `certpost_panics_total 0`,
		`certpost_delivery_seconds_count{state="sent"} 1`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no line %s in\n%s", line, regexp.MustCompile(`(?m)^certpost_.*\n`).FindAllString(body, -1))
		}
	}
	// Labels are limited in number, and do not reveal who gets which certificate.
	for _, private := range []string{"demo.example", "@", relayPassword, p12Passphrase, "www.example.com", "absent-target", "nobody", `"ops"`, `"one"`} {
		for _, line := range regexp.MustCompile(`(?m)^certpost_.*`).FindAllString(body, -1) {
			if strings.Contains(line, private) {
				t.Errorf("%q is in the metrics: %s", private, line)
			}
		}
	}
}
