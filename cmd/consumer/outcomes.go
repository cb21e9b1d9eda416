package main

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/certpost/certpost/internal/outcome"
	"github.com/certpost/certpost/internal/queue"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/webhook"
)

// outcomes publish what became of deliveries, and post it to webhooks.
type outcomes struct {
	publisher *outcome.Publisher
	webhooks  []*outcome.Webhook
}

// newOutcomes returns the section outcomes at work; nil if it is off.
func (s *instance) newOutcomes(registry prometheus.Registerer) *outcomes {
	cfg := &s.cfg.Outcomes
	if !cfg.Enabled || s.cfg.agent { // an agent's deliveries are in the ledger that the others read
		return nil
	}
	metrics := outcome.NewMetrics(registry)
	o := &outcomes{publisher: &outcome.Publisher{Store: s.broker, Process: s.runner.Name(), MaxAge: cfg.MaxAge, Metrics: metrics, Log: s.log,
		Report: func(err error) { s.runner.Report(queue.PartOutcomes, "", err) }}}
	for _, name := range slices.Sorted(maps.Keys(cfg.Webhooks)) {
		w := cfg.Webhooks[name]
		o.webhooks = append(o.webhooks, &outcome.Webhook{Name: name, To: w.open(s.store, name), Types: w.types(), Targets: w.Targets, Feed: s.broker.OutcomeFeed(name), Metrics: metrics, Log: s.log,
			Report: func(err error) { s.runner.Report(queue.PartOutcomeWebhook, name, err) }})
	}
	return o
}

// run works until the context ends.
func (o *outcomes) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, w := range o.webhooks {
		w.Prepare(ctx)
	}
	wg.Go(func() { o.publisher.Run(ctx) })
	for _, w := range o.webhooks {
		wg.Go(func() { w.Run(ctx) })
	}
}

// open returns the webhook with its secrets.
func (w *OutcomeWebhook) open(store *secrets.Store, name string) webhook.Receiver {
	to := openWebhook(store, "outcomes.webhooks."+name, w.URL, w.Secret, w.format())
	if to.Format == webhook.Certpost {
		to.ContentType = "application/cloudevents+json"
	}
	return to
}

// probe checks the webhooks: their secrets, and whether the receivers answer.
func (c *OutcomesConfig) probe(ctx context.Context, store *secrets.Store) (found []finding) {
	for _, name := range slices.Sorted(maps.Keys(c.Webhooks)) {
		w := c.Webhooks[name]
		found = append(found, probeWebhook(ctx, store, "outcomes", "webhook "+name, w.open(store, name), w.URL, w.Secret, "the receiver answers")...)
	}
	return found
}
