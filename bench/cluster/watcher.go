//go:build unix

package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/devrelay"
)

// look is the time between two looks at the leaders, and the precision of what is reported.
const look = 100 * time.Millisecond

// watcher notes when all streams and consumers that a mail needs have a leader, and when
// mails arrive.
type watcher struct {
	cluster *cluster
	relay   *devrelay.Relay

	mu sync.Mutex
	// ledAt, since the last begin: when all had a leader again; lostAt: when one had none.
	// The longest time without is kept, and how much later the next mail came.
	lostAt, ledAt    time.Time
	mails            int // when all had a leader again
	leaderless, late time.Duration
}

// begin forgets what was before a fault.
func (w *watcher) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lostAt, w.ledAt, w.leaderless, w.late = time.Time{}, time.Time{}, 0, 0
}

// run looks until the context ends.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		asked := time.Now()
		led := w.cluster.allLed(ctx)
		w.note(led, asked, w.relay.Count())
		backoff.Sleep(ctx, look)
	}
}

func (w *watcher) note(led bool, asked time.Time, mails int) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !led && w.lostAt.IsZero():
		w.lostAt, w.ledAt = asked, time.Time{}
	case !led:
		w.ledAt = time.Time{}
	case !w.lostAt.IsZero() && w.ledAt.IsZero():
		w.ledAt, w.mails = now, mails
	}
	if !w.ledAt.IsZero() && mails > w.mails {
		if gap := w.ledAt.Sub(w.lostAt); gap > w.leaderless {
			w.leaderless = gap
		}
		w.late = max(w.late, now.Sub(w.ledAt))
		w.lostAt, w.ledAt = time.Time{}, time.Time{}
	}
}

// gaps returns the longest time without a leader since begin, and the longest time from
// then to the next mail.
func (w *watcher) gaps() (leaderless, late time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leaderless, w.late
}

// await waits until done returns true.
func (w *watcher) await(ctx context.Context, done func() bool) error {
	for end := time.Now().Add(time.Minute); ctx.Err() == nil; backoff.Sleep(ctx, look) {
		if done() {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("no mail arrived within a minute: see the logs")
		}
	}
	return ctx.Err()
}
