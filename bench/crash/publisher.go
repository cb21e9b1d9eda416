package main

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// publisher publishes each event until it is acknowledged.
type publisher struct {
	nats  broker.Config
	chain string

	mu  sync.Mutex
	ids map[string]bool // true: acknowledged
}

func newPublisher(nats broker.Config) (*publisher, error) {
	chain, err := road.NewChain("www.example.com")
	return &publisher{nats: nats, chain: chain, ids: map[string]bool{}}, err
}

// count returns the number of events that were acknowledged or may be stored.
func (p *publisher) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ids)
}

// run publishes events whenever may returns true, until the context is cancelled.
func (p *publisher) run(ctx context.Context, may func() bool) {
	var wg sync.WaitGroup
	ids := make(chan string)
	for range 8 {
		wg.Go(func() { p.publishAll(ctx, ids) })
	}
	for i := 0; ctx.Err() == nil; {
		if !may() {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		ids <- strconv.Itoa(i)
		i++
	}
	close(ids)
	wg.Wait()
}

// finish publishes the events that are not acknowledged yet. The error says that one
// was not acknowledged within a minute.
func (p *publisher) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ids := make(chan string, p.count())
	for id, acknowledged := range p.ids {
		if !acknowledged {
			ids <- id
		}
	}
	close(ids)
	p.publishAll(ctx, ids)
	for _, acknowledged := range p.ids {
		if !acknowledged {
			return errors.New("an event was not acknowledged within a minute")
		}
	}
	return nil
}

// publishAll publishes each event until it is acknowledged or the context is cancelled.
// A failed connection is not used again, because its server was killed.
func (p *publisher) publishAll(ctx context.Context, ids <-chan string) {
	var b *broker.Broker
	defer func() {
		if b != nil {
			b.Close()
		}
	}()
	for id := range ids {
		acknowledged := false
		p.note(id, acknowledged)
		for !acknowledged && ctx.Err() == nil {
			if b == nil {
				b = dial(ctx, p.nats)
			}
			if b != nil {
				acknowledged = p.publish(ctx, b, id)
				p.note(id, acknowledged)
			}
			if b != nil && !acknowledged {
				b.Close()
				b = nil
			}
			if b == nil {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
}

func (p *publisher) note(id string, acknowledged bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ids[id] = acknowledged
}

func (p *publisher) publish(ctx context.Context, b *broker.Broker, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	ev := &events.Event{ID: id, Source: "crash://bench", Certificate: events.Certificate{PEM: p.chain}, Targets: targetIDs}
	_, _, err := b.Publish(ctx, ev)
	return err == nil
}

// dial returns a connection, or nil if it cannot connect within a second.
func dial(ctx context.Context, nats broker.Config) *broker.Broker {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	b, err := broker.Dial(ctx, nats, zerolog.Nop())
	if err != nil {
		return nil
	}
	return b
}
