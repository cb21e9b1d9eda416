package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// httpServer serves the dashboard, health checks and metrics.
type httpServer struct {
	listener    net.Listener
	server      *http.Server
	certificate *serverCertificate // nil without TLS
	people      *peopleWatch       // nil for pages without sign-in
}

// listenHTTP listens for pages. setting is the one with the address, for errors.
func listenHTTP(setting, addr string, handler http.Handler) (*httpServer, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, cannotListen(setting, addr, err)
	}
	return &httpServer{listener: l, server: &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		DisableGeneralOptionsHandler: true, // it would answer OPTIONS * without looking at the host
	}}, nil
}

// cannotListen is the error for an address, and the setting or flag that it comes from.
func cannotListen(setting, addr string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Errorf("%[1]s %[2]s: %[3]w: stop the program that has the port, or choose another %[1]s", setting, addr, err)
}

// Limits of a connection with HTTP/2. The timeouts of requests apply to each stream, but
// not to a client that stops reading the connection, or is no longer there.
const (
	streamsOfConnection = 100
	silentConnection    = time.Minute
)

// withTLS enables TLS 1.2 and later, and HTTP/2.
func (h *httpServer) withTLS(c *serverCertificate) {
	h.certificate = c
	h.server.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streamsOfConnection, SendPingTimeout: silentConnection, WriteByteTimeout: silentConnection}
	h.server.TLSConfig = &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}
}

// asksForCertificates asks clients for a certificate of these CAs. Browsers have none, and are
// served without; the handler of events verifies what it is shown.
func (h *httpServer) asksForCertificates(caFile string) {
	h.server.TLSConfig.ClientAuth = tls.RequestClientCert
	if pool, err := (NATSTLSConfig{ClientCAFile: caFile}).clientCAs(); err == nil { // only a hint for clients with several
		h.server.TLSConfig.ClientCAs = pool
	}
}

// httpLog receives lines of the standard library's log. Errors in handshakes and
// headers are mostly the client's fault, and are logged at level debug. A panic is a
// defect of Certpost; its value, in the first line, is left out, because it may quote input.
type httpLog struct{ log zerolog.Logger }

func (s httpLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if _, stack, _ := strings.Cut(text, "\n"); strings.HasPrefix(text, "http: panic") || strings.HasPrefix(text, "http2: panic") {
		s.log.Error().Str("stack", stack).Msg("a defect: a request handler panicked; please report it with the stack")
	} else {
		s.log.Debug().Str("message", text).Msg("http")
	}
	return len(line), nil
}

