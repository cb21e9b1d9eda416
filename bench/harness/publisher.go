package harness

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
)

// Publisher publishes each event until it is acknowledged, as a careful publisher does.
type Publisher struct {
	config broker.Config
	send   func(ctx context.Context, b *broker.Broker, id string) error

	mu  sync.Mutex
	ids map[string]bool // true: acknowledged
}

// NewPublisher returns a publisher to the servers of a configuration. send
// publishes the event with an id and returns nil when it is acknowledged.
func NewPublisher(config broker.Config, send func(ctx context.Context, b *broker.Broker, id string) error) *Publisher {
	return &Publisher{config: config, send: send, ids: map[string]bool{}}
}

// SendTo returns a function for NewPublisher: every event has the same certificate, and these
// targets.
func SendTo(source string, targets []string) (func(context.Context, *broker.Broker, string) error, error) {
	chain, err := road.NewChain("www.example.com")
	return func(ctx context.Context, b *broker.Broker, id string) error {
		_, _, err := b.Publish(ctx, &events.Event{ID: id, Source: source, Certificate: events.Certificate{PEM: chain}, Targets: targets})
		return err
	}, err
}

// Count returns the number of events that were acknowledged or may be stored.
func (p *Publisher) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ids)
}

// IDs returns the ids of the events that were acknowledged or may be stored.
func (p *Publisher) IDs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.ids))
}

// Run publishes events, several at once, until the context ends. next returns the id of the
// next one when its time has come, and "" when the context has ended.
func (p *Publisher) Run(ctx context.Context, workers int, next func() string) {
	var wg sync.WaitGroup
	ids := make(chan string)
	for range workers {
		wg.Go(func() { p.publishAll(ctx, ids) })
	}
	for id := next(); id != ""; id = next() {
		ids <- id
	}
	close(ids)
	wg.Wait()
}

// AtRate returns a function for Run: ids with this prefix, so many a second.
func AtRate(ctx context.Context, rate int, prefix string) func() string {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	n := 0
	return func() string {
		select {
		case <-ctx.Done():
			tick.Stop()
			return ""
		case <-tick.C:
			n++
			return fmt.Sprintf("%s%d", prefix, n)
		}
	}
}

// Backlog returns a function for Run: the next id whenever fewer deliveries than these wait.
// Each event has that many targets, and all mails arrive at the relay.
func Backlog(ctx context.Context, p *Publisher, relay *devrelay.Relay, targets, deliveries int) func() string {
	n := 0
	return func() string {
		for ctx.Err() == nil && p.Count()*targets-relay.Count() >= deliveries {
			backoff.Sleep(ctx, 5*time.Millisecond)
		}
		if ctx.Err() != nil {
			return ""
		}
		n++
		return strconv.Itoa(n)
	}
}

// Finish publishes the events that are not acknowledged yet. The error says that one
// was not acknowledged within a minute, or that there were no events at all.
func (p *Publisher) Finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ids := make(chan string, p.Count())
	for id, acknowledged := range p.ids {
		if !acknowledged {
			ids <- id
		}
	}
	close(ids)
	p.publishAll(ctx, ids)
	for id, acknowledged := range p.ids {
		if !acknowledged {
			return fmt.Errorf("event %s was not acknowledged within a minute", id)
		}
	}
	if len(p.ids) == 0 {
		return fmt.Errorf("nothing was published")
	}
	return nil
}

// publishAll publishes each event until it is acknowledged or the context ends. A failed
// connection is not used again, because its server was killed or stopped.
func (p *Publisher) publishAll(ctx context.Context, ids <-chan string) {
	var b *broker.Broker
	defer func() {
		if b != nil {
			b.Close()
		}
	}()
	for id := range ids {
		p.note(id, false)
		for ctx.Err() == nil {
			if b == nil {
				b = Dial(ctx, p.config)
			}
			if b != nil && p.publish(ctx, b, id) {
				break
			}
			if b != nil {
				b.Close()
				b = nil
			}
			backoff.Sleep(ctx, 20*time.Millisecond)
		}
	}
}

func (p *Publisher) publish(ctx context.Context, b *broker.Broker, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := p.send(ctx, b, id)
	if err == nil {
		p.note(id, true)
	}
	return err == nil
}

func (p *Publisher) note(id string, acknowledged bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ids[id] = acknowledged
}

// Dial returns a connection, or nil if it cannot connect within a second.
func Dial(ctx context.Context, config broker.Config) *broker.Broker {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	b, err := broker.Dial(ctx, config, zerolog.Nop())
	if err != nil {
		return nil
	}
	return b
}
