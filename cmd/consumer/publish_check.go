package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// check refuses an event that could only become a dead letter, by the rules of the delivery: here
// somebody still looks at the exit code. --force publishes it all the same, with a warning.
func (c *publishCmd) check(a *app, cfg *Config, p publication) error {
	ev, err := decoded(p.ev)
	if err != nil {
		return err
	}
	var problems []string
	bundle, err := payload.ParseBundle([]byte(ev.Certificate.PEM))
	if err != nil {
		problems = append(problems, reasonOf(err))
	} else if word, sentence := bundle.DateProblem(time.Now()); word == payload.Expired || word == payload.NeverValid {
		// One that is not yet valid can be replayed later.
		if cfg.Events.InvalidDates != "warn" {
			problems = append(problems, sentence)
		}
	}
	problems = append(problems, c.unknownTargets(a, cfg, ev.Targets)...)
	if bundle != nil && bundle.Unsupported != "" && !c.takenUnsupported(cfg, ev.Targets) {
		problems = append(problems, bundle.Unsupported+"; no target has allow_unsupported_certificate")
	}
	named := *ev
	if c.KeyRef == "" && (cfg.Events.Sources == nil || c.StoreKey != "") {
		named.PrivateKey = nil // the client's file, which may be on another host, or is to be stored elsewhere
	}
	problems = append(problems, closed(cfg, &named)...)
	if bundle != nil && bundle.Strays != "" {
		fmt.Fprintln(a.stderr, "certpost: warning: the chain has certificates that do not belong to it and are left out:", bundle.Strays)
	}
	for _, problem := range problems {
		if !c.Force {
			return usage("this cannot be delivered: %s; --force publishes it all the same", problem)
		}
		fmt.Fprintln(a.stderr, "certpost: warning: this cannot be delivered as it is:", problem)
	}
	return nil
}

// unknownTargets returns a problem for each named target that the configuration does not define. A
// publisher's own configuration may have no targets, or targets with errors; then nothing is known
// of them, and the program that runs decides.
func (c *publishCmd) unknownTargets(a *app, cfg *Config, ids []string) (problems []string) {
	cfg.openBook(configPath(a.config, a.env), a.env) // with errors there is no book
	if cfg.Book == nil || len(cfg.Book.Current().All()) == 0 {
		return nil
	}
	for _, id := range ids {
		if t, ok := cfg.Book.Current().Get(id); !ok {
			problems = append(problems, fmt.Sprintf("target %q is not defined in the configuration", printable(id)))
		} else if t.Disabled {
			problems = append(problems, fmt.Sprintf("target %q is disabled", printable(id)))
		}
	}
	return problems
}

// takenUnsupported reports whether one of the targets, or any if none is named, may take a
// certificate that cannot be verified. Without targets in the configuration it may.
func (c *publishCmd) takenUnsupported(cfg *Config, ids []string) bool {
	if cfg.Book == nil || len(cfg.Book.Current().All()) == 0 {
		return true
	}
	for _, t := range cfg.Book.Current().All() {
		if t.AllowUnsupportedCertificate && !t.Disabled && (len(ids) == 0 || slices.Contains(ids, t.ID)) {
			return true
		}
	}
	return false
}

// closed returns why an event may not name what it names, by its source. A publisher's own
// configuration may say nothing of it; then the program that runs decides.
func closed(cfg *Config, ev *events.Event) (problems []string) {
	if len(cfg.Events.SecretPaths) == 0 && len(cfg.Events.FileRoots) == 0 && cfg.Events.Sources == nil {
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
