package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/alert"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/dashboard"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/queue"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/tracing"
	"github.com/certpost/certpost/internal/verdict"
)

type runCmd struct {
	DataDir  string `help:"Directory of the embedded NATS; overrides data_dir." placeholder:"DIR"`
	MailHost string `help:"Name of the mail host that this process runs on; overrides mail_host. With nats.url the process deploys on this host and does nothing else." placeholder:"NAME"`
}

// Run consumes and delivers until it gets SIGTERM or an interrupt.
func (c *runCmd) Run(a *app) error {
	cfg, warnings, err := a.load()
	if err != nil {
		return err
	}
	if c.DataDir != "" {
		cfg.DataDir = c.DataDir
	}
	if c.MailHost != "" {
		if problems := delivery.ValidateHost(c.MailHost); problems != nil {
			return usage("--mail-host: %s", problems[0].Message)
		}
		cfg.MailHost, cfg.agent = c.MailHost, cfg.NATS.URL != ""
	}
	log := a.serviceLogger(cfg.Log)
	for _, w := range warnings {
		log.Warn().Str("problem", w.Error()).Msg("configuration")
	}
	if warning := cfg.unsignedWarning(); warning != "" {
		log.Warn().Msg(warning)
	}
	limitMemory(memlimit.FromCgroup, log)
	if err := secrets.ForbidCoreDumps(); err != nil {
		log.Warn().Err(err).Send()
	}
	s, err := newService(a.ctx, cfg, log)
	if err != nil {
		return err
	}
	defer s.close()
	defer s.underSystemd(a)()
	log.Info().Str("version", programVersion()).Str("nats", s.broker.URL()).Str("http", s.http.address()).
		Int("targets", len(cfg.Book.Current().All())).Int("pid", os.Getpid()).Msg("certpost is up")
	err = s.run(a.ctx)
	if err == nil {
		log.Info().Msg("certpost has stopped; unfinished deliveries continue at the next start")
	}
	return err
}

// underSystemd tells systemd, if it has started this process, that the program is up, then that
// it lives, and that it stops. What it returns ends that.
func (s *instance) underSystemd(a *app) (end func()) {
	systemd := newSupervisor(a.env)
	systemd.ready("pages on " + s.http.address() + ", NATS " + s.broker.URL())
	forget := context.AfterFunc(a.ctx, systemd.stopping)
	// While mails in progress are finished, the watchdog waits for signs of life, too.
	living, cancel := context.WithCancel(context.WithoutCancel(a.ctx))
	var wg sync.WaitGroup
	// Whatever the checks find, they have to come to an end: they take every lock of the work.
	wg.Go(func() { systemd.watch(living, func(ctx context.Context) { s.health.examine(ctx) }) })
	return func() {
		forget()
		cancel()
		wg.Wait()
	}
}

// instance is the running program: everything that `run` and `demo` share.
type instance struct {
	cfg      *Config
	log      zerolog.Logger
	store    *secrets.Store
	broker   *broker.Broker
	courier  *delivery.Courier
	runner   *queue.Runner
	desk     *desk.Desk
	auditor  *broker.Auditor
	alerts   *alert.Engine   // nil: no alerts are sent
	outcomes *outcomes       // nil: none are published
	tracer   *tracing.Tracer // nil: no spans are recorded
	http     *httpServer
	health   *health
	seen     *visitors
	keys     *keyWatch
	onHost   *hostWatch
	registry *metricsRegistry
	// definitions counts what became of changed target definitions.
	definitions *definitionMetrics
	// natsCertificate is the embedded server's; nil without TLS.
	natsCertificate *serverCertificate
	ending          atomic.Bool // the shutdown has begun
}

