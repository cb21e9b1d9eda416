package main

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/outcome"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/webhook"
)

// OutcomesConfig is the section outcomes: what became of each delivery, for other systems (docs/outcomes.md), as
// CloudEvents on certpost.outcome.<target> in the stream CERTPOST_OUTCOMES, and by webhook. All processes on one
// NATS need the same values.
type OutcomesConfig struct {
	// Enabled publishes outcomes, from the first start with it on.
	Enabled bool `yaml:"enabled"`
	// MaxAge is how long the stream keeps an outcome.
	MaxAge time.Duration `yaml:"max_age" min:"1h" max:"9600h"`
	// MaxBytes is the most that the stream stores; it drops the oldest outcomes for new ones. One takes about 1 KiB.
	MaxBytes Size `yaml:"max_bytes" pattern:"^[0-9]+(KiB|MiB|GiB|TiB)$"`
	// Webhooks post outcomes to receivers, by their names. Each gets the outcomes from its first start on.
	Webhooks map[string]OutcomeWebhook `yaml:"webhooks"`
}

// OutcomeWebhook is one of outcomes.webhooks.
type OutcomeWebhook struct {
	// URL is the address to POST to; a secret reference, or text. It begins with https://,
	// except on this machine. Redirects are not followed.
	URL secrets.Ref `yaml:"url" required:"true"`
	// Secret is a secret reference: for certpost the key of at least 16 characters that requests are signed with
	// (Standard Webhooks), for pagerduty the integration key.
	Secret secrets.Ref `yaml:"secret"`
	// Format is that of the body: certpost (the CloudEvent), slack, teams or pagerduty. Default: certpost.
	Format string `yaml:"format" enum:"certpost,slack,teams,pagerduty"`
	// Types are the outcomes to post: delivered, deployed, failed, dead, replayed, discarded, restored, skipped, rolled-back.
	// Default: all; for slack, teams and pagerduty all but failed.
	Types []string `yaml:"types"`
	// Targets are the ids of those whose outcomes to post, without patterns. Default: all.
	Targets []string `yaml:"targets"`
}

func defaultOutcomes() OutcomesConfig {
	return OutcomesConfig{MaxAge: 7 * 24 * time.Hour, MaxBytes: 1 << 30}
}

// minOutcomes is the smallest limit of the stream, in bytes: one group of messages fits into it several times.
const minOutcomes = 16 << 20

func (c *OutcomesConfig) validate(f *findings) {
	if c.MaxBytes < minOutcomes {
		f.err("outcomes.max_bytes", "must be at least 16MiB")
	}
	if !c.Enabled && len(c.Webhooks) > 0 {
		f.err("outcomes.webhooks", "need outcomes.enabled: true")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Webhooks)) {
		w, path := c.Webhooks[name], "outcomes.webhooks."+name
		if !events.IsToken(name) {
			f.err(path, "is no name: want 1 to 64 letters, digits, - and _")
		}
		if w.URL.IsZero() {
			f.err(path+".url", "is required: where the outcomes go")
			continue
		}
		checkWebhook(f, path, w.URL, w.Secret, webhook.Format(w.format()))
		for _, t := range w.Types {
			if !slices.Contains(outcome.Types(), outcome.Type(t)) {
				f.err(path+".types", "has "+printable(t)+", which is no outcome")
			}
		}
		for i, id := range w.Targets {
			if !events.IsToken(id) {
				f.err(fmt.Sprintf("%s.targets[%d]", path, i), "want the id of a target; patterns are not possible here: name each target, or leave targets out for all")
			}
		}
	}
}

// undefined returns a warning for each target of a webhook that nothing defines: it has no outcomes.
func (c *OutcomesConfig) undefined(d *delivery.Definitions) (found []config.Problem) {
	for _, name := range slices.Sorted(maps.Keys(c.Webhooks)) {
		ids := c.Webhooks[name].Targets
		if slices.ContainsFunc(ids, func(id string) bool { return !events.IsToken(id) }) {
			continue // an error of its own
		}
		found = append(found, d.Undefined("outcomes.webhooks."+name+".targets", ids)...)
	}
	return found
}

func (w *OutcomeWebhook) format() string {
	if w.Format == "" {
		return string(webhook.Certpost)
	}
	return w.Format
}

// types are the outcomes to post; nil: all.
func (w *OutcomeWebhook) types() (types []outcome.Type) {
	for _, t := range w.Types {
		types = append(types, outcome.Type(t))
	}
	if types == nil && w.format() != string(webhook.Certpost) {
		types = slices.DeleteFunc(outcome.Types(), func(t outcome.Type) bool { return t == outcome.Failed })
	}
	return types
}

// limits are those of the stream.
func (c *OutcomesConfig) limits() broker.OutcomeLimits {
	if !c.Enabled {
		return broker.OutcomeLimits{}
	}
	return broker.OutcomeLimits{MaxAge: c.MaxAge, MaxBytes: int64(c.MaxBytes)}
}
