package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/tracing"
	"github.com/certpost/certpost/internal/verdict"
)

type checkCmd struct {
	Live     bool          `help:"Also connect to NATS, Vault and every relay (up to AUTH), read every secret, try events.file_roots and look up in DNS what receivers look up about the senders. Sends no mail."`
	MailHost string        `help:"Check as certpost run --mail-host does: NATS permissions for that host, and its targets." placeholder:"NAME"`
	Target   []string      `help:"Check only this target (repeatable; requires --live)." placeholder:"ID"`
	Timeout  time.Duration `help:"Time limit of each live check." default:"30s"`
	Output   string        `help:"Format: text or json." enum:"text,json" default:"text" short:"o"`
}

// finding is one result of `check --live`.
type finding struct {
	Of      string `json:"of"`     // nats, vault, http, events, target/ID, or sender/DOMAIN
	What    string `json:"what"`   // connection, secret, relay, certificate, ...
	Status  string `json:"status"` // ok, warning, error
	Message string `json:"message"`
}

// Validate is called after the command line is parsed.
func (c *checkCmd) Validate() error {
	if len(c.Target) > 0 && !c.Live {
		return errors.New("--target requires --live: without --live all targets are checked")
	}
	return nil
}

// Run checks the configuration. It exits with 2 if the configuration cannot be used, and
// with 1 if a live check fails.
func (c *checkCmd) Run(a *app) error {
	cfg, doc, problems := loadConfig(a.config, a.env)
	if c.MailHost != "" {
		cfg.MailHost, cfg.agent = c.MailHost, cfg.NATS.URL != ""
		problems = append(problems, delivery.ValidateHost(c.MailHost)...)
	}
	if !config.Failed(problems) {
		problems = config.Sort(append(problems, doc.Locate(slices.Concat(cfg.HTTP.inspect(a.ctx, time.Now()), cfg.NATS.inspect(a.ctx, cfg.DataDir, time.Now()), cfg.inspectSpool(time.Now()), cfg.inspectWebhooks(a.ctx)))...))
	}
	problems = append(problems, traceProblems(a.env)...)
	failed := config.Failed(problems)
	var findings []finding
	if c.Live && !failed {
		var err error
		if findings, err = c.live(a, cfg); err != nil {
			return err
		}
	}
	if c.Output == "json" {
		list := []map[string]any{}
		for _, p := range problems {
			list = append(list, map[string]any{"file": p.File, "line": p.Line, "column": p.Column, "path": p.Path, "severity": p.Severity.String(), "message": p.Message})
		}
		answer := map[string]any{"usable": !failed, "problems": list}
		if !failed {
			answer["relays"] = append([]verdict.RelayView{}, cfg.Book.Current().Relays()...)
		}
		if c.Live {
			answer["live"] = append([]finding{}, findings...)
		}
		if err := a.json(answer); err != nil {
			return err
		}
	} else {
		c.print(a, cfg, problems, findings, failed)
	}
	if failed {
		return &failure{code: exitUsage}
	}
	for _, f := range findings {
		if f.Status == "error" {
			return &failure{code: exitFailed}
		}
	}
	return nil
}

// traceProblems are warnings about the variables of OpenTelemetry: certpost run has no traces with them, and delivers all the same.
func traceProblems(env []string) (problems []config.Problem) {
	lookup := func(name string) (string, bool) { value := variable(env, name); return value, value != "" }
	for _, p := range tracing.Env(lookup).Problems() {
		problems = append(problems, config.Problem{Variable: p.Variable, Severity: config.Warning, Message: p.Text + "; traces are off until then"})
	}
	return problems
}

