package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/certpost/certpost/internal/broker"
)

// httpServer serves health and metrics.
type httpServer struct {
	listener net.Listener
	server   *http.Server
}

func listenHTTP(addr string, handler http.Handler) (*httpServer, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, fmt.Errorf("http.listen %s: %w: stop the program that has the port, or choose another http.listen", addr, err)
	}
	return &httpServer{l, &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}}, nil
}

func (h *httpServer) address() string { return "http://" + h.listener.Addr().String() }

// serve answers until the context ends.
func (h *httpServer) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = h.server.Shutdown(end) // what is still open is closed by close
	})
	defer stop()
	if err := h.server.Serve(h.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (h *httpServer) close() {
	_ = h.server.Close()
	_ = h.listener.Close()
}

// Health of a part and of the whole.
const (
	healthy   = "healthy"
	degraded  = "degraded"  // works, and somebody should look
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
	s *service
	// The answer is kept for a second: asking is not to be a load on NATS or Vault.
	mu     sync.Mutex
	at     time.Time
	checks []check
}

func newHealth(s *service, registry *prometheus.Registry) http.Handler {
	h := &health{s: s}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive\n") })
	mux.HandleFunc("GET /readyz", h.readyz)
	mux.HandleFunc("GET /healthz", h.healthz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		plain(w, http.StatusOK, "Certpost "+programVersion()+"\n\n/livez    the process is alive\n/readyz   deliveries are worked on\n/healthz  each part, as JSON\n/metrics  for Prometheus\n")
	})
	return mux
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the other side may have gone
}

// readyz is about what only this process can do: without Vault or a relay others
// would fare no better, so those make it degraded, not unready.
func (h *health) readyz(w http.ResponseWriter, r *http.Request) {
	for _, c := range h.examine(r.Context()) {
		if c.Status == unhealthy {
			plain(w, http.StatusServiceUnavailable, "not ready: "+c.Name+": "+c.Message+"\n")
			return
		}
	}
	plain(w, http.StatusOK, "ready\n")
}

func (h *health) healthz(w http.ResponseWriter, r *http.Request) {
	checks := h.examine(r.Context())
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
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	h.checks = []check{
		verdictOn("nats", "nats", unhealthy, h.s.runner.Ready(ctx)),
		verdictOn("vault", "vault", degraded, h.s.store.Health(ctx)),
		verdictOn("relays", "relay", degraded, h.relays()),
	}
	h.at = time.Now()
	return h.checks
}

func verdictOn(name, tag, bad string, err error) check {
	c := check{Name: name, Tags: []string{tag}, Status: healthy}
	if err != nil {
		c.Status, c.Message = bad, err.Error()
	}
	return c
}

func (h *health) relays() error {
	var away, partly, suspended []string
	for _, l := range h.s.runner.LaneStatus() {
		switch l.Breaker {
		case broker.BreakerOpen:
			away = append(away, l.Lane)
		case broker.BreakerPartly:
			for _, r := range l.Relays {
				partly = append(partly, r.Relay)
			}
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
	}{{"no answer from the relay of lane ", away}, {"no answer, with others to go on to, from ", partly}, {"suspended: ", suspended}} {
		if len(part.list) > 0 {
			parts = append(parts, part.what+strings.Join(part.list, ", "))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return errors.New(strings.Join(parts, "; "))
}
