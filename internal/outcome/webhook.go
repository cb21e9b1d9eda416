package outcome

import (
	"cmp"
	"context"
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
	// The pauses after failed tries: of one outcome, and of the whole webhook.
	firstPause     = 5 * time.Second
	longestPause   = 10 * time.Minute
	longestWebhook = time.Minute
	// stateEvery is the time between two looks at how far a webhook is behind.
	stateEvery = 15 * time.Second
)

// Feed is where a webhook reads the stream; *broker.OutcomeFeed is one.
type Feed interface {
	Prepare(context.Context) error
	Fetch(ctx context.Context, n int, wait time.Duration) ([]broker.FedOutcome, error)
	State(context.Context) (broker.FeedState, error)
}

// Webhook posts outcomes to one receiver, each until the receiver has it or the stream's limits remove it. A receiver that is
// away holds up no other one.
type Webhook struct {
	Name    string
	To      webhook.Receiver
	Types   []Type   // to post; nil: all
	Targets []string // whose outcomes to post; nil: all
	Feed    Feed
	Metrics *Metrics
	// Report gets the result of each try: nil, or what keeps outcomes from the receiver.
	Report func(error)
	Log    zerolog.Logger

	failures int           // in a row, without an outcome that the receiver took
	failed   error         // the latest failure, until what failed has arrived; nil: none
	failedAt time.Time     // of failed
	first    time.Duration // the first pause; 0: firstPause. Tests make it shorter.
	dropped  uint64
}

// Run posts until the context ends.
func (w *Webhook) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.watch(ctx) })
	for ctx.Err() == nil {
		if err := w.Round(ctx); err != nil && ctx.Err() == nil {
			w.failures++
			w.failed, w.failedAt = err, time.Now()
			w.Report(err)
			backoff.Sleep(ctx, backoff.Jitter(w.pause(w.failures, longestWebhook)))
		}
	}
}

// Prepare makes the webhook's place in the stream, so that it gets what is published from now on.
func (w *Webhook) Prepare(ctx context.Context) {
	if err := w.Feed.Prepare(ctx); err != nil && ctx.Err() == nil {
		w.Report(err) // Run tries again
	}
}

// Round posts the next outcomes. The error is that of one that was not posted.
func (w *Webhook) Round(ctx context.Context) error {
	all, err := w.Feed.Fetch(ctx, atOnce, fetchWait)
	if err != nil {
		return fmt.Errorf("webhook %s: %w", w.Name, err)
	}
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, o := range all {
		wg.Go(func() { errs[i] = w.handle(ctx, o) })
	}
	wg.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return errs[i]
	}
	if len(all) > 0 {
		w.failures = 0
	}
	return w.reportUnfailed(ctx)
}

// reportUnfailed reports the result of a round without a failure. Neither that nothing came nor that another outcome arrived
// says that what failed has arrived: an outcome waits for its next try for longer than a round does.
func (w *Webhook) reportUnfailed(ctx context.Context) error {
	if w.failed != nil {
		s, err := w.Feed.State(ctx)
		if err != nil {
			return fmt.Errorf("webhook %s: %w", w.Name, err)
		}
		if again := s.Repeated > 0 || time.Since(w.failedAt) < 2*w.pause(1, longestPause); s.Waiting > 0 && again {
			w.Report(w.failed)
			return nil
		}
		w.failed = nil
	}
	w.Report(nil)
	return nil
}

// handle posts one outcome. A process that is killed between the answer and Done posts it again, with the same id.
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
		return o.Done(ctx)
	}
	if again := o.Again(backoff.Jitter(w.pause(int(min(o.Tries, 30)), longestPause))); again != nil {
		w.Log.Debug().Err(again).Str("webhook", w.Name).Msg("an outcome comes again when its acknowledgement is overdue")
	}
	return err
}

func (w *Webhook) wants(e *Event) bool {
	return (w.Types == nil || slices.Contains(w.Types, e.Data.Outcome)) && (w.Targets == nil || slices.Contains(w.Targets, e.Data.Target))
}

// pause is the pause after a number of failures.
func (w *Webhook) pause(failures int, longest time.Duration) time.Duration {
	return min(cmp.Or(w.first, firstPause)<<min(max(failures-1, 0), 10), longest)
}

// watch measures how far the webhook is behind, and logs when the stream's limits remove what it does not have.
func (w *Webhook) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if s, err := w.Feed.State(ctx); err == nil {
			w.Metrics.waiting.WithLabelValues(w.Name).Set(float64(s.Waiting))
			w.Metrics.dropped.WithLabelValues(w.Name).Set(float64(s.Dropped))
			if s.Dropped > w.dropped {
				w.Log.Error().Str("webhook", w.Name).Uint64("outcomes", s.Dropped).Msg("the limits of " + broker.OutcomesStream + " have removed outcomes that the webhook does not have; raise outcomes.max_age or max_bytes, and read the audit")
			}
			w.dropped = s.Dropped
		}
		backoff.Sleep(ctx, stateEvery)
	}
}