func (c *checkCmd) print(a *app, cfg *Config, problems []config.Problem, findings []finding, failed bool) {
	warnings := 0
	for _, p := range problems {
		fmt.Fprintln(a.stdout, p.Error())
		if p.Severity == config.Warning {
			warnings++
		}
	}
	for _, f := range findings {
		fmt.Fprintf(a.stdout, "%-7s  %s: %s: %s\n", f.Status, f.Of, f.What, printable(f.Message))
	}
	if failed {
		fmt.Fprintf(a.stdout, "the configuration is not valid: %s, %s\n", count(len(problems)-warnings, "error"), count(warnings, "warning"))
		return
	}
	defs := cfg.Book.Current()
	for _, r := range defs.Relays() {
		// Other relays have nothing that their targets do not already say.
		if limits := r.Limits(); limits != "" || r.Fallback > 0 {
			fmt.Fprintf(a.stdout, "relay %s: %s, fallback of %s; %s\n", r.Relay, count(r.Targets, "target"), count(r.Fallback, "target"), cmp.Or(limits, "no limits"))
		}
	}
	valid := fmt.Sprintf("the configuration is valid: %s on %s, %s", count(len(defs.All()), "target"), count(len(defs.Lanes()), "lane"), count(warnings, "warning"))
	if c.Live {
		valid = liveVerdict(findings, valid)
	}
	fmt.Fprintln(a.stdout, valid)
}

// liveVerdict is the last line of `check --live`, which agrees with the exit code: valid is what is said of the
// configuration.
func liveVerdict(findings []finding, valid string) string {
	of := map[string]int{}
	for _, f := range findings {
		of[f.Status]++
	}
	if of["error"] > 0 {
		return fmt.Sprintf("the live checks failed: %s, %s; %s", count(of["error"], "error"), count(of["warning"], "warning"), valid)
	}
	return fmt.Sprintf("%s; the live checks passed: %s", valid, count(of["warning"], "warning"))
}

func (c *checkCmd) live(a *app, cfg *Config) ([]finding, error) {
	log := a.logger(LogConfig{Level: "error", Format: cfg.Log.Format})
	store, err := secrets.Open(cfg.Vault, log)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	var all []finding
	add := func(of, what, message string, err error) {
		f := finding{of, what, "ok", message}
		if err != nil {
			f.Status, f.Message = "error", err.Error()
		}
		all = append(all, f)
	}
	within := func(do func(context.Context)) {
		ctx, cancel := context.WithTimeout(a.ctx, c.Timeout)
		defer cancel()
		do(ctx)
	}
	within(func(ctx context.Context) {
		b, err := broker.Dial(ctx, cfg.brokerConfig(ctx, store), log)
		if err != nil {
			add("nats", "connection", "", err)
			return
		}
		defer b.Close()
		var rights []finding
		if cfg.NATS.URL != "" {
			rights = natsRights(ctx, b, cfg.role(b))
		}
		// A request that the user may not send gets no answer.
		if slices.ContainsFunc(rights, func(f finding) bool { return f.Status == "error" }) {
			add("nats", "connection", "connected; the streams were not looked at, because permissions are missing", nil)
		} else if cfg.agent {
			add("nats", "connection", "connected, for the lane of mail host "+cfg.MailHost, nil)
		} else {
			add("nats", "connection", "connected, all streams exist", b.Health(ctx))
		}
		all = append(all, rights...)
	})
	if !cfg.NATS.Password.IsZero() {
		within(func(ctx context.Context) {
			all = append(all, secretFindings(ctx, store, "nats", "password", cfg.NATS.Password)...)
		})
	}
	if !cfg.Audit.Key.IsZero() {
		within(func(ctx context.Context) {
			all = append(all, secretFindings(ctx, store, "audit", "key", cfg.Audit.Key)...)
		})
	}
	if warning := cfg.unsignedWarning(); warning != "" {
		all = append(all, finding{"audit", "key", "warning", warning})
	}
	credentials := cfg.Vault.Auth.Refs()
	for _, key := range slices.Sorted(maps.Keys(credentials)) {
		if ref := credentials[key]; !ref.IsZero() {
			within(func(ctx context.Context) { all = append(all, secretFindings(ctx, store, "vault", key, ref)...) })
		}
	}
	if store.UsesVault() {
		within(func(ctx context.Context) { add("vault", "server", "answers", store.Health(ctx)) })
	}
	within(func(ctx context.Context) { all = append(all, cfg.HTTP.probe(ctx, store)...) })
	within(func(ctx context.Context) { all = append(all, cfg.Alerts.probe(ctx, store)...) })
	within(func(ctx context.Context) { all = append(all, cfg.Outcomes.probe(ctx, store)...) })
	within(func(ctx context.Context) {
		roots := cfg.courierOptions().Roots()
		for _, of := range slices.Sorted(maps.Keys(roots)) {
			for _, root := range roots[of].TryRoots(ctx) {
				add(of, "file_roots", fmt.Sprintf("%s: %s can be read", root.Root, count(root.Files, "file")), root.Err)
				if root.Err == nil && root.Files == 0 {
					all[len(all)-1] = finding{of, "file_roots", "warning", root.Root + ": has no file that Certpost can read, so no event can name one"}
				}
				for _, warning := range root.Warnings {
					all = append(all, finding{of, "file_roots", "warning", warning})
				}
			}
		}
	})

	inspector := delivery.NewCourier(cfg.Book, store, cfg.courierOptions()).Inspector()
	targets, err := c.targets(a, cfg)
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		within(func(ctx context.Context) {
			for _, p := range inspector.Check(ctx, t.ID) {
				all = append(all, finding{"target/" + t.ID, p.What, string(p.Status), p.Message})
			}
		})
	}
	judge := cfg.DNS.judge()
	within(func(ctx context.Context) {
		for _, s := range inspector.Senders(ctx, targets) {
			for _, p := range judge.Judge(ctx, s) {
				f := finding{"sender/" + s.Domain, p.What, string(p.Status), p.Message}
				if !slices.Contains(all, f) { // the same domain through several relays
					all = append(all, f)
				}
			}
		}
	})
	return all, nil
}

