// Bigstore measures the dashboard of a `certpost run` with 100,000 dead letters
// and a ledger of 1,000,000 deliveries, compared with one of a hundredth of that size: the
// time and memory of a start, the time of pages, the effect of a replay of a
// tenth of the letters, and whether events are delivered in the meantime.
//
// A store is filled with copies, with other names, of what the program itself has
// written for a few deliveries: six causes of dead letters, entries that are sent, dead
// and waiting, events with one certificate each, and some letters that a newer
// certificate has superseded. Then the program is started on it as a separate process;
// the relays and the publisher run in this process. Each page is requested from both stores
// alternately. Times are measured with HTTP on loopback, from the request to the last byte.
//
//	go run ./bench/bigstore
//	go run ./bench/bigstore -letters 10000 -deliveries 100000
//	go run ./bench/bigstore -help             # the other flags
//
// -dir must be on a real disk, with 3 kB for each delivery, otherwise the figures mean
// nothing. Memory is read from /proc, and not measured on systems without it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
)

// options are the flags.
type options struct {
	dir, program, sync string
	size
	requests int
	calm     time.Duration // duration of traffic without other load
	rest     time.Duration // between the reading of a store and the look at the memory
	keep     bool
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory for stores and logs; they are kept after a failure")
	flag.StringVar(&o.program, "program", "", "the certpost binary to measure (default: build it)")
	flag.StringVar(&o.sync, "sync", "always", "nats.sync_interval during the measurements; stores are filled with 2m")
	flag.IntVar(&o.letters, "letters", 100_000, "number of dead letters; the small store has a hundredth")
	flag.IntVar(&o.deliveries, "deliveries", 1_000_000, "number of ledger entries; the small store has a hundredth")
	flag.IntVar(&o.requests, "requests", 50, "number of requests for each page and store")
	flag.DurationVar(&o.calm, "calm", 10*time.Second, "how long to publish events to each store without other load")
	flag.DurationVar(&o.rest, "rest", 40*time.Second, "how long to wait after the start before looking at the memory")
	flag.BoolVar(&o.keep, "keep", false, "keep stores and logs")
	flag.Parse()
	harness.Main("bigstore", func(ctx context.Context) error { return run(ctx, o, os.Stdout) })
}

// share is the ratio of the big store's size to the small store's.
const share = 100

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.letters < 20*share || o.deliveries < 5*o.letters || o.requests < 1 {
		return fmt.Errorf("need at least %d letters, five times as many deliveries as letters, and one request: see -letters, -deliveries and -requests", 20*share)
	}
	dir, err := os.MkdirTemp(o.dir, "bigstore-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil || o.keep {
			fmt.Fprintf(out, "stores and logs are in %s\n", dir)
		} else {
			err = os.RemoveAll(dir)
		}
	}()
	if o.program, err = road.Program(ctx, o.program, dir); err != nil {
		return err
	}
	return measureIn(ctx, o, dir, out)
}

// measureIn fills both stores in dir and measures them.
func measureIn(ctx context.Context, o options, dir string, out io.Writer) (err error) {
	t, err := newTown(dir)
	if err != nil {
		return err
	}
	defer t.close()
	sizes := []size{{o.letters / share, o.deliveries / share}, o.size}
	var offices []*office
	defer func() {
		for _, f := range offices {
			err = errors.Join(err, f.stop())
		}
	}()
	for i, name := range []string{"small", "big"} {
		f, err := newOffice(name, o, dir, t.targets)
		if err != nil {
			return err
		}
		offices = append(offices, f)
		began := time.Now()
		if err := fill(ctx, f, sizes[i]); err != nil {
			return fmt.Errorf("filling the %s store: %w", name, err)
		}
		fmt.Fprintf(out, "%s store: %d letters, %d deliveries, filled in %v\n", name, sizes[i].letters, sizes[i].deliveries, time.Since(began).Round(time.Second))
	}
	return report(ctx, o, out, offices, sizes, t)
}

// report measures, and prints each table when it is complete.
func report(ctx context.Context, o options, out io.Writer, offices []*office, sizes []size, t *town) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nstart\tready\tletters listed\tledger indexed\tmemory, MiB (most)\tlive p50 / p99 / worst, ms (events)")
	var memory []float64
	for i, f := range offices {
		u, err := launch(ctx, f, t, sizes[i], o.rest)
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		memory = append(memory, u.memory)
		fmt.Fprintf(table, "%s\t%.2f s\t%.2f s\t%.2f s\t%.0f (%.0f)\t%s\n", f.name, u.ready.Seconds(), u.listed.Seconds(), u.indexed.Seconds(), u.memory, u.most, u.live)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if memory[0] > 0 {
		fmt.Fprintf(out, "additional memory of the big one: %.0f B for each additional delivery, including letters and the server's caches\n", (memory[1]-memory[0])*(1<<20)/float64(sizes[1].deliveries-sizes[0].deliveries))
	}

	fmt.Fprintln(table, "\ncalm\tlive p50 / p99 / worst, ms (events)")
	for _, f := range offices {
		while, end := context.WithTimeout(ctx, o.calm)
		live, err := traffic(ctx, while, f, t.relays[0], "calm")
		end()
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%s\t%s\n", f.name, live)
	}
	pages, err := measure(ctx, ctx, o.requests, 0, offices...)
	if err != nil {
		return err
	}
	fmt.Fprintln(table, "\npage\tsmall min / median / p95, ms\tbig min / median / p95, ms\tbig / small\tkB packed")
	for _, m := range pages {
		fmt.Fprintf(table, "%s\t%s\t%s\t%.2f\t%.1f\n", m.name, m.took[0].spread(), m.took[1].spread(), ms(m.took[1].at(0.5))/ms(m.took[0].at(0.5)), float64(m.weight)/1000)
	}

	fmt.Fprintln(table, "\nreplay\tletters\tconfirmation\trequest\tall published\tall arrived\tletters/s\tmost memory, MiB\tlive p50 / p99 / worst, ms (events)")
	var under []measured
	for _, f := range offices {
		if err := t.refuse(true); err != nil {
			return err
		}
		r, err := replay(ctx, f, t)
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		under = r.pages
		fmt.Fprintf(table, "%s\t%d\t%.1f ms\t%.1f ms\t%.2f s\t%.2f s\t%.0f\t%.0f\t%s\n", f.name, r.letters, ms(r.confirm), ms(r.begin), r.published.Seconds(), r.took.Seconds(), float64(r.letters)/r.took.Seconds(), r.most, r.live)
	}
	fmt.Fprintln(table, "\npage of the big one during the replay\tmin / median / p95, ms\trequests")
	for _, m := range under {
		fmt.Fprintf(table, "%s\t%s\t%d\n", m.name, m.took[0].spread(), len(m.took[0]))
	}
	fmt.Fprintln(table, "\nat the end\tmemory, MiB (most)")
	for _, f := range offices {
		now, most := f.memory()
		fmt.Fprintf(table, "%s\t%.0f (%.0f)\n", f.name, now, most)
	}
	return table.Flush()
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// spread formats minimum, median and 95th percentile, in milliseconds.
func (t times) spread() string {
	return fmt.Sprintf("%.1f / %.1f / %.1f", ms(t.at(0)), ms(t.at(0.5)), ms(t.at(0.95)))
}

// String formats median, 99th percentile and maximum, in milliseconds, and the count.
func (t times) String() string {
	return fmt.Sprintf("%.1f / %.1f / %.1f (%d)", ms(t.at(0.5)), ms(t.at(0.99)), ms(t.at(1)), len(t))
}
