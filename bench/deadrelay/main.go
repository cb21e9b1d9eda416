// Deadrelay measures how much a dead relay slows down the other relays: it compares the
// throughput to one relay while many deliveries wait for a dead relay with the
// throughput while none wait.
//
// Both are measured alternately, many times, in one process: on a machine with
// other work the single figures vary, the median of their ratios varies less, and
// the processor time per mail varies least. The waiting deliveries are stored
// once; each measurement reopens its store, waits until the breaker of the relay
// opens, warms up, and checks at its end that all of them still wait. It exits with 1
// if the median loss of throughput reaches -limit.
//
//	go run ./bench/deadrelay                  # the dead relay refuses connections
//	go run ./bench/deadrelay -silent          # it accepts them and sends nothing
//	go run ./bench/deadrelay -help            # the other flags
//
// -dir must be on a real disk, otherwise the figures mean nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/delivery"
)

// options are the flags.
type options struct {
	dir, sync                    string
	waiting, mails, rounds, lane int
	silent                       bool
	limit                        float64
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory for the stores")
	flag.IntVar(&o.waiting, "waiting", 50_000, "number of deliveries that wait for the dead relay")
	flag.IntVar(&o.mails, "mails", 1000, "number of mails to the other relay in each measurement")
	flag.IntVar(&o.rounds, "rounds", 15, "number of rounds; each measures both cases")
	flag.StringVar(&o.sync, "sync", "always", "nats.sync_interval")
	flag.BoolVar(&o.silent, "silent", false, "the dead relay accepts connections and sends nothing, instead of refusing them")
	flag.Float64Var(&o.limit, "limit", 0.05, "fail if the median loss of throughput reaches this share")
	flag.IntVar(&o.lane, "lane", 16, "concurrent deliveries to each relay")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if o.rounds < 1 || o.mails < 1 {
		fmt.Fprintln(os.Stderr, "deadrelay: -rounds and -mails must be positive")
		os.Exit(2)
	}
	loss, err := measure(ctx, o, os.Stdout)
	if err == nil && loss >= o.limit {
		err = fmt.Errorf("the median loss of %.1f %% is not below %.1f %%", 100*loss, 100*o.limit)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "deadrelay:", err)
		stop()
		os.Exit(1)
	}
}

// deadTargets is the number of targets on the lane of the dead relay; each event for
// the dead relay names up to that many.
const deadTargets = 100

// measure prints each round and returns the median loss of throughput.
func measure(ctx context.Context, o options, out io.Writer) (loss float64, err error) {
	dir, err := os.MkdirTemp(o.dir, "deadrelay-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	relay, err := road.Relay(true)
	if err != nil {
		return 0, err
	}
	defer relay.Close()
	alive, err := road.SubmissionTarget("alive", relay, dir)
	if err != nil {
		return 0, err
	}
	dead, err := deadRelay(o.silent)
	if err != nil {
		return 0, err
	}
	defer dead.Close()
	targets := []delivery.Target{alive}
	for i := range deadTargets {
		t, err := road.Target(fmt.Sprintf("dead-%d", i), dead.Addr().String())
		if err != nil {
			return 0, err
		}
		t.Timeout = 2 * time.Second
		targets = append(targets, t)
	}
	without := road.Options{Dir: filepath.Join(dir, "without"), Sync: o.sync, Concurrency: o.lane, Targets: targets}
	with := without
	with.Dir = filepath.Join(dir, "with")
	if err := fill(ctx, with, o.waiting); err != nil {
		return 0, fmt.Errorf("storing %d deliveries for the dead relay: %w", o.waiting, err)
	}
	fmt.Fprintf(out, "%d deliveries wait for the dead relay; %d mails to the other in each measurement\n", o.waiting, o.mails)

	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "round\twithout msg/s\twith msg/s\tratio\twithout cpu-ms/msg\twith cpu-ms/msg\tratio\t")
	var ratios, work []float64
	for i := range o.rounds {
		var a, b result // without, with
		for _, second := range []bool{i%2 == 1, i%2 == 0} {
			if second {
				b, err = run(ctx, with, o.mails, fmt.Sprintf("with-%d-", i), o.waiting)
			} else {
				a, err = run(ctx, without, o.mails, fmt.Sprintf("without-%d-", i), 0)
			}
			if err != nil {
				return 0, errors.Join(err, table.Flush())
			}
		}
		ratios, work = append(ratios, b.rate/a.rate), append(work, b.work/a.work)
		fmt.Fprintf(table, "%d\t%.0f\t%.0f\t%.3f\t%.2f\t%.2f\t%.3f\t\n", i+1, a.rate, b.rate, b.rate/a.rate, a.work, b.work, b.work/a.work)
	}
	fmt.Fprintf(table, "median\t\t\t%.3f\t\t\t%.3f\t\n", road.Median(ratios), road.Median(work))
	return 1 - road.Median(ratios), table.Flush()
}

// fill stores the deliveries for the dead relay and closes the store.
func fill(ctx context.Context, o road.Options, deliveries int) error {
	r, err := road.Open(ctx, o)
	if err != nil {
		return err
	}
	var ids []string
	for _, t := range o.Targets {
		if t.ID != "alive" {
			ids = append(ids, t.ID)
		}
	}
	for i := 0; i < deliveries && err == nil; i += len(ids) {
		err = r.Publish(ctx, fmt.Sprintf("dead-%d", i), ids[:min(len(ids), deliveries-i)]...)
	}
	if err == nil {
		err = r.Stored(ctx, deliveries)
	}
	return errors.Join(err, r.Close())
}

type result struct {
	rate float64 // mails per second
	work float64 // milliseconds of processor time per mail
}

// run measures the throughput to the living relay with one of the stores.
func run(ctx context.Context, o road.Options, mails int, prefix string, waiting int) (result, error) {
	r, err := road.Open(ctx, o)
	if err != nil {
		return result{}, err
	}
	if waiting > 0 {
		err = r.GivenUp(ctx)
	}
	if err == nil { // warm-up: connections open, steady state
		err = r.Send(ctx, 2*o.Concurrency, mails/10+1, prefix+"warm-", "alive")
	}
	began, work := time.Now(), road.ProcessorTime()
	if err == nil {
		err = r.Send(ctx, 2*o.Concurrency, mails, prefix, "alive")
	}
	took, work := time.Since(began), road.ProcessorTime()-work
	if err == nil && waiting > 0 { // they must still wait
		err = r.Stored(ctx, waiting)
	}
	return result{float64(mails) / took.Seconds(), work.Seconds() * 1000 / float64(mails)}, errors.Join(err, r.Close())
}

// deadRelay returns a listener whose address does not answer: connections are refused,
// because it is closed, or, with silent, established by the kernel but never accepted.
func deadRelay(silent bool) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil || silent {
		return l, err
	}
	return l, l.Close()
}
