package main

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/spool"
)

// watchProbes answers /livez, /healthz and /metrics of a watcher (--listen). The answers are
// numbers: no path, name or address, so that they need no sign-in.
type watchProbes struct {
	interval  time.Duration
	spool     *spool.Spool
	log       zerolog.Logger
	lastLook  prometheus.Gauge
	published prometheus.Counter
	unusable  prometheus.Gauge

	mu     sync.Mutex
	looked time.Time // when the last look ended
	left   int       // certificates that it could not use
}

func newWatchProbes(w *dirWatcher) *watchProbes {
	return &watchProbes{interval: w.cmd.Interval, spool: w.cfg.spool(), log: w.log, looked: time.Now(),
		lastLook: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "certpost_watch_last_look_timestamp_seconds", Help: "When the directories were last looked at, in seconds since 1970.",
		}),
		published: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "certpost_watch_published_total", Help: "Events that the watcher has published, also those that hooks had left in the spool.",
		}),
		unusable: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "certpost_watch_unusable", Help: "Certificates and directories that are not published as they are: incomplete, without their key, unreadable or refused. The log names them.",
		}),
	}
}

// look records a look that has ended. p is nil without --listen.
func (p *watchProbes) look(unusable int) {
	if p == nil {
		return
	}
	now := time.Now()
	p.lastLook.Set(float64(now.UnixMilli()) / 1000)
	p.unusable.Set(float64(unusable))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looked, p.left = now, unusable
}

func (p *watchProbes) publish(events int) {
	if p != nil {
		p.published.Add(float64(events))
	}
}

// standstill is how long after its interval a look may end.
const standstill = time.Minute

func (p *watchProbes) checks(now time.Time) []check {
	p.mu.Lock()
	looked, left := p.looked, p.left
	p.mu.Unlock()
	watch := verdictOn("watch", "watch", unhealthy, nil)
	if age := now.Sub(looked); age > p.interval+standstill {
		watch = verdictOn("watch", "watch", unhealthy, fmt.Errorf("the directories were last looked at %s ago", age.Round(time.Second)))
	} else if left > 0 {
		watch = verdictOn("watch", "watch", degraded, errors.New(count(left, "certificate or directory is", "certificates or directories are")+" not published: the log says why"))
	}
	return []check{watch, spoolHealth(p.spool, now)}
}

// serve listens until the returned function is called.
func (p *watchProbes) serve(ctx context.Context, address string) (stop func(), err error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), p.spool, p.lastLook, p.published, p.unusable)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive\n") })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answerHealth(w, p.checks(time.Now())) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server, err := listenHTTP("--listen", address, local(address, mux))
	if err != nil {
		return nil, err
	}
	server.server.ErrorLog = stdlog.New(httpLog{p.log}, "", 0)
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.serve(serving); err != nil {
			p.log.Error().Err(err).Msg("the probes are not served any more")
		}
	})
	p.log.Info().Str("address", server.address()).Msg("serving probes and metrics")
	return func() { cancel(); wg.Wait(); server.close() }, nil
}