// local makes a loopback listener answer only requests that name this machine, for
// pages without access checks: a page whose own name resolves to this machine (DNS
// rebinding) reads nothing.
func local(listen string, next http.Handler) http.Handler {
	if !access.IsLoopback(listen) {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !access.NamesLoopback(r.Host) {
			plain(w, http.StatusMisdirectedRequest, "open this page at localhost\n")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (h *httpServer) address() string {
	if h.certificate != nil {
		return "https://" + h.listener.Addr().String()
	}
	return "http://" + h.listener.Addr().String()
}

// serve answers until the context ends. Requests in progress then have a second; after
// it only streams are left, which do not end by themselves.
func (h *httpServer) serve(ctx context.Context) error {
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	h.server.BaseContext = func(net.Listener) context.Context { return requests }
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		defer time.AfterFunc(time.Second, endRequests).Stop()
		_ = h.server.Shutdown(end) // close closes what is still open
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	watching, done := context.WithCancel(ctx)
	defer done()
	if h.people != nil {
		wg.Go(func() { h.people.run(watching) })
	}
	var err error
	if h.certificate != nil {
		wg.Go(func() { h.certificate.watch(watching) })
		err = h.server.ServeTLS(h.listener, "", "")
	} else {
		err = h.server.Serve(h.listener)
	}
	if !stop() {
		<-ended
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (h *httpServer) close() {
	_ = h.server.Close()
	_ = h.listener.Close()
}

// openHTTP makes the dashboard's access checks and its listener. The caller registers
// pages and probes with the returned Access before it serves.
func openHTTP(ctx context.Context, cfg *HTTPConfig, store *secrets.Store, pages access.Pages, record func(context.Context, access.Event), log zerolog.Logger) (*access.Access, *httpServer, error) {
	guard, err := cfg.openAccess(store, pages, record, log)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := openCertificate(ctx, dashboardTLS, cfg.TLS, store, log)
	if err != nil {
		return nil, nil, err
	}
	server, err := listenHTTP("http.listen", cfg.Listen, guard)
	if err != nil {
		return nil, nil, err
	}
	server.listener = newFairListener(server.listener, connectionsOfOne, cfg.proxies())
	server.server.ErrorLog = stdlog.New(httpLog{log}, "", 0)
	if certificate != nil {
		server.withTLS(certificate)
		if cfg.Ingest.Enabled && cfg.Ingest.ClientCAFile != "" {
			server.asksForCertificates(cfg.Ingest.ClientCAFile)
		}
	}
	server.people = newPeopleWatch(cfg, guard, log)
	return guard, server, nil
}

// Health of a part and of the whole.
const (
	healthy   = "healthy"
	degraded  = "degraded"  // works, but needs attention
	unhealthy = "unhealthy" // nothing is delivered
)

// check is one line of /healthz.
type check struct {
	Name    string   `json:"name"`
	Tags    []string `json:"tags"`
	Status  string   `json:"status"`
	Message string   `json:"message,omitempty"`
}

// health answers for the running service.
type health struct {
	s     *instance
	guard *access.Access
	// The result is kept for a second: probes must not put load on NATS or Vault.
	mu     sync.Mutex
	at     time.Time
	checks []check
}

// handleHealth registers the probes. Anyone may read whether the process is alive and
// ready; the others name relays and require access.
func handleHealth(guard *access.Access, s *instance, registry *prometheus.Registry) *health {
	h := &health{s: s, guard: guard}
	guard.HandleProbe("GET /livez", access.Anyone, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive\n") }))
	guard.HandleProbe("GET /readyz", access.Anyone, http.HandlerFunc(h.readyz))
	guard.HandleProbe("GET /healthz", access.Viewer, http.HandlerFunc(h.healthz))
	guard.HandleProbe("GET /metrics", access.Viewer, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return h
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // fails if the client has disconnected
}

// readyz reports what concerns only this process: without Vault or a relay other
// replicas would be no better, so those make it degraded, not unready. The reason names
// hosts, and is shown only to clients that may read /healthz.
func (h *health) readyz(w http.ResponseWriter, r *http.Request) {
	for _, c := range h.examine(r.Context()) {
		switch {
		case c.Status != unhealthy, slices.Contains(c.Tags, "tls"): // an expired certificate is no reason to send this process no work
		case h.guard.Trusts(r):
			plain(w, http.StatusServiceUnavailable, "not ready: "+c.Name+": "+c.Message+"\n")
			return
		default:
			plain(w, http.StatusServiceUnavailable, "not ready: "+c.Name+"\n")
			return
		}
	}
	plain(w, http.StatusOK, "ready\n")
}

func (h *health) healthz(w http.ResponseWriter, r *http.Request) {
	answerHealth(w, h.examine(r.Context()))
}

// answerHealth writes the answer of /healthz.
func answerHealth(w http.ResponseWriter, checks []check) {
	status, code := healthy, http.StatusOK
	for _, c := range checks {
		if c.Status == unhealthy {
			status, code = unhealthy, http.StatusServiceUnavailable
		} else if c.Status == degraded && status == healthy {
			status = degraded
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "version": programVersion(), "checks": checks})
}

func (h *health) examine(ctx context.Context) []check {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) < time.Second && !h.s.ending.Load() {
		return h.checks
	}
	// The result serves every client within the next second, so the end of the first
	// one's request must not cancel it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	h.checks = []check{
		h.nats(ctx),
		verdictOn("vault", "vault", degraded, h.s.store.Health(ctx)),
		verdictOn("relays", "relay", degraded, h.relays()),
		verdictOn("queue", "nats", unhealthy, h.s.runner.Moving()),
		h.audit(),
		spoolHealth(h.s.cfg.spool(), time.Now()),
	}
	if away, there := h.hosts(ctx); there {
		h.checks = append(h.checks, verdictOn("mail_hosts", "mail_host", degraded, away))
	}
	if c, there := h.heldBack(ctx); there {
		h.checks = append(h.checks, c)
	}
	if c, there := h.s.onHost.health(time.Now()); there {
		h.checks = append(h.checks, c)
	}
	if c, there := h.s.cfg.Alerts.waiting(h.s.desk, time.Now()); there && !h.s.cfg.agent {
		h.checks = append(h.checks, c)
	}
	if h.s.alerts != nil {
		h.checks = append(h.checks, verdictOn("alerts", "alerts", degraded, h.s.alerts.Health()))
	}
	if h.s.outcomes != nil {
		h.checks = append(h.checks, verdictOn("outcomes", "outcomes", degraded, h.s.runner.Beside()))
	}
	now, warning := time.Now(), h.s.cfg.Health.ExpiryWarning
	if c, there := h.s.keys.health(now); there {
		h.checks = append(h.checks, c)
	}
	if c, there := relayCertificates(h.s.courier.RelayCertificates(), now, warning); there {
		h.checks = append(h.checks, c)
	}
	if c := h.s.http.certificate; c != nil {
		h.checks = append(h.checks, c.check("tls", now, warning))
	}
	if c := h.s.natsCertificate; c != nil {
		h.checks = append(h.checks, c.check("nats-tls", now, warning))
	}
	h.at = time.Now()
	return h.checks
}

// hosts says which mail hosts are away; there is false if no target is on one.
func (h *health) hosts(ctx context.Context) (away error, there bool) {
	if there = !h.s.cfg.agent && slices.ContainsFunc(h.s.courier.Lanes(), verdict.OnHost); !there { // an agent may not look at other lanes
		return nil, false
	}
	lanes, err := h.s.broker.LaneInfos(ctx)
	if err != nil {
		return fmt.Errorf("not known: %w", err), true
	}
	var texts []string
	for _, lane := range lanes {
		// Just started, this process may not have reported its own lane yet.
		if lane.Away() && lane.Lane != h.s.cfg.hostLane() {
			texts = append(texts, desk.AwayWords(lane))
		}
	}
	if len(texts) > 0 {
		return errors.New(strings.Join(texts, "; ")), true
	}
	return nil, true
}

// heldBack says which deployments wait for records in DNS, on this host or, in a process that may look
// at other lanes, on all; there is false if none does. It is unhealthy if the certificate that a host
// has now ends soon.
func (h *health) heldBack(ctx context.Context) (c check, there bool) {
	var lanes []broker.LaneInfo
	for _, s := range h.s.runner.LaneStatus() {
		if len(s.HeldBack) > 0 {
			lanes = append(lanes, broker.LaneInfo{Lane: s.Lane, Statuses: []broker.LaneStatus{s}})
		}
	}
	if !h.s.cfg.agent && slices.ContainsFunc(h.s.courier.Lanes(), func(lane string) bool { return verdict.OnHost(lane) && lane != h.s.cfg.hostLane() }) {
		all, err := h.s.broker.LaneInfos(ctx)
		if err != nil {
			return c, false // the check of the mail hosts says so
		}
		for _, lane := range all {
			if lane.Lane != h.s.cfg.hostLane() {
				lanes = append(lanes, lane)
			}
		}
	}
	c = check{Name: "held_back", Tags: []string{"mail_host", "tls"}, Status: degraded}
	var texts []string
	for _, lane := range lanes {
		held, urgent := desk.HeldWords(lane)
		if texts = append(texts, held...); urgent {
			c.Status = unhealthy
		}
	}
	c.Message = strings.Join(texts, "; ")
	return c, len(texts) > 0
}

// nats is unhealthy while events or deliveries do not get on, and degraded while something
// else does not.
func (h *health) nats(ctx context.Context) check {
	if err := h.s.runner.Ready(ctx); err != nil {
		return verdictOn("nats", "nats", unhealthy, err)
	}
	return verdictOn("nats", "nats", degraded, h.s.runner.Degraded())
}

// audit is degraded at a break. Without signatures it is healthy, as it was set up, and says so.
func (h *health) audit() check {
	c := verdictOn("audit", "audit", degraded, h.s.auditor.Problem())
	if c.Status == healthy {
		c.Message = h.s.auditor.Unsigned()
	}
	return c
}

func verdictOn(name, tag, bad string, err error) check {
	c := check{Name: name, Tags: []string{tag}, Status: healthy}
	if err != nil {
		c.Status, c.Message = bad, err.Error()
	}
	return c
}

func (h *health) relays() error {
	var unavailable, partly, limited, suspended []string
	for _, l := range h.s.runner.LaneStatus() {
		var silent []string // the others are at limits of their own
		for _, r := range l.Relays {
			if !r.Limit {
				silent = append(silent, r.Relay)
				continue
			}
			text := r.Relay
			if !r.Again.IsZero() {
				text += " until " + when(r.Again)
			}
			limited = append(limited, fmt.Sprintf("%s (%s)", text, r.Reason))
		}
		switch {
		case len(silent) == 0:
		case l.Breaker == broker.BreakerOpen:
			unavailable = append(unavailable, l.Lane)
		case l.Breaker == broker.BreakerPartly:
			partly = append(partly, silent...)
		}
	}
	for _, s := range h.s.runner.Suspensions() {
		text := s.Lane
		if !s.Until.IsZero() {
			text += " until " + when(s.Until)
		}
		suspended = append(suspended, fmt.Sprintf("%s (%s)", text, s.Reason))
	}
	var parts []string
	for _, part := range []struct {
		what string
		list []string
	}{{"no answer from the relay of lane ", unavailable}, {"no answer (other relays are available) from ", partly}, {"at a limit of the relay itself: ", limited}, {"suspended: ", suspended}} {
		if len(part.list) > 0 {
			parts = append(parts, part.what+strings.Join(part.list, ", "))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return errors.New(strings.Join(parts, "; "))
}
