package outcome

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/webhook"
)

const (
	// atOnce is how many outcomes a process posts to one webhook at the same time.
	atOnce = 4
	// fetchWait is how long a look into the stream waits for outcomes.
	fetchWait = 5 * time.Second
	// stateEvery is the time between two looks at how far a webhook is behind.
	stateEvery = 5 * time.Second
)

// Feed is where a webhook reads the stream; *broker.OutcomeFeed is one.
type Feed interface {
	Prepare(context.Context) error
	Fetch(ctx context.Context, n int, wait time.Duration) ([]broker.FedOutcome, error)
	State(context.Context) (broker.FeedState, error)
}

// Webhook posts outcomes to one receiver, each until the receiver has it or the stream's limits remove it. A receiver that is
// away holds up no other one, and an outcome that is refused no other outcome.
type Webhook struct {
	Name    string
	To      webhook.Receiver
	Types   []Type   // to post; nil: all
	Targets []string // whose outcomes to post; nil: all
	Feed    Feed
	Metrics *Metrics
	// Report gets what keeps outcomes from the receiver, and nil when nothing does.
	Report func(error)
	Log    zerolog.Logger

	standing standing
	dropped  uint64 // that the log has
}

// Run posts until the context ends.
func (w *Webhook) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.watch(ctx) })
	for worker := range atOnce {
		wg.Go(func() {
			for ctx.Err() == nil {
				if pause := w.standing.wait(worker, time.Now()); pause > 0 {
					backoff.Sleep(ctx, pause)
					continue
				}
				w.Round(ctx)
			}
		})
	}
}

// Prepare makes the webhook's place in the stream, so that it gets what is published from now on.
func (w *Webhook) Prepare(ctx context.Context) {
	if err := w.Feed.Prepare(ctx); err != nil && ctx.Err() == nil {
		w.Report(err) // Run tries again
	}
}

// Round posts the next outcome, if one is due.
func (w *Webhook) Round(ctx context.Context) {
	all, err := w.Feed.Fetch(ctx, 1, fetchWait)
	for _, o := range all {
		if err == nil {
			err = w.handle(ctx, o)
		}
	}
	if ctx.Err() == nil {
		w.standing.read(err, w.report)
	}
}

// handle posts one outcome. A process that is killed between the answer and Done posts it again, with the same id. The error is
// one of NATS.
func (w *Webhook) handle(ctx context.Context, o broker.FedOutcome) error {
	e, err := Read(o.Data)
	if err != nil || !w.wants(e) {
		return o.Done(ctx)
	}
	err = w.To.Post(ctx, e.ID, func(secret string) ([]byte, error) { return e.Body(w.To.Format, secret) })
	if ctx.Err() == nil {
		w.Metrics.post(w.Name, err != nil)
	}
	if err == nil {
		w.standing.took(o.Sequence)
		return o.Done(ctx)
	}
	if ctx.Err() != nil {
		return nil // the end of the program is no failure; the outcome comes again
	}
	pause := w.standing.failed(o, err, time.Now(), w.report)
	if again := o.Again(pause); again != nil {
		w.Log.Debug().Err(again).Str("webhook", w.Name).Msg("an outcome comes again when its acknowledgement is overdue")
	}
	return nil
}

func (w *Webhook) wants(e *Event) bool {
	return (w.Types == nil || slices.Contains(w.Types, e.Data.Outcome)) && (w.Targets == nil || slices.Contains(w.Targets, e.Data.Target))
}

// report passes an error on with the webhook's name, unless it has that.
func (w *Webhook) report(err error) {
	if f := (*webhook.Failure)(nil); err != nil && !errors.As(err, &f) {
		err = fmt.Errorf("webhook %s: %w", w.Name, err)
	}
	w.Report(err)
}

// watch looks at the webhook until the context ends.
func (w *Webhook) watch(ctx context.Context) {
	for ctx.Err() == nil {
		w.look(ctx)
		backoff.Sleep(ctx, stateEvery)
	}
}

// look measures how far the webhook is behind, reports whether outcomes wait for another try, and logs when the stream's
// limits have removed what the webhook does not have.
func (w *Webhook) look(ctx context.Context) {
	began := time.Now()
	s, err := w.Feed.State(ctx)
	if err != nil {
		return // Round notices what lasts
	}
	retrying, removed := w.standing.look(s, began, w.report)
	dropped := s.Dropped + removed
	w.Metrics.waiting.WithLabelValues(w.Name).Set(float64(s.Waiting))
	w.Metrics.retrying.WithLabelValues(w.Name).Set(float64(retrying))
	w.Metrics.dropped.WithLabelValues(w.Name).Set(float64(dropped))
	if dropped > w.dropped {
		w.Log.Error().Str("webhook", w.Name).Uint64("outcomes", dropped).Msg("the limits of " + broker.OutcomesStream + " have removed outcomes that the webhook does not have; raise outcomes.max_age or max_bytes, and read the audit")
	}
	w.dropped = dropped
}