// newService opens everything that can fail for a reason that the operator has to fix.
func newService(ctx context.Context, cfg *Config, log zerolog.Logger) (s *instance, err error) {
	s = &instance{cfg: cfg, log: log}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.store, err = secrets.Open(cfg.Vault, log); err != nil {
		return s, err
	}
	if err = cfg.makeAuditKey(); err != nil {
		return s, err
	}
	connection := cfg.brokerConfig(ctx, s.store)
	if s.natsCertificate, connection.ServerTLS, err = cfg.NATS.openNATSCertificate(ctx, s.store, log); err != nil {
		return s, err
	}
	if s.broker, err = broker.Open(connection, log); err != nil {
		return s, err
	}
	registry := &metricsRegistry{Registry: prometheus.NewRegistry()}
	s.registry = registry
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), cfg.spool())
	buildMetric(registry)
	s.definitions = newDefinitionMetrics(registry)
	newVaultMetrics(registry, s.store)
	options := cfg.courierOptions()
	options.Deployed = func() { s.onHost.check() }
	s.courier = delivery.NewCourier(cfg.Book, s.store, options)
	s.keys = newKeyWatch(s.courier.Inspector().RecipientKeys, cfg.Health.ExpiryWarning, registry, log)
	s.onHost = newHostWatch(s.courier.HostCertificates, cfg.Health.ExpiryWarning, registry, log)
	registry.MustRegister(newExpiryMetrics(s.courier.RelayCertificates, s.serverCertificates))
	settings := cfg.settings()
	settings.Host = s.courier
	s.tracer = tracing.Open(ctx, os.LookupEnv, programVersion(), log)
	settings.Tracer = s.tracer
	s.runner = queue.NewRunner(s.broker, s.courier, settings, queue.NewMetrics(registry))
	s.auditor = s.broker.NewAuditor(auditMetrics(registry))
	s.desk = desk.New(s.broker, s.courier.Inspector(), log)
	s.desk.CancelWith(s.runner)
	edits := s.cfg.HTTP.EditAndReplay.rules()
	edits.Opens = s.courier.Opens
	s.desk.AllowEdits(edits)
	if !cfg.agent {
		newDeskMetrics(registry, s.desk, s.broker, s.auditor)
	}
	s.alerts = s.newAlerts(registry)
	s.outcomes = s.newOutcomes(registry)
	look := dashboard.NewLook(programVersion(), log)
	s.seen = newVisitors(s.broker, log)
	guard, server, err := openHTTP(ctx, &cfg.HTTP, s.store, look.Access(), s.seen.record, log)
	if err != nil {
		return s, err
	}
	s.http = server
	s.health = handleHealth(guard, s, registry.Registry)
	if err = s.serveIngest(guard, registry); err != nil {
		return s, err
	}
	pages := dashboard.Options{Look: look, Alerts: s.alerts != nil, Tracer: s.tracer, Log: log}
	if s.http.server.Handler = guard; !cfg.agent { // an agent has its probes, and may read nothing that pages show
		s.http.server.Handler = dashboard.New(s.desk, guard, pages)
	}
	return s, nil
}

// serverCertificates are those of the program's own servers.
func (s *instance) serverCertificates() []*serverCertificate {
	if s.http == nil {
		return []*serverCertificate{s.natsCertificate}
	}
	return []*serverCertificate{s.http.certificate, s.natsCertificate}
}

func (s *instance) close() {
	if s.http != nil {
		s.http.close()
	}
	if s.courier != nil {
		s.courier.Close()
	}
	if s.broker != nil {
		s.broker.Close()
	}
	if s.store != nil {
		s.store.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), tracesPatience)
	defer cancel()
	if err := s.tracer.Close(ctx); err != nil {
		s.log.Warn().Err(err).Msg("the last traces could not be sent")
	}
}

// tracesPatience bounds how long a shutdown waits for the collector of traces.
const tracesPatience = 3 * time.Second

// run works until the context ends or an error needs the operator. Health and metrics
// are served until the end: while mails in progress are finished, probes get the answer
// that this process is not ready.
func (s *instance) run(ctx context.Context) error {
	serving, served := context.WithCancel(context.WithoutCancel(ctx))
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { s.ending.Store(true) })()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer served()
	defer cancel()
	wg.Go(func() { s.seen.run(serving) })
	if s.natsCertificate != nil {
		wg.Go(func() { s.natsCertificate.watch(serving) })
	}
	prober := s.courier.Inspector().Prober(s.probed)
	wg.Go(func() { prober.Run(ctx) })
	wg.Go(func() { s.keys.run(ctx) })
	wg.Go(func() { s.onHost.run(ctx) })
	wg.Go(func() {
		s.cfg.Book.Watch(ctx, delivery.PollInterval, func(c delivery.Change) {
			s.reloaded(c)
			s.unnamed(c)
			s.keys.check()
			s.onHost.check()
			prober.Add(slices.Concat(c.Added, c.Changed)...)
		})
	})
	failed := make(chan error, 1)
	wg.Go(func() {
		if err := s.http.serve(serving); err != nil {
			failed <- fmt.Errorf("http: %w", err)
			cancel()
		}
	})
	wg.Go(func() {
		if !s.cfg.agent && service.Until(ctx, func() bool { return s.runner.Ready(ctx) == nil }) == nil {
			s.auditor.Run(ctx)
		}
	})
	wg.Go(func() {
		// Before the streams exist the desk has nothing to read, and would log errors.
		if !s.cfg.agent && service.Until(ctx, func() bool { return s.runner.Ready(ctx) == nil }) == nil {
			_ = s.desk.Run(ctx) // returns only when the context ends
		}
	})
	if s.alerts != nil {
		wg.Go(func() { s.alerts.Run(ctx) })
	}
	if s.outcomes != nil {
		wg.Go(func() {
			if service.Until(ctx, func() bool { return s.runner.Ready(ctx) == nil }) == nil {
				s.outcomes.run(ctx)
			}
		})
	}
	if s.cfg.NATS.Service && !s.cfg.agent {
		wg.Go(func() { s.answer(ctx) })
	}
	s.courier.RecoverHost(ctx, s.recovered)
	err := s.runner.Run(ctx)
	select {
	case err = <-failed:
	default:
	}
	return err
}

