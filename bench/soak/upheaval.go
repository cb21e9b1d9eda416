//go:build unix

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
)

// counts counts by name. It is safe for concurrent use.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[what]++
}

// upheaval is one thing that happens to everything but the relays.
type upheaval struct {
	name   string
	weight int
	do     func(ctx context.Context, w *world, random *rand.Rand) error
}

var upheavals = []upheaval{
	{"kill -9 of a NATS server", 3, func(ctx context.Context, w *world, random *rand.Rand) error {
		return away(ctx, one(w.servers, random), syscall.SIGKILL, random)
	}},
	{"SIGSTOP of a NATS server", 2, func(ctx context.Context, w *world, random *rand.Rand) error {
		return stopped(ctx, one(w.servers, random), random)
	}},
	{"restart of a NATS server", 1, func(ctx context.Context, w *world, random *rand.Rand) error {
		return away(ctx, one(w.servers, random), syscall.SIGTERM, random)
	}},
	{"kill -9 of a Certpost", 3, func(ctx context.Context, w *world, random *rand.Rand) error {
		return away(ctx, one(w.certposts, random), syscall.SIGKILL, random)
	}},
	{"SIGSTOP of a Certpost", 2, func(ctx context.Context, w *world, random *rand.Rand) error {
		return stopped(ctx, one(w.certposts, random), random)
	}},
	{"restart of a Certpost", 2, func(ctx context.Context, w *world, random *rand.Rand) error {
		return away(ctx, one(w.certposts, random), syscall.SIGTERM, random)
	}},
	{"a delivery deleted from its stream", 4, deleteDelivery},
	{"definitions changed", 3, func(_ context.Context, w *world, random *rand.Rand) error {
		return w.define(random.IntN(3) > 0, "")
	}},
	{"definitions spoilt for a while", 1, func(ctx context.Context, w *world, random *rand.Rand) error {
		// A Certpost that starts meanwhile would refuse to, as it should.
		if err := w.define(true, "  - {id: [broken"); err != nil {
			return err
		}
		backoff.Sleep(ctx, 5*time.Second)
		return w.define(random.IntN(3) > 0, "")
	}},
	{"a lane suspended", 2, func(ctx context.Context, w *world, random *rand.Rand) error {
		return w.order(ctx, "relays", "suspend", w.lane(random), "--for", fmt.Sprintf("%ds", 3+random.IntN(10)), "--reason", "soak")
	}},
	{"a lane resumed", 1, func(ctx context.Context, w *world, random *rand.Rand) error {
		return w.order(ctx, "relays", "resume", w.lane(random), "--reason", "soak")
	}},
	{"letters replayed", 6, func(ctx context.Context, w *world, random *rand.Rand) error {
		return w.act(ctx, random, 10, "dead-letters", "replay", "--yes", "--may-have-been-sent", "--reason", "soak")
	}},
	{"letters discarded", 2, func(ctx context.Context, w *world, random *rand.Rand) error {
		return w.act(ctx, random, 3, "dead-letters", "discard", "--yes", "--reason", "soak")
	}},
}

func one(all []*harness.Process, random *rand.Rand) *harness.Process {
	return all[random.IntN(len(all))]
}

// aWhile is how long a process is away.
func aWhile(random *rand.Rand) time.Duration {
	return time.Second + time.Duration(random.IntN(5000))*time.Millisecond
}

// away ends a process and starts it again after a while.
func away(ctx context.Context, p *harness.Process, how syscall.Signal, random *rand.Rand) error {
	if err := p.End(how); err != nil {
		return err
	}
	backoff.Sleep(ctx, aWhile(random))
	return p.Start()
}

// stopped stops a process for a while, as a machine that swaps or is moved does.
func stopped(ctx context.Context, p *harness.Process, random *rand.Rand) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	backoff.Sleep(ctx, aWhile(random))
	return p.Signal(syscall.SIGCONT)
}

// deleteDelivery deletes a waiting delivery, as an administrator can. Without one it does
// nothing.
func deleteDelivery(ctx context.Context, w *world, random *rand.Rand) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	stream, err := w.observer.JetStream().Stream(ctx, broker.DeliveriesStream)
	if err != nil {
		return nil // without a leader: another time
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return nil
	}
	// A sequence that is settled is deleted already.
	for range 20 {
		if stream.DeleteMsg(ctx, state.FirstSeq+random.Uint64N(state.LastSeq-state.FirstSeq+1)) == nil {
			w.deleted++
			return nil
		}
	}
	return nil
}

// lane returns the lane of a relay.
func (w *world) lane(random *rand.Rand) string {
	return strings.NewReplacer(".", "_", ":", "-").Replace(w.relays[random.IntN(len(w.relays))].address)
}

// act chooses letters at random and gives an order with their numbers. Letters of events are
// not replayed: they end as before, under another number of the event.
func (w *world) act(ctx context.Context, random *rand.Rand, most int, args ...string) error {
	var numbers []string
	reading, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for d, err := range w.observer.ReadLetters(reading, 1) {
		if err != nil {
			return nil // without a leader: another time
		}
		if strings.HasPrefix(d.ReplaySubject, broker.DeliveryPrefix) {
			numbers = append(numbers, strconv.FormatUint(d.Sequence, 10))
		}
	}
	random.Shuffle(len(numbers), func(i, j int) { numbers[i], numbers[j] = numbers[j], numbers[i] })
	if len(numbers) == 0 {
		return nil
	}
	return w.order(ctx, append(args, numbers[:min(most, len(numbers))]...)...)
}

// order runs a command of Certpost. That it fails while servers are away, or because another
// process was faster, is no fault, but it must end, and not with a panic or a wrong usage.
func (w *world) order(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	text, err := w.certpost(ctx, args...).CombinedOutput()
	if err != nil {
		w.refused++
	}
	if ctx.Err() != nil || strings.Contains(string(text), "goroutine ") || strings.Contains(string(text), "Usage:") {
		return fmt.Errorf("certpost %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return nil
}

// upset makes one upheaval after another until the context ends. Afterwards every process
// runs, and the definitions are good.
func (w *world) upset(ctx context.Context, random *rand.Rand, c *counts) error {
	var all []upheaval
	for _, u := range upheavals {
		for range u.weight {
			all = append(all, u)
		}
	}
	// What has begun is ended: no process stays away or stopped.
	whole := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		u := all[random.IntN(len(all))]
		if err := u.do(whole, w, random); err != nil {
			return fmt.Errorf("%s: %w", u.name, err)
		}
		c.add(u.name)
		for _, p := range append(w.certposts, w.servers...) {
			if err := p.EndedByItself(); err != nil {
				return err
			}
		}
		backoff.Sleep(ctx, time.Duration(500+random.IntN(4000))*time.Millisecond)
	}
	return w.define(true, "")
}
