package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"regexp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/ingest"
	"github.com/certpost/certpost/internal/secrets"
)

// IngestConfig is the section http.ingest: who may publish with POST /v1/events
// (docs/publishing.md). Names are in the log, and are unique.
type IngestConfig struct {
	// Enabled serves POST /v1/events on http.listen.
	Enabled bool `yaml:"enabled"`
	// Tokens are senders with the header Authorization: Bearer TOKEN.
	Tokens []IngestToken `yaml:"tokens"`
	// HMAC are senders who sign the body.
	HMAC []IngestHMAC `yaml:"hmac"`
	// Certificates are senders with a client certificate; requires client_ca_file and http.tls.
	Certificates []IngestCertificate `yaml:"certificates"`
	// ClientCAFile is a PEM file with the CAs of client certificates.
	ClientCAFile string `yaml:"client_ca_file"`
}

// IngestToken is one entry of http.ingest.tokens.
type IngestToken struct {
	// Name of the sender.
	Name string `yaml:"name" required:"true"`
	// Token is a secret reference to at least 16 characters.
	Token        secrets.Ref `yaml:"token"`
	IngestLimits `yaml:",inline"`
}

// IngestHMAC is one entry of http.ingest.hmac.
type IngestHMAC struct {
	// Name of the sender.
	Name string `yaml:"name" required:"true"`
	// Secret is a secret reference to a key of at least 16 bytes: as whsec_ and base64 for
	// standard, as base64 for step, as text for github.
	Secret secrets.Ref `yaml:"secret"`
	// Scheme is how the sender signs: standard (Standard Webhooks: webhook-id,
	// webhook-timestamp, webhook-signature), github (X-Hub-Signature-256) or step
	// (X-Smallstep-Signature). Only standard refuses an old request that is sent again.
	Scheme       string `yaml:"scheme" enum:"standard,github,step"`
	IngestLimits `yaml:",inline"`
}

// IngestCertificate is one entry of http.ingest.certificates.
type IngestCertificate struct {
	// Name of the sender.
	Name string `yaml:"name" required:"true"`
	// SAN is the name in its certificate: a DNS name, URI or e-mail address, or the CN.
	// Default: name.
	SAN          string `yaml:"san"`
	IngestLimits `yaml:",inline"`
}

// IngestLimits are what a sender may do.
type IngestLimits struct {
	// Format is what the sender sends: events (the forms of docs/events.md, and batches of
	// CloudEvents), ejbca (EJBCA's Cert Safe publisher) or step-ca (its webhooks of the
	// kind NOTIFYING).
	Format string `yaml:"format" enum:"events,ejbca,step-ca"`
	// Sources are what the sender may publish as, as in events.sources: ?source= of a
	// request must match one; left out, it is the first one without a wildcard. Default:
	// the name.
	Sources []string `yaml:"sources"`
	// Targets are the ids of the targets that its events may name, and must name; *
	// matches any characters. Default: all, and those that match.
	Targets []string `yaml:"targets"`
	// Rate is the number of events per second; ten times as many may come at once.
	Rate int `yaml:"rate" min:"1" max:"100000"`
	// MaxBody is the size of the largest body, at most 4MiB.
	MaxBody Size `yaml:"max_body"`
}

const defaultIngestRate = 100

// SetDefaults sets the defaults of an entry.
func (t *IngestToken) SetDefaults() { t.setDefaults() }

// SetDefaults sets the defaults of an entry.
func (t *IngestHMAC) SetDefaults() { t.Scheme = "standard"; t.setDefaults() }

// SetDefaults sets the defaults of an entry.
func (t *IngestCertificate) SetDefaults() { t.setDefaults() }

func (l *IngestLimits) setDefaults() {
	l.Format, l.Rate, l.MaxBody = "events", defaultIngestRate, ingest.MaxBody
}

// ingestSender is an entry of any of the lists.
type ingestSender struct {
	path   string
	name   string
	scheme ingest.Scheme
	secret secrets.Ref
	key    string // of secret
	san    string
	limits IngestLimits
}

func (c *IngestConfig) senders() (all []ingestSender) {
	for i, t := range c.Tokens {
		all = append(all, ingestSender{fmt.Sprintf("http.ingest.tokens[%d]", i), t.Name, ingest.Token, t.Token, "token", "", t.IngestLimits})
	}
	for i, t := range c.HMAC {
		all = append(all, ingestSender{fmt.Sprintf("http.ingest.hmac[%d]", i), t.Name, ingest.Scheme(t.Scheme), t.Secret, "secret", "", t.IngestLimits})
	}
	for i, t := range c.Certificates {
		san := t.SAN
		if san == "" {
			san = t.Name
		}
		all = append(all, ingestSender{fmt.Sprintf("http.ingest.certificates[%d]", i), t.Name, ingest.Certificate, secrets.Ref{}, "", san, t.IngestLimits})
	}
	return all
}

