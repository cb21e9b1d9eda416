package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// check refuses an event that could only become dead letters, by the rules of the delivery: here
// somebody still looks at the exit code. --force publishes it all the same, with a warning. If some
// of its targets can get it, it is published, with a warning that names the others.
func (c *publishCmd) check(a *app, cfg *Config, p publication) error {
	ev, err := decoded(p.ev)
	if err != nil {
		return err
	}
	var problems []string
	bundle, err := payload.ParseBundle([]byte(ev.Certificate.PEM))
	if err == nil {
		_, err = payload.CheckDates(bundle, time.Now(), datePolicy(cfg))
	}
	if err == nil && c.StoreKey != "" {
		place, err := c.storePlace(p, bundle.Leaf)
		if err != nil {
			return err
		}
		ev.PrivateKey = eventReference(place)
	}
	if err != nil {
		problems = append(problems, reasonOf(err))
	} else {
		problems = c.undeliverable(a, cfg, ev)
		if problem := p.referencedKey(ev, bundle.Leaf); problem != "" {
			problems = append(problems, problem)
		}
	}
	if c.KeyRef != "" {
		if ref, err := secrets.ParseRef(c.KeyRef); err == nil {
			if warning := ref.Warning(); warning != "" {
				fmt.Fprintln(a.stderr, "certpost: warning: --key-ref:", warning)
			}
		}
	}
	named := *ev
	if c.KeyRef == "" && (cfg.Events.Sources == nil || c.StoreKey != "") {
		named.PrivateKey = nil // the client's file, which may be on another host, or is to be stored elsewhere
	}
	for _, problem := range closed(cfg, &named) {
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, problem) }) {
			problems = append(problems, problem)
		}
	}
	if err := c.refuse(a, problems); err != nil {
		return err
	}
	if bundle != nil && bundle.Strays != "" {
		fmt.Fprintln(a.stderr, "certpost: warning: the chain has certificates that do not belong to it and are left out:", bundle.Strays)
	}
	return nil
}

// datePolicy is that of all events, or warn if a target takes certificates that are out of date:
// undeliverable then judges each target.
func datePolicy(cfg *Config) string {
	if cfg.Book != nil && slices.ContainsFunc(cfg.Book.Current().All(), func(t *delivery.Target) bool { return t.InvalidDates == "warn" }) {
		return "warn"
	}
	return cfg.Events.InvalidDates
}

// refuse returns an error if there are problems, or, with --force, warns of them.
func (c *publishCmd) refuse(a *app, problems []string) error {
	if len(problems) > 0 && !c.Force {
		return usage("this cannot be delivered: %s%s", strings.Join(problems, "; "), c.forceHint("publishes"))
	}
	for _, problem := range problems {
		fmt.Fprintln(a.stderr, "certpost: warning: this cannot be delivered as it is:", problem)
	}
	return nil
}

// forceHint says what --force does, where the flag is there.
func (c *publishCmd) forceHint(does string) string {
	if c.noForce {
		return ""
	}
	return "; --force " + does + " it all the same"
}

// undeliverable returns why no target can get the event; if only some cannot, it warns of these. A
// publisher's own configuration may have no targets, or targets with errors; then nothing is known
// of them, and the program that runs decides.
func (c *publishCmd) undeliverable(a *app, cfg *Config, ev *events.Event) (problems []string) {
	cfg.openBook(configPath(a.config, a.env), a.env) // with errors there is no book
	if cfg.Book == nil || len(cfg.Book.Current().All()) == 0 {
		return nil
	}
	routes, failure := delivery.NewCourier(cfg.Book, nil, cfg.courierOptions()).Foresee(a.ctx, ev)
	if failure != nil {
		return []string{reasonOf(failure)}
	}
	for _, route := range routes {
		if route.Failure == nil {
			c.targets = append(c.targets, route.Target)
			continue
		}
		problem := reasonOf(route.Failure)
		if name := fmt.Sprintf("target %q", printable(route.Target)); !strings.HasPrefix(problem, name) {
			problem = name + ": " + problem
		}
		problems = append(problems, problem)
	}
	const none = "no target matches: name targets with --target, or add a target whose match fits the certificate and the labels"
	switch {
	case len(routes) == 0 && cfg.Events.Unmatched == "ignore":
		fmt.Fprintln(a.stderr, "certpost: warning: no target matches, so the event will be ignored (events.unmatched: ignore)")
	case len(routes) == 0:
		return []string{none}
	case len(c.targets) == 0:
		return limited(problems)
	}
	c.warnOfSome(a, problems)
	return nil
}

// warnOfSome warns of targets that cannot get an event that others get.
func (c *publishCmd) warnOfSome(a *app, problems []string) {
	for _, problem := range limited(problems) {
		fmt.Fprintln(a.stderr, "certpost: warning: this cannot be delivered to all targets:", problem)
	}
}

// limited returns at most ten problems, and how many more there are.
func limited(problems []string) []string {
	const most = 10
	if len(problems) <= most {
		return problems
	}
	return append(slices.Clip(problems[:most]), fmt.Sprintf("%d more targets cannot get it", len(problems)-most))
}

// idTimeout bounds the reading of the ledger: NATS does not answer a publisher who may not read it.
const idTimeout = 2 * time.Second

// checkID refuses an --id under which targets have had another certificate: a delivery refuses it,
// too. Without the right to read the ledger nothing is known, and the delivery decides.
func (c *publishCmd) checkID(ctx context.Context, a *app, b *broker.Broker, ev *events.Event) error {
	if c.ID == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, idTimeout)
	defer cancel()
	var problems []string
	targets := c.targets
	if targets == nil {
		targets = c.Target
	}
	for _, target := range targets {
		entries, err := b.Deliveries(ctx, target, ev.ID)
		if err != nil {
			break
		}
		if len(entries) > 0 {
			if failure := entries[0].Refuses(ev); failure != nil {
				problems = append(problems, fmt.Sprintf("target %q: %s", target, reasonOf(failure)))
			}
		}
	}
	if len(problems) == len(targets) {
		return c.refuse(a, limited(problems))
	}
	c.warnOfSome(a, problems)
	return nil
}

// closed returns why an event may not name what it names, by its source. A publisher's own
// configuration may say nothing of it; then the program that runs decides.
func closed(cfg *Config, ev *events.Event) (problems []string) {
	if cfg.Events.general().IsZero() && cfg.Events.Sources == nil {
		return nil
	}
	for _, reason := range cfg.courierOptions().Refusals(ev) {
		problems = append(problems, strings.Replace(reason, ", then replay", "", 1))
	}
	return problems
}

// reasonOf is the reason of a failure, without the advice to replay: there is nothing to replay yet.
func reasonOf(err error) string {
	var f *verdict.Failure
	if !errors.As(err, &f) {
		return err.Error()
	}
	return strings.TrimSuffix(f.Reason, ", then replay")
}