// role is the role of this process's NATS user.
func (c *Config) role(b *broker.Broker) broker.UserRole {
	if !c.agent {
		return b.OwnRole(service.Names())
	}
	host := broker.MailHost{Name: c.MailHost, Lane: c.hostLane()}
	for _, t := range c.Book.Current().All() {
		if t.Lane() == host.Lane {
			host.Targets = append(host.Targets, t.ID)
		}
	}
	return b.OwnHostRole(host)
}

// natsRights compares the permissions of the program's NATS user with those of its role.
func natsRights(ctx context.Context, b *broker.Broker, role broker.UserRole) (all []finding) {
	rights, err := b.Rights(ctx)
	if err != nil {
		return []finding{{"nats", "permissions", "warning", err.Error()}}
	}
	user := "user " + cmp.Or(rights.User, "without a name")
	for _, what := range rights.Missing(role) {
		all = append(all, finding{"nats", "permissions", "error", user + " " + what + "; certpost nats-account prints what it needs"})
	}
	for _, what := range rights.Excess(role) {
		all = append(all, finding{"nats", "permissions", "warning", user + " " + what + "; certpost nats-account prints what is enough"})
	}
	if len(all) == 0 {
		all = append(all, finding{"nats", "permissions", "ok", user + " has the permissions of its role and no others"})
	}
	return all
}

func (c *checkCmd) targets(a *app, cfg *Config) ([]*delivery.Target, error) {
	defs := cfg.Book.Current()
	if len(c.Target) == 0 {
		return defs.All(), nil
	}
	var some []*delivery.Target
	for _, id := range c.Target {
		t, err := a.targetOf(defs, id)
		if err != nil {
			return nil, err
		}
		some = append(some, t)
	}
	return some, nil
}

// targetOf returns the target that --target names by its id, or by one that it had before; then it
// says so.
func (a *app) targetOf(defs *delivery.Definitions, id string) (*delivery.Target, error) {
	t, ok := defs.Find(id)
	if !ok {
		var ids []string
		for _, known := range defs.All() {
			ids = append(ids, known.ID)
		}
		return nil, unknownTarget("--target "+printable(id)+": unknown target", id, ids)
	}
	a.noteFormerID(id, t.ID)
	return t, nil
}

// unknownTarget is the error for an id that no target has or had.
func unknownTarget(what, id string, known []string) error {
	if near := legible.Nearest(id, known...); near != "" {
		return usage("%s: did you mean %s?", what, near)
	}
	return usage("%s: certpost targets list shows the targets", what)
}

// noteFormerID says that an id is one that a target had before.
func (a *app) noteFormerID(given, now string) {
	if given != now {
		fmt.Fprintf(a.stderr, "certpost: %s is a former id of target %s\n", printable(given), now)
	}
}
