// Package backoff has what waiting in all parts of Certpost has in common.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Jitter spreads a delay over 80 to 120 %, so that processes and deliveries that failed
// together do not retry together.
func Jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// Sleep waits for a duration, or until the context ends.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
