// Bigstore measures the dashboard of a `certpost run` that has 100,000 dead letters
// and a ledger of 1,000,000 deliveries, beside one with a hundredth of that: how long
// a start takes and what it needs of memory, how long pages take, what a replay of a
// tenth of the letters does, and whether events are delivered meanwhile.
//
// A store is filled with copies, under other names, of what the program itself has
// written of a few deliveries: six causes of dead letters, entries that are sent, dead
// and waiting, events with a certificate each, and some letters that a newer
// certificate has superseded. Then the program is started on it as a process of its
// own; relays and publisher live in this one. Both stores are asked for each page in
// turn. Times are those of HTTP on loopback, from the request to the last byte.
//
//	go run ./bench/bigstore
//	go run ./bench/bigstore -letters 10000 -deliveries 100000
//	go run ./bench/bigstore -help             # the other flags
//
// -dir has to be on a real disk, with 3 kB for each delivery, for the figures to mean
// anything. Memory is read from /proc and not measured where there is none.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"text/tabwriter"
	"time"
)

// options are the flags.
type options struct {
	dir, program, sync string
	size
	requests int
	calm     time.Duration // of traffic when nothing else happens
	keep     bool
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where stores and logs go; they stay there when something is wrong")
	flag.StringVar(&o.program, "program", "", "the certpost to measure (default: it is built first)")
	flag.StringVar(&o.sync, "sync", "always", "nats.sync_interval of what is measured; stores are filled with 2m")
	flag.IntVar(&o.letters, "letters", 100_000, "dead letters; the small store has a hundredth")
	flag.IntVar(&o.deliveries, "deliveries", 1_000_000, "entries of the ledger; the small store has a hundredth")
	flag.IntVar(&o.requests, "requests", 50, "for each page and store")
	flag.DurationVar(&o.calm, "calm", 10*time.Second, "how long events are published to each store when nothing else happens")
	flag.BoolVar(&o.keep, "keep", false, "leave stores and logs where they are")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bigstore:", err)
		stop()
		os.Exit(1)
	}
}

// share is the small store's of the big one's.
const share = 100

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.letters < 20*share || o.deliveries < 5*o.letters || o.requests < 1 {
		return fmt.Errorf("wants at least %d letters, five times as many deliveries, and a request", 20*share)
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
	if o.program == "" {
		o.program = filepath.Join(dir, "certpost")
		if text, err := exec.CommandContext(ctx, "go", "build", "-o", o.program, "github.com/certpost/certpost/cmd/consumer").CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, text)
		}
	}
	return measureIn(ctx, o, dir, out)
}

// measureIn fills both stores in a directory and measures.
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

// report measures and prints as it goes.
func report(ctx context.Context, o options, out io.Writer, offices []*office, sizes []size, t *town) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nstart\tready\tletters listed\tledger indexed\tmemory, MiB (most)\tlive p50 / p99 / worst, ms (events)")
	var memory []float64
	for i, f := range offices {
		u, err := launch(ctx, f, t, sizes[i])
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
		fmt.Fprintf(out, "memory of the big one beyond the small one's: %.0f B for each delivery, letters and the server's caches included\n", (memory[1]-memory[0])*(1<<20)/float64(sizes[1].deliveries-sizes[0].deliveries))
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

	fmt.Fprintln(table, "\nreplay\tletters\tconfirmation\torder\tall published\tall arrived\tletters/s\tmost memory, MiB\tlive p50 / p99 / worst, ms (events)")
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

// spread is least, median and what 95 of a hundred stay below.
func (t times) spread() string {
	return fmt.Sprintf("%.1f / %.1f / %.1f", ms(t.at(0)), ms(t.at(0.5)), ms(t.at(0.95)))
}

// String is what half and 99 of a hundred stay below, the longest, and how many.
func (t times) String() string {
	return fmt.Sprintf("%.1f / %.1f / %.1f (%d)", ms(t.at(0.5)), ms(t.at(0.99)), ms(t.at(1)), len(t))
}
