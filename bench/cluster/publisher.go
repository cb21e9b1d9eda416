//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// publisher publishes each event until it is acknowledged, as a careful publisher does.
type publisher struct {
	broker *broker.Broker
	chain  string

	mu    sync.Mutex
	ids   []string
	wrong error // an event that was not acknowledged
}

func newPublisher(urls []string) (*publisher, error) {
	chain, err := road.NewChain("www.example.com")
	if err != nil {
		return nil, err
	}
	b, err := broker.Open(broker.Config{URL: strings.Join(urls, ",")}, zerolog.Nop())
	return &publisher{broker: b, chain: chain}, err
}

// run publishes events at a rate until the context ends, and returns when all that it has
// begun are acknowledged.
func (p *publisher) run(ctx context.Context, rate int) {
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			wg.Wait()
			return
		case <-tick.C:
		}
		id := fmt.Sprintf("e%d", i)
		p.ids = append(p.ids, id)
		wg.Go(func() {
			if err := p.publish(context.WithoutCancel(ctx), id); err != nil {
				p.mu.Lock()
				p.wrong = fmt.Errorf("event %s was not acknowledged: %w", id, err)
				p.mu.Unlock()
			}
		})
	}
}

// publish publishes one event until it is acknowledged, for two minutes at most.
func (p *publisher) publish(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	ev := &events.Event{ID: id, Source: "cluster://bench", Certificate: events.Certificate{PEM: p.chain}, Targets: targetIDs}
	for {
		once, cancel := context.WithTimeout(ctx, broker.RequestTimeout)
		_, _, err := p.broker.Publish(once, ev)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		backoff.Sleep(ctx, look)
	}
}

// finish ends the connection and returns an error if an event was not acknowledged.
func (p *publisher) finish(context.Context) error {
	p.broker.Close()
	if len(p.ids) == 0 {
		return errors.New("nothing was published")
	}
	return p.wrong
}
