//go:build unix

// Waiting measures what waiting deliveries cost: throughput, processor time and memory of a
// `certpost run` with few deliveries in a lane, and of one with a thousand times as many, and
// how long each takes from its start to its first mail.
//
// Each has a NATS server of its own, as a process of its own, so that the memory is that of
// Certpost alone; with -embedded it has its embedded server instead. The lane is suspended
// until all deliveries wait. Then the two take turns: the lane is resumed until -mails mails
// have arrived, and suspended again. The deliveries are those of events with a hundred targets.
//
//	go run ./bench/waiting
//	go run ./bench/waiting -many 100000 -rounds 3
//	go run ./bench/waiting -embedded -rest 2m # the start includes that of the server
//	go run ./bench/waiting -help              # the other flags
//
// It needs Linux, and 3 kB of disk for each delivery.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
)

// options are the flags.
type options struct {
	dir, program, sync       string
	few, many, mails, rounds int
	rest                     time.Duration
	embedded                 bool
}

func main() {
	if harness.ServeNATS() {
		return
	}
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory for stores and logs; they are kept after a failure")
	flag.StringVar(&o.program, "program", "", "the certpost binary (default: build it)")
	flag.IntVar(&o.few, "few", 1000, "number of deliveries that wait in one lane")
	flag.IntVar(&o.many, "many", 1_000_000, "number of deliveries that wait in the other")
	flag.IntVar(&o.mails, "mails", 800, "number of mails in each measurement")
	flag.IntVar(&o.rounds, "rounds", 5, "number of rounds; each measures both")
	flag.StringVar(&o.sync, "sync", "2m", "nats.sync_interval with -embedded; the other servers flush every 2 minutes")
	flag.DurationVar(&o.rest, "rest", 0, "how long the program is stopped before its start is measured; the server reads all messages of the last 2 minutes at its start, for its duplicate window")
	flag.BoolVar(&o.embedded, "embedded", false, "use the embedded NATS server")
	flag.Parse()
	harness.Main("waiting", func(ctx context.Context) error { return run(ctx, o, os.Stdout) })
}

func run(ctx context.Context, o options, out io.Writer) error {
	if o.mails < 1 || o.rounds < 1 || o.few <= o.mails || o.many <= o.few {
		return errors.New("need -mails and -rounds of at least 1, and -mails < -few < -many")
	}
	return harness.InDirectory(o.dir, "waiting-", func(dir string) (err error) {
		if o.program, err = road.Program(ctx, o.program, dir); err != nil {
			return err
		}
		var sites [2]*site
		var errs [2]error
		var both sync.WaitGroup
		for i, depth := range []int{o.few, o.many} {
			both.Go(func() { sites[i], errs[i] = open(ctx, o, dir, []string{"few", "many"}[i], depth) })
		}
		both.Wait()
		for _, s := range sites {
			defer s.close()
		}
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
		return measure(ctx, o, out, sites[0], sites[1])
	})
}

// measure lets both take turns and prints a table.
func measure(ctx context.Context, o options, out io.Writer, few, many *site) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "waiting\t%d\t%d\tratio\t\n", o.few, o.many)
	figures := []struct {
		name string
		of   func(drained) float64
		few  []float64
		many []float64
	}{
		{name: "mails a second", of: func(d drained) float64 { return d.rate }},
		{name: "processor ms a mail, certpost", of: func(d drained) float64 { return d.work }},
		{name: "resident memory of certpost, MiB", of: func(d drained) float64 { return d.memory }},
	}
	for round := range o.rounds {
		for i := range 2 {
			s := []*site{few, many}[(round+i)%2]
			d, err := s.drain(ctx, o.mails)
			if err != nil {
				return errors.Join(fmt.Errorf("%s: %w", s.name, err), table.Flush())
			}
			for f := range figures {
				if s == few {
					figures[f].few = append(figures[f].few, figures[f].of(d))
				} else {
					figures[f].many = append(figures[f].many, figures[f].of(d))
				}
			}
		}
	}
	for _, f := range figures {
		a, b := road.Median(f.few), road.Median(f.many)
		fmt.Fprintf(table, "%s\t%.2f\t%.2f\t%.2f\t\n", f.name, a, b, b/a)
	}
	var first []time.Duration
	for _, s := range []*site{few, many} {
		took, err := s.restart(ctx, o.rest)
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", s.name, err), table.Flush())
		}
		first = append(first, took)
	}
	fmt.Fprintf(table, "seconds from the start to the first mail\t%.2f\t%.2f\t%.2f\t\n", first[0].Seconds(), first[1].Seconds(), first[1].Seconds()/first[0].Seconds())
	return table.Flush()
}