var senderName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func (c *IngestConfig) validate(f *findings, tls bool) {
	const path = "http.ingest"
	all := c.senders()
	switch {
	case c.Enabled && len(all) == 0:
		f.err(path, "is enabled, and nobody may send: give tokens, hmac or certificates")
	case !c.Enabled && len(all) > 0:
		f.warn(path, "has senders, but is not enabled")
	}
	switch {
	case len(c.Certificates) > 0 && c.ClientCAFile == "":
		f.err(path+".client_ca_file", "is required: http.ingest.certificates is set")
	case len(c.Certificates) > 0 && !tls:
		f.err(path+".certificates", "requires http.tls: without TLS there are no client certificates")
	}
	seen := map[string]bool{}
	for _, s := range all {
		switch {
		case s.name == "":
		case !senderName.MatchString(s.name) || events.WrongSource(s.name) != "":
			f.err(s.path+".name", "want 1 to 64 of A-Z, a-z, 0-9, dot, _ and -, without a dot at the ends or two in a row")
		case seen[s.name]:
			f.err(s.path+".name", "is the name of another sender: names must be unique")
		}
		seen[s.name] = true
		if s.key != "" && s.secret.IsZero() {
			f.err(s.path+"."+s.key, "is required")
		} else if s.key != "" {
			f.secret(s.path+"."+s.key, s.secret)
		}
		for i, source := range s.limits.Sources {
			if source == "" {
				f.err(fmt.Sprintf("%s.sources[%d]", s.path, i), "is empty")
			}
		}
		for i, target := range s.limits.Targets {
			if target == "" {
				f.err(fmt.Sprintf("%s.targets[%d]", s.path, i), "is empty")
			}
		}
		if len(s.limits.Targets) > 0 && s.limits.Format != "events" {
			f.err(s.path+".targets", "cannot be set for this format, whose events name no targets: limit its source in events.sources")
		}
		if int64(s.limits.MaxBody) > ingest.MaxBody {
			f.err(s.path+".max_body", "is larger than 4MiB")
		}
	}
}

// undefined returns the targets of senders that are not defined.
func (c *IngestConfig) undefined(d *delivery.Definitions) (found []config.Problem) {
	for _, s := range c.senders() {
		found = append(found, d.Undefined(s.path+".targets", s.limits.Targets)...)
	}
	return found
}

// serveIngest registers POST /v1/events, if it is enabled, and its description.
func (s *instance) serveIngest(guard *access.Access, registry prometheus.Registerer) error {
	c := &s.cfg.HTTP.Ingest
	if !c.Enabled {
		return nil
	}
	cfg := ingest.Config{
		Publish: func(ctx context.Context, ev *events.Event) (duplicate bool, err error) {
			_, duplicate, err = s.broker.Publish(ctx, ev)
			return duplicate, err
		},
		TooLarge: broker.Unpublishable, Refusals: s.cfg.courierOptions().Refusals, Address: guard.ClientAddress, Log: s.log, Metrics: ingest.NewMetrics(registry),
	}
	if c.ClientCAFile != "" {
		clients := NATSTLSConfig{ClientCAFile: c.ClientCAFile}
		if _, err := clients.clientCAs(); err != nil {
			return fmt.Errorf("http.ingest.client_ca_file: %w", err)
		}
		cfg.Verify = func(chain []*x509.Certificate) error { return clients.verifyClient(chain) }
	}
	for _, from := range c.senders() {
		l := from.limits
		sender := ingest.Sender{
			Name: from.name, Scheme: from.scheme, Secret: reader(s.store, from.secret), SAN: from.san, Format: ingest.Format(l.Format),
			Sources: l.Sources, Rate: rate.NewLimiter(rate.Limit(l.Rate), max(10*l.Rate, ingest.MaxBatch)), MaxBytes: int64(l.MaxBody),
		}
		if len(l.Sources) == 0 {
			sender.Sources = []string{from.name}
		}
		allowed := sender.Sources
		sender.MaySource = func(source string) bool {
			return slices.ContainsFunc(allowed, func(pattern string) bool { return delivery.MatchesSource(pattern, source) })
		}
		if len(l.Targets) > 0 {
			sender.MayTarget = func(id string) bool {
				id = s.cfg.Book.CurrentID(id)
				return slices.ContainsFunc(l.Targets, func(pattern string) bool { return delivery.MatchesTarget(pattern, id) })
			}
		}
		cfg.Senders = append(cfg.Senders, sender)
	}
	handler := ingest.New(cfg)
	guard.HandleAPI("POST /v1/events", ingest.Received, handler)
	guard.HandleAPI("GET /v1/events", 0, http.HandlerFunc(handler.Known))
	guard.HandleAPI("GET /v1/openapi.yaml", 0, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(ingest.OpenAPI)
	}))
	return nil
}