// answer runs the NATS service. If the service cannot start, the program continues:
// everything else works without it.
func (s *instance) answer(ctx context.Context) {
	if err := s.broker.Serve(ctx, programVersion(), service.New(s.desk).Endpoints()); err != nil {
		s.log.Error().Err(err).Msg("the NATS service cannot start, so requests over NATS are not answered; set nats.service: false to switch it off")
	}
}

// reloaded logs the result of a change of the target definitions.
func (s *instance) reloaded(c delivery.Change) {
	s.definitions.reloaded(c)
	for _, p := range c.Problems {
		level := zerolog.ErrorLevel
		if p.Severity == config.Warning {
			level = zerolog.WarnLevel
		}
		s.log.WithLevel(level).Str("problem", p.Error()).Msg("target definitions")
	}
	if c.Kept {
		s.log.Error().Msg("the new target definitions cannot be used; the old ones stay in force")
		return
	}
	s.log.Info().Strs("added", c.Added).Strs("removed", c.Removed).Strs("changed", c.Changed).Msg("target definitions reloaded")
}

// unnamed logs what the configuration says of targets that are no longer defined, as a start would.
func (s *instance) unnamed(c delivery.Change) {
	if len(c.Removed) == 0 {
		return
	}
	for _, p := range s.cfg.undefined(s.cfg.Book.Current()) {
		if p.Severity == config.Warning {
			s.log.Warn().Str("problem", p.Path+": "+p.Message).Msg("the configuration names a target that was removed")
		} else {
			s.log.Error().Str("problem", p.Path+": "+p.Message).Msg("the next start will refuse this configuration")
		}
	}
}

// recovered logs what became of a deployment that a crash had interrupted.
func (s *instance) recovered(target, text string, problem bool) {
	level := zerolog.WarnLevel
	if problem {
		level = zerolog.ErrorLevel
	}
	s.log.WithLevel(level).Str("target", target).Str("result", text).Msg("files of this mail host at the start")
}

// probed logs what a check of new and changed targets has found.
func (s *instance) probed(p delivery.Probed) {
	const shown = 10
	targets := p.Targets[:min(len(p.Targets), shown)]
	for _, f := range p.Findings {
		level := zerolog.InfoLevel
		switch f.Status {
		case verdict.Warning:
			level = zerolog.WarnLevel
		case verdict.Error:
			level = zerolog.ErrorLevel
		}
		e := s.log.WithLevel(level).Strs("targets", targets).Str("check", f.What).Str("finding", f.Message)
		if more := len(p.Targets) - len(targets); more > 0 {
			e = e.Int("more_targets", more)
		}
		e.Msg("check of changed targets")
	}
}

// settings maps the configuration to the settings of the queue.
func (c *Config) settings() queue.Settings {
	d := c.Delivery
	return queue.Settings{
		Concurrency: d.Concurrency, RetryInitial: d.Retry.Initial, RetryMax: d.Retry.Max, RetryMultiplier: d.Retry.Multiplier,
		GiveUpAfter: d.GiveUpAfter, DeadLetterUnknown: d.OnUnknownOutcome == "dead_letter",
		IgnoreUnmatched: c.Events.Unmatched == "ignore", Grace: d.Grace, LogAddresses: c.Log.Addresses, HostLane: c.hostLane(), OnlyHost: c.agent,
	}
}
