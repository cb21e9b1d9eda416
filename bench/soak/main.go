//go:build unix

// Soak runs two `certpost run` processes on a cluster of three NATS servers, all of them
// processes, for a long time while everything goes wrong that can: relays in this process
// that have odd traits (replies without text, replies in single bytes, few mails on a
// connection, tokens longer than a line, no PIPELINING, no DSN) and change their moods every
// few seconds (away, busy, full, at their daily limit, greylisting, refusing some recipients,
// cutting connections before and after the final dot, slow, silent, with broken TLS or another
// certificate, refusing); servers and Certposts that are killed, stopped and restarted;
// deliveries that are deleted behind Certpost's back; definitions that change or are spoilt;
// lanes that are suspended; letters that are replayed and discarded; events in all forms, with
// unusual certificates, and some that can never be delivered.
//
// Then all faults end, everything settles, and soak checks that
//
//   - every event and target has exactly one end: sent, with a mail that a relay has accepted
//     for every recipient; or one open dead letter; or discarded, in the audit;
//   - a second mail is marked, and no more often sent than the ledger has unknown outcomes;
//   - ledger, streams and manifest agree, and the audit verifies;
//   - no secret is in a log, letter, ledger or audit, and no log has a panic;
//   - /readyz and /healthz of both Certposts are well.
//
// It prints a table, and exits with 1 if something is broken.
//
//	go run ./bench/soak                    # 20 minutes
//	go run ./bench/soak -for 2m -seed 7    # the same dice as another run with this seed
//	go run ./bench/soak -help              # the other flags
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/broker"
)

// options are the flags.
type options struct {
	dir, program    string
	certposts, rate int
	span, patience  time.Duration
	seed            uint64
}

func main() {
	if harness.ServeNATS() {
		return
	}
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory for stores and logs; they are kept after a failure")
	flag.StringVar(&o.program, "program", "", "the certpost binary (default: build it)")
	flag.IntVar(&o.certposts, "certposts", 2, "number of certpost processes")
	flag.IntVar(&o.rate, "rate", 5, "events per second")
	flag.DurationVar(&o.span, "for", 20*time.Minute, "how long things go wrong")
	flag.DurationVar(&o.patience, "patience", 12*time.Minute, "how long everything may take to settle afterwards")
	flag.Uint64Var(&o.seed, "seed", rand.Uint64(), "of the dice (default: another one each time)")
	flag.Parse()
	harness.Main("soak", func(ctx context.Context) error { return run(ctx, o, os.Stdout) })
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	return harness.InDirectory(o.dir, "soak-", func(dir string) error { return runIn(ctx, o, dir, out) })
}

func runIn(ctx context.Context, o options, dir string, out io.Writer) (err error) {
	if o.program, err = road.Program(ctx, o.program, dir); err != nil {
		return err
	}
	fmt.Fprintf(out, "seed %d, for %v\n", o.seed, o.span)
	w, err := newWorld(o.program, dir, o.certposts, o.seed)
	if w != nil {
		defer w.close()
	}
	if err != nil {
		return err
	}
	if err := w.start(ctx); err != nil {
		return err
	}
	c, err := w.suffer(ctx, o)
	if err != nil {
		return err
	}
	took, unsettled := w.settle(ctx, o.patience)
	a, err := w.check(ctx)
	if err != nil {
		return errors.Join(unsettled, err)
	}
	if unsettled != nil {
		a.fault("not everything was settled: %v", unsettled)
	}
	w.report(out, c, a, took)
	if err := os.WriteFile(filepath.Join(dir, "faults.txt"), []byte(strings.Join(a.broken, "\n")), 0o600); err != nil {
		return err
	}
	for _, p := range w.certposts {
		if err := p.End(syscall.SIGTERM); err != nil {
			a.fault("%v", err)
		}
	}
	if len(a.broken) > 0 {
		return fmt.Errorf("%d faults", len(a.broken))
	}
	return nil
}

// suffer publishes while relays are moody and everything is upset, and returns when all
// faults have ended and every event is acknowledged.
func (w *world) suffer(ctx context.Context, o options) (*counts, error) {
	c := &counts{n: map[string]int{}}
	span, cancel := context.WithTimeout(ctx, o.span)
	defer cancel()
	p := harness.NewPublisher(broker.Config{URL: w.url}, w.source.send)
	var wg sync.WaitGroup
	failed := make([]error, len(w.relays)+1)
	for i, r := range w.relays {
		wg.Go(func() { failed[i] = r.swing(span, rand.New(rand.NewPCG(o.seed, uint64(200+i))), c.add) })
	}
	wg.Go(func() {
		failed[len(w.relays)] = w.upset(span, rand.New(rand.NewPCG(o.seed, 300)), c)
		cancel() // after a failure the rest is not waited for
	})
	p.Run(span, 16, harness.AtRate(span, o.rate, "e"))
	wg.Wait()
	if err := errors.Join(append(failed, ctx.Err())...); err != nil {
		return nil, err
	}
	for _, e := range w.source.list() {
		c.add(e.kind)
	}
	return c, p.Finish(ctx)
}

// report prints the table.
func (w *world) report(out io.Writer, c *counts, a *account, took time.Duration) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, what := range slices.Sorted(maps.Keys(c.n)) {
		fmt.Fprintf(table, "%s\t%d\n", what, c.n[what])
	}
	fmt.Fprintf(table, "deliveries deleted\t%d\norders refused\t%d\n", w.deleted, w.refused)
	fmt.Fprintf(table, "events\t%d\ndeliveries\t%d\nsent\t%d\ndead letters\t%d\ndiscarded\t%d\n", a.events, a.deliveries, a.sent, a.dead, a.given)
	fmt.Fprintf(table, "second mails\t%d\nunknown outcomes\t%d\nsettled after\t%v\nfaults\t%d\n", a.duplicates, a.unknown, took.Round(time.Second), len(a.broken))
	_ = table.Flush()
	for i, text := range a.broken {
		if i == 30 {
			fmt.Fprintf(out, "and %d more, see faults.txt\n", len(a.broken)-i)
			break
		}
		fmt.Fprintln(out, text)
	}
}
