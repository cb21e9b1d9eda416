package main

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/delivery"
)

// What relays show in their handshakes is on /healthz and in the metrics, with the warning of the
// configuration.
func TestRelayCertificatesAreWatched(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	o.furnish("health: {expiry_warning: 8760h}\n")
	type answer struct{ Checks []check }
	look := func() (c check, there bool) {
		_, body := get(o.service, "/healthz")
		for _, c := range read[answer](t, body).Checks {
			if c.Name == "relay_certificates" {
				return c, true
			}
		}
		return c, false
	}
	if c, there := look(); there {
		t.Errorf("before any handshake: %+v", c)
	}
	o.publish("e1", "ops")
	o.settled()
	o.until("the relay's certificate is on /healthz", func() bool { _, there := look(); return there })
	if c, _ := look(); c.Status != degraded || len(c.Tags) != 1 || c.Tags[0] != "tls" || !strings.HasPrefix(c.Message, "relay localhost:") || !strings.Contains(c.Message, " expires ") {
		t.Errorf("%+v", c)
	}
	if _, text := get(o.service, "/metrics"); !strings.Contains(text, "certpost_relay_certificate_expiry_timestamp_seconds{relay=") {
		t.Error("the metric is missing")
	}
	if code, body := get(o.service, "/readyz"); code != 200 {
		t.Errorf("not ready: %s", body)
	}
}

// Every kind of certificate is healthy, then degraded within the warning, then unhealthy.
func TestExpiryOnHealthz(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	const warning = 10 * 24 * time.Hour
	keys := newKeyWatch(nil, warning, prometheus.NewRegistry(), zerolog.Nop())
	hosts := newHostWatch(nil, warning, prometheus.NewRegistry(), zerolog.Nop())
	own := issueSelfSigned(t, now.Add(-time.Hour), now.Add(20*24*time.Hour))
	server := &serverCertificate{use: dashboardTLS}
	server.current = &tls.Certificate{Leaf: own.leaf}
	for _, test := range []struct {
		left time.Duration
		want string
	}{{warning + time.Hour, healthy}, {warning - time.Hour, degraded}, {time.Second, degraded}, {0, unhealthy}, {-time.Hour, unhealthy}} {
		end := now.Add(test.left)
		keys.keys = func(context.Context) []delivery.RecipientKey {
			k := delivery.RecipientKey{Target: "ops", Address: "ops@example.com", Expires: end}
			if test.left <= 0 {
				k.Problem = "expired"
			}
			return []delivery.RecipientKey{k}
		}
		hosts.certificates = func(context.Context) []delivery.HostCertificate {
			return []delivery.HostCertificate{{Target: "mx", Where: "/x", Name: "mx", Expires: end}}
		}
		keys.look(t.Context())
		hosts.look(t.Context())
		relays, there := relayCertificates([]delivery.RelayCertificate{{Relay: "mx:25", Name: "mx", Expires: end, Seen: now}}, now, warning)
		ofKeys, thereToo := keys.health(now)
		ofHosts, thereThree := hosts.health(now)
		ofServer := server.check("tls", own.leaf.NotAfter.Add(-test.left), warning)
		for _, c := range []check{relays, ofKeys, ofHosts, ofServer} {
			if c.Status != test.want || (c.Message == "") != (test.want == healthy) || len(c.Tags) != 1 || c.Tags[0] != "tls" {
				t.Errorf("%v left: %+v, want %s", test.left, c, test.want)
			}
		}
		if !there || !thereToo || !thereThree {
			t.Errorf("%v left: a check is missing", test.left)
		}
	}
	if _, there := relayCertificates(nil, now, warning); there {
		t.Error("a check without relays")
	}
	if _, problems := load(t, "health: {expiry_warning: 5m}\n"); !strings.Contains(strings.Join(problems, "\n"), "health.expiry_warning") {
		t.Errorf("a warning of minutes: %v", problems)
	}
}
