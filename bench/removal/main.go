// Removal measures how settled deliveries leave their stream, with a server that flushes every
// write (sync_interval: always; with -relaxed every two minutes, as with 2m):
//
//	workqueue       each acknowledgement removes its message, as in CERTPOST_DELIVERIES
//	workqueue, 4    the same with the messages spread over four streams, whose flushes overlap
//	limits          acknowledgements are kept by the consumer; behind the oldest message
//	                that is not acknowledged, the lane is purged every -purge
//	..., held       the same, while one message in a hundred waits for its next attempt,
//	                and so holds the end of what can be purged
//
// With -behind, that many messages more wait in the stream and are not settled: the server
// reads through all of them for each purge of a lane.
//
// It prints medians of interleaved rounds: mails and milliseconds of processor time a message,
// and what is left in the stream at the end. docs/decisions/0085 draws the conclusion.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
)

// variant is one way for settled messages to leave the stream.
type variant struct {
	name      string
	retention jetstream.RetentionPolicy
	held      int // one in so many messages is held back; 0: none
	streams   int // the messages and those in work are divided among so many
}

var variants = []variant{
	{"workqueue", jetstream.WorkQueuePolicy, 0, 1},
	{"workqueue, held", jetstream.WorkQueuePolicy, 100, 1},
	{"workqueue, 4", jetstream.WorkQueuePolicy, 0, 4},
	{"limits", jetstream.LimitsPolicy, 0, 1},
	{"limits, held", jetstream.LimitsPolicy, 100, 1},
}

// result is one run of a variant.
type result struct {
	rate, cpu float64 // messages a second; ms of processor time a message
	left      uint64  // messages in the stream at the end
	held      int     // messages held back
}

type plan struct {
	messages, workers, size, behind int
	purge                           time.Duration
	relaxed                         bool
}

func main() {
	var p plan
	rounds := flag.Int("rounds", 5, "rounds of each variant")
	flag.IntVar(&p.messages, "messages", 5000, "messages in each round")
	flag.IntVar(&p.workers, "workers", 64, "messages in work at a time")
	flag.IntVar(&p.size, "size", 8500, "bytes of a message")
	flag.IntVar(&p.behind, "behind", 0, "messages that wait in the stream all the time")
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
	lanes := make([]*lane, v.streams)
	for i := range lanes {
		if lanes[i], err = newLane(js, p.in(v.streams), v, i); err != nil {
			return result{}, err
		}
	}
	wall, cpu := time.Now(), road.ProcessorTime()
	var work errgroup.Group
	for _, l := range lanes {
		work.Go(l.settle)
	}
	if err := work.Wait(); err != nil {
		return result{}, err
	}
	took, used := time.Since(wall), road.ProcessorTime()-cpu
	r := result{rate: float64(p.messages) / took.Seconds(), cpu: used.Seconds() * 1000 / float64(p.messages)}
	for _, l := range lanes {
		info, err := l.stream.Info(context.Background())
		if err != nil {
			return result{}, err
		}
		r.left += info.State.Msgs - uint64(l.plan.behind)
		r.held += l.held
	}
	return r, nil
}

// in is the part of the plan of each of n streams.
func (p plan) in(n int) plan {
	p.messages, p.workers, p.behind = p.messages/n, p.workers/n, p.behind/n
	return p
}

// lane is a stream that is filled, and the consumer of its only lane.
type lane struct {
	plan
	variant
	stream   jetstream.Stream
	consumer jetstream.Consumer
	subject  string
	held     int
}

func newLane(js jetstream.JetStream, p plan, v variant, number int) (*lane, error) {
	ctx := context.Background()
	l := &lane{plan: p, variant: v, subject: fmt.Sprintf("certpost.delivery.%d.", number)}
	var err error
	l.stream, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: fmt.Sprintf("DELIVERIES_%d", number), Subjects: []string{l.subject + ">"}, Retention: v.retention})
	if err != nil {
		return nil, err
	}
	l.consumer, err = l.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "relay", FilterSubject: l.subject + ">",
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, MaxAckPending: p.messages})
	if err != nil {
		return nil, err
	}
	body := make([]byte, p.size)
	for range p.messages + p.behind {
		if _, err := js.PublishAsync(l.subject+"ops", body, jetstream.WithStallWait(time.Minute)); err != nil {
			return nil, err
		}
	}
	<-js.PublishAsyncComplete()
	return l, nil
}

// settle acknowledges every message but those that are held back, and returns when the
// others have left the stream as far as the variant allows.
func (l *lane) settle() error {
	ctx := context.Background()
	var work errgroup.Group
	work.SetLimit(l.workers)
	var purging errgroup.Group
	stop := make(chan struct{})
	if l.retention == jetstream.LimitsPolicy {
		purging.Go(func() error { return l.purgeUntil(ctx, stop) })
	}
	for n := 0; n < l.messages; {
		batch, err := l.consumer.Fetch(min(l.workers, l.messages-n))
		if err != nil {
			return err
		}
		for m := range batch.Messages() {
			n++
			if l.variant.held > 0 && n%l.variant.held == 0 {
				l.held++
				if err := m.NakWithDelay(time.Hour); err != nil {
					return err
				}
				continue
			}
			work.Go(func() error { return m.DoubleAck(ctx) })
		}
		if err := batch.Error(); err != nil {
			return err
		}
	}
	err := work.Wait()
	close(stop)
	return errors.Join(err, purging.Wait())
}

// purgeUntil purges the lane now and then, and once more when stop is closed.
func (l *lane) purgeUntil(ctx context.Context, stop <-chan struct{}) error {
	for last := false; !last; {
		select {
		case <-stop:
			last = true
		case <-time.After(l.plan.purge):
		}
		if err := l.purge(ctx); err != nil {
			return err
		}
	}
	return nil
}

// purge removes everything up to the oldest message that is not acknowledged.
func (l *lane) purge(ctx context.Context) error {
	info, err := l.consumer.Info(ctx)
	if err != nil {
		return err
	}
	return l.stream.Purge(ctx, jetstream.WithPurgeSubject(l.subject+">"), jetstream.WithPurgeSequence(info.AckFloor.Stream+1))
}
