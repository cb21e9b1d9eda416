package main

import (
	"context"
	"time"
)

// hourly looks at something that ends after days: certificates and keys.
type hourly struct{ again chan struct{} }

func newHourly() hourly { return hourly{make(chan struct{}, 1)} }

// every calls look at once, each hour, and when it was ordered, until the context ends.
func (h hourly) every(ctx context.Context, look func(context.Context)) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-h.again:
		}
	}
}

// check orders a look now.
func (h hourly) check() {
	select {
	case h.again <- struct{}{}:
	default: // ordered already
	}
}
