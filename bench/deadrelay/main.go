// Deadrelay measures how much dead and slow relays slow down the other relays: it compares
// the throughput to healthy relays while many deliveries wait for a dead relay with the
// throughput while none wait. There can be several of each kind: healthy, dead, and slow ones,
// which take a second for each mail.
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
//	go run ./bench/deadrelay -healthy 40 -dead 5 -slow 5 -waiting 100000
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
	"sync"
	"text/tabwriter"
	"time"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/devrelay"
)

// options are the flags.
type options struct {
	dir, sync                    string
	waiting, mails, rounds, lane int
	healthy, dead, slow          int
	silent                       bool
	limit                        float64
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory for the stores")
	flag.IntVar(&o.waiting, "waiting", 50_000, "number of deliveries that wait for the dead and slow relays")
	flag.IntVar(&o.mails, "mails", 1000, "number of mails to the healthy relays together in each measurement")
	flag.IntVar(&o.healthy, "healthy", 1, "number of healthy relays")
	flag.IntVar(&o.dead, "dead", 1, "number of dead relays")
	flag.IntVar(&o.slow, "slow", 0, "number of relays that take a second for each mail")
	flag.IntVar(&o.rounds, "rounds", 15, "number of rounds; each measures both cases")
	flag.StringVar(&o.sync, "sync", "always", "nats.sync_interval")
	flag.BoolVar(&o.silent, "silent", false, "the dead relays accept connections and send nothing, instead of refusing them")
	flag.Float64Var(&o.limit, "limit", 0.05, "fail if the median loss of throughput reaches this share")
	flag.IntVar(&o.lane, "lane", 16, "concurrent deliveries to each relay")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if o.rounds < 1 || o.healthy < 1 || o.dead < 1 || o.mails < o.healthy || o.slow < 0 {
		fmt.Fprintln(os.Stderr, "deadrelay: -rounds, -healthy and -dead must be positive, and -mails at least as many as -healthy")
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

// targetsOfEach is the number of targets at each dead or slow relay; each event for these
// relays names up to that many.
const targetsOfEach = 100

// town is the relays and their targets.
type town struct {
	relays  []io.Closer
	targets []delivery.Target
	healthy []string   // targets, one for each healthy relay
	others  [][]string // targets of each dead or slow relay, the dead ones first
	dead    int        // number of the dead ones
	slow    []*devrelay.Relay
}

func (t *town) close() {
	for _, r := range t.relays {
		r.Close()
	}
}

// newTown starts the relays.
func newTown(o options, dir string) (t *town, err error) {
	t = &town{dead: o.dead}
	for i := range o.healthy {
		if err := t.addHealthy(fmt.Sprintf("alive-%d", i), dir); err != nil {
			return t, err
		}
	}
	for i := range o.dead {
		relay, err := deadRelay(o.silent)
		if err != nil {
			return t, err
		}
		t.relays = append(t.relays, relay)
		if err := t.addOthers(fmt.Sprintf("dead-%d", i), relay.Addr().String()); err != nil {
			return t, err
		}
	}
	for i := range o.slow {
		relay, err := devrelay.Start(devrelay.Config{Discard: true, Delay: time.Second})
		if err != nil {
			return t, err
		}
		t.relays, t.slow = append(t.relays, relay), append(t.slow, relay)
		if err := t.addOthers(fmt.Sprintf("slow-%d", i), relay.Plain()); err != nil {
			return t, err
		}
	}
	return t, nil
}

func (t *town) addHealthy(id, dir string) error {
	relay, err := road.Relay(true)
	if err != nil {
		return err
	}
	t.relays = append(t.relays, relay)
	dir = filepath.Join(dir, id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	target, err := road.SubmissionTarget(id, relay, dir)
	t.targets, t.healthy = append(t.targets, target), append(t.healthy, id)
	return err
}

func (t *town) addOthers(prefix, address string) error {
	var ids []string
	for i := range targetsOfEach {
		target, err := road.Target(fmt.Sprintf("%s-%d", prefix, i), address)
		if err != nil {
			return err
		}
		target.Timeout = 2 * time.Second
		t.targets, ids = append(t.targets, target), append(ids, target.ID)
	}
	t.others = append(t.others, ids)
	return nil
}

// measure prints each round and returns the median loss of throughput.
func measure(ctx context.Context, o options, out io.Writer) (loss float64, err error) {
	dir, err := os.MkdirTemp(o.dir, "deadrelay-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	t, err := newTown(o, dir)
	defer t.close()
	if err != nil {
		return 0, err
	}
	without := road.Options{Dir: filepath.Join(dir, "without"), Sync: o.sync, Concurrency: o.lane, Targets: t.targets}
	with := without
	with.Dir = filepath.Join(dir, "with")
	if err := fill(ctx, with, t, o.waiting); err != nil {
		return 0, fmt.Errorf("storing %d deliveries for the dead and slow relays: %w", o.waiting, err)
	}
	fmt.Fprintf(out, "%d deliveries wait for %d dead and %d slow relays; %d mails to %d healthy ones in each measurement\n", o.waiting, o.dead, o.slow, o.mails, o.healthy)

	// What waits for the slow relays becomes fewer, by a second for each of a lane's workers.
	stay := o.waiting / len(t.others) * t.dead

	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "round\twithout msg/s\twith msg/s\tratio\twithout cpu-ms/msg\twith cpu-ms/msg\tratio\t")
	var ratios, work []float64
	for i := range o.rounds {
		var a, b result // without, with
		for _, second := range []bool{i%2 == 1, i%2 == 0} {
			if second {
				b, err = run(ctx, with, t, o.mails, fmt.Sprintf("with-%d-", i), stay)
			} else {
				a, err = run(ctx, without, t, o.mails, fmt.Sprintf("without-%d-", i), 0)
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

// fill stores deliveries for the dead and slow relays, for each as many, and closes the store. The
// slow ones take some of them meanwhile.
func fill(ctx context.Context, o road.Options, t *town, deliveries int) error {
	r, err := road.Open(ctx, o)
	if err != nil {
		return err
	}
	// What is stored in the first seconds of a stream is looked for one target at a time when the
	// manifest is compared, which in production are few deliveries, and here would be all.
	if deliveries >= 10_000 {
		backoff.Sleep(ctx, 12*time.Second)
	}
	for at, n := 0, 0; n < deliveries && err == nil; at++ {
		ids := t.others[at%len(t.others)]
		ids = ids[:min(len(ids), deliveries-n)]
		n += len(ids)
		err = r.Publish(ctx, fmt.Sprintf("other-%d", at), ids...)
	}
	if err == nil { // all is fanned out
		err = r.Stored(ctx, deliveries/len(t.others)*t.dead)
	}
	return errors.Join(err, r.Close())
}

type result struct {
	rate float64 // mails per second to the healthy relays
	work float64 // milliseconds of processor time per mail, those to the slow relays counted too
}

// slowMails is the number of mails that the slow relays have.
func (t *town) slowMails() (n int) {
	for _, r := range t.slow {
		n += r.Count()
	}
	return n
}

// run measures the throughput to the healthy relays with one of the stores, in which stay
// deliveries wait at least, before and after.
func run(ctx context.Context, o road.Options, t *town, mails int, prefix string, stay int) (result, error) {
	r, err := road.Open(ctx, o)
	if err != nil {
		return result{}, err
	}
	if stay > 0 {
		err = r.GivenUp(ctx)
	}
	if err == nil { // warm-up: connections open, steady state
		err = send(ctx, r, o.Concurrency, t.healthy, mails/10/len(t.healthy)+1, prefix+"warm-")
	}
	began, work, others := time.Now(), road.ProcessorTime(), t.slowMails()
	each := mails / len(t.healthy)
	if err == nil {
		err = send(ctx, r, o.Concurrency, t.healthy, each, prefix)
	}
	took, work, others := time.Since(began), road.ProcessorTime()-work, t.slowMails()-others
	if err == nil && stay > 0 {
		err = r.Stored(ctx, stay)
	}
	n := float64(each * len(t.healthy))
	return result{n / took.Seconds(), work.Seconds() * 1000 / (n + float64(others))}, errors.Join(err, r.Close())
}

// send sends mails to each of the targets, at the same time.
func send(ctx context.Context, r *road.Road, lane int, targets []string, each int, prefix string) error {
	errs := make([]error, len(targets))
	var all sync.WaitGroup
	for i, id := range targets {
		all.Go(func() { errs[i] = r.Send(ctx, max(2*lane/len(targets), 1), each, prefix+id+"-", id) })
	}
	all.Wait()
	return errors.Join(errs...)
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
