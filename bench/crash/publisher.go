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

// publisher publishes events, each until it is acknowledged.
type publisher struct {
	url   string
	chain string

	mu  sync.Mutex
	ids map[string]bool // the value: it is acknowledged
}

func newPublisher(url string) (*publisher, error) {
	chain, err := road.NewChain("www.example.com")
	return &publisher{url: url, chain: chain, ids: map[string]bool{}}, err
}

// count is how many events were acknowledged or may have been.
func (p *publisher) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ids)
}

// run publishes whenever it may, until the context ends.
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

// finish publishes what is not acknowledged yet.
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

// publishAll publishes each until it is acknowledged or the context ends. A
// connection that has failed is not used again: the server behind it is dead.
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
				b = dial(ctx, p.url)
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

// dial is a connection, or nil when there is none to be had now.
func dial(ctx context.Context, url string) *broker.Broker {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	b, err := broker.Dial(ctx, broker.Config{URL: url}, zerolog.Nop())
	if err != nil {
		return nil
	}
	return b
}
