//go:build unix

// Cluster runs several `certpost run` processes on a cluster of three NATS servers, each a
// process of its own that keeps everything three times, and takes processes away while
// mails go: it kills servers (kill -9), stops one or two of them (SIGSTOP), restarts
// servers and Certposts one after another, and kills Certposts. It checks the outcome of
// every event, and exits with 1 if
//
//   - an event is lost, not settled, or became a dead letter;
//   - a mail was sent twice although no Certpost was killed in the round, or without being
//     marked as a possible duplicate, or more often than the ledger knows of.
//
// With -scale it measures throughput instead: from a backlog to a relay that takes 20 ms
// for each mail, with these numbers of Certposts in turn. At the end, with the most of them,
// a Certpost and the server that leads the ledger are killed at the same time.
//
// For each fault it prints how long the streams had no leader, and how long after that
// the next mail arrived.
//
//	go run ./bench/cluster                          # all faults, two Certposts
//	go run ./bench/cluster -fault kill -rounds 10   # one of them
//	go run ./bench/cluster -certposts 4
//	go run ./bench/cluster -scale 1,2,4 -concurrency 2
//	go run ./bench/cluster -help                    # the other flags
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/broker"
)

// options are the flags.
type options struct {
	dir, program, fault string
	certposts, rounds   int
	// lasts is how long a process is away, pause the time between two faults.
	lasts, pause time.Duration
	rate         int // events per second
	scale        string
	delay        time.Duration // of the relay
	window       time.Duration // of a measurement with -scale
	concurrency  int
}

func main() {
	if harness.ServeNATS() {
		return
	}
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory for stores and logs; they are kept after a failure")
	flag.StringVar(&o.program, "program", "", "the certpost binary (default: build it)")
	flag.StringVar(&o.fault, "fault", "all", "one of "+strings.Join(faultNames(), ", ")+", or several with commas, or all")
	flag.IntVar(&o.certposts, "certposts", 2, "number of certpost processes")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each fault is made")
	flag.DurationVar(&o.lasts, "lasts", 4*time.Second, "how long a process is away")
	flag.DurationVar(&o.pause, "pause", 8*time.Second, "time between two faults, from when all is back")
	flag.IntVar(&o.rate, "rate", 50, "events per second, with two targets each")
	flag.StringVar(&o.scale, "scale", "", "measure throughput with these numbers of certpost processes, such as 1,2,4")
	flag.DurationVar(&o.delay, "delay", 20*time.Millisecond, "how long the relay takes for a mail, with -scale")
	flag.DurationVar(&o.window, "window", 10*time.Second, "how long each measurement takes, with -scale")
	flag.IntVar(&o.concurrency, "concurrency", 64, "delivery.concurrency")
	flag.Parse()
	harness.Main("cluster", func(ctx context.Context) error { return run(ctx, o, os.Stdout) })
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	chosen, err := choose(o.fault)
	if err != nil {
		return err
	}
	if o.scale != "" {
		return harness.InDirectory(o.dir, "cluster-", func(dir string) error { return scale(ctx, o, dir, out) })
	}
	return harness.InDirectory(o.dir, "cluster-", func(dir string) error { return runIn(ctx, o, dir, out, chosen) })
}

func runIn(ctx context.Context, o options, dir string, out io.Writer, chosen []fault) (err error) {
	if o.program, err = road.Program(ctx, o.program, dir); err != nil {
		return err
	}
	relay, err := road.Mailbox()
	if err != nil {
		return err
	}
	defer relay.Close()
	c, err := startCluster(ctx, o, dir, relay)
	if err != nil {
		return err
	}
	defer c.end()

	send, err := harness.SendTo("cluster://bench", targetIDs)
	if err != nil {
		return err
	}
	p := harness.NewPublisher(broker.Config{URL: strings.Join(c.urls, ",")}, send)
	publishing, enough := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(publishing, publishers, harness.AtRate(publishing, o.rate, "e")) })
	w := &watcher{cluster: c, relay: relay}
	wg.Go(func() { w.run(publishing) })
	err = w.await(ctx, func() bool { return relay.Count() > 0 })
	for _, f := range chosen {
		for round := 0; round < o.rounds && err == nil; round++ {
			err = c.make(ctx, f, round, o, w, out)
		}
	}
	enough()
	wg.Wait()
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	if err := p.Finish(ctx); err != nil {
		return err
	}
	found, err := c.settle(ctx)
	if err != nil {
		return err
	}
	t := harness.Count(p.IDs(), targetIDs, relay.Mails(), found)
	fmt.Fprintf(out, "%d certposts, all settled %v after the last event\n%s", o.certposts, found.Took.Round(time.Second), t)
	return errors.Join(t.Verdict(), withoutKill(t, c.killed))
}

// publishers is how many events are published at once at most. While the stream has no
// leader, that many wait.
const publishers = 32

// withoutKill returns an error if mails were sent twice although no Certpost was killed.
func withoutKill(t harness.Tally, killed bool) error {
	if t.Duplicates > 0 && !killed {
		return errors.New("mails were sent twice although no Certpost was killed")
	}
	return nil
}
