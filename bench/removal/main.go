// Removal measures how settled deliveries leave their stream, with a server that flushes every
// write (sync_interval: always; with -relaxed every two minutes, as with 2m):
//
//	workqueue       each acknowledgement removes its message, as in CERTPOST_DELIVERIES
//	limits          acknowledgements are kept by the consumer; behind the oldest message
//	                that is not acknowledged, the lane is purged every -purge
//	limits, held    the same, while one message in a hundred waits for its next attempt,
//	                and so holds the end of what can be purged
//
// It prints medians of interleaved rounds: mails and milliseconds of processor time a message,
// and what is left in the stream at the end. docs/decisions/0085 draws the conclusion.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
)

const subject = "certpost.delivery.relay.ops"

// variant is one way for settled messages to leave the stream.
type variant struct {
	name      string
	retention jetstream.RetentionPolicy
	held      int // one in so many messages is held back; 0: none
}

var variants = []variant{
	{"workqueue", jetstream.WorkQueuePolicy, 0},
	{"workqueue, held", jetstream.WorkQueuePolicy, 100},
	{"limits", jetstream.LimitsPolicy, 0},
	{"limits, held", jetstream.LimitsPolicy, 100},
}

// result is one run of a variant.
type result struct {
	rate, cpu float64 // messages a second; ms of processor time a message
	left      uint64  // messages in the stream at the end
	held      int     // messages held back
}

type plan struct {
	messages, workers, size int
	purge                   time.Duration
	relaxed                 bool
}

func main() {
	var p plan
	rounds := flag.Int("rounds", 5, "rounds of each variant")
	flag.IntVar(&p.messages, "messages", 5000, "messages in each round")
	flag.IntVar(&p.workers, "workers", 64, "messages in work at a time")
	flag.IntVar(&p.size, "size", 8500, "bytes of a message")
	flag.DurationVar(&p.purge, "purge", 250*time.Millisecond, "pause between two purges")
	flag.BoolVar(&p.relaxed, "relaxed", false, "flush every two minutes instead of every write")
	flag.Parse()
	if err := run(p, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(p plan, rounds int) error {
	results := map[string][]result{}
	for range rounds {
		for _, v := range variants {
			var r result
			err := harness.InDirectory("", "removal", func(dir string) (err error) {
				r, err = measure(p, v, dir)
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
			results[v.name] = append(results[v.name], r)
		}
	}
	fmt.Printf("%-16s %10s %10s %10s %6s\n", "", "messages/s", "ms cpu", "left", "held")
	for _, v := range variants {
		list := results[v.name]
		fmt.Printf("%-16s %10.0f %10.3f %10d %6d\n", v.name,
			median(list, func(r result) float64 { return r.rate }), median(list, func(r result) float64 { return r.cpu }),
			list[0].left, list[0].held)
	}
	return nil
}

func median(list []result, of func(result) float64) float64 {
	values := make([]float64, len(list))
	for i, r := range list {
		values[i] = of(r)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func measure(p plan, v variant, dir string) (result, error) {
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: dir, SyncAlways: !p.relaxed, NoLog: true, NoSigs: true})
	if err != nil {
		return result{}, err
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		return result{}, fmt.Errorf("the server is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return result{}, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return result{}, err
	}
	ctx := context.Background()
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "DELIVERIES", Subjects: []string{"certpost.delivery.>"}, Retention: v.retention})
	if err != nil {
		return result{}, err
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "relay", FilterSubject: "certpost.delivery.relay.>",
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, MaxAckPending: p.messages})
	if err != nil {
		return result{}, err
	}
	if err := fill(js, p); err != nil {
		return result{}, err
	}
	wall, cpu := time.Now(), road.ProcessorTime()
	held, err := settle(ctx, p, v, stream, consumer)
	if err != nil {
		return result{}, err
	}
	took, used := time.Since(wall), road.ProcessorTime()-cpu
	info, err := stream.Info(ctx)
	if err != nil {
		return result{}, err
	}
	return result{
		rate: float64(p.messages) / took.Seconds(), cpu: used.Seconds() * 1000 / float64(p.messages),
		left: info.State.Msgs, held: held,
	}, nil
}

// fill publishes the messages.
func fill(js jetstream.JetStream, p plan) error {
	body := make([]byte, p.size)
	for range p.messages {
		if _, err := js.PublishAsync(subject, body); err != nil {
			return err
		}
	}
	<-js.PublishAsyncComplete()
	return nil
}

// settle acknowledges every message but those that are held back, and returns when the
// others have left the stream as far as the variant allows.
func settle(ctx context.Context, p plan, v variant, stream jetstream.Stream, consumer jetstream.Consumer) (held int, err error) {
	slots := make(chan struct{}, p.workers)
	var work sync.WaitGroup
	var failed atomic.Pointer[error]
	stop, purged := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(purged)
		if v.retention != jetstream.LimitsPolicy {
			return
		}
		for last := false; !last; {
			select {
			case <-stop:
				last = true
			case <-time.After(p.purge):
			}
			if err := purge(ctx, stream, consumer); err != nil {
				failed.Store(&err)
			}
		}
	}()
	for n := 0; n < p.messages; {
		batch, err := consumer.Fetch(min(p.workers, p.messages-n))
		if err != nil {
			return held, err
		}
		for m := range batch.Messages() {
			n++
			if v.held > 0 && n%v.held == 0 {
				held++
				if err := m.NakWithDelay(time.Hour); err != nil {
					return held, err
				}
				continue
			}
			slots <- struct{}{}
			work.Go(func() {
				if err := m.DoubleAck(ctx); err != nil {
					failed.Store(&err)
				}
				<-slots
			})
		}
		if err := batch.Error(); err != nil {
			return held, err
		}
	}
	work.Wait()
	close(stop)
	<-purged
	if err := failed.Load(); err != nil {
		return held, *err
	}
	return held, nil
}

// purge removes everything up to the oldest message that is not acknowledged.
func purge(ctx context.Context, stream jetstream.Stream, consumer jetstream.Consumer) error {
	info, err := consumer.Info(ctx)
	if err != nil {
		return err
	}
	return stream.Purge(ctx, jetstream.WithPurgeSubject("certpost.delivery.relay.>"), jetstream.WithPurgeSequence(info.AckFloor.Stream+1))
}
