//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
)

// depth is the number of deliveries that wait all the time.
const depth = 2000

// throughput is the result of a measurement.
type throughput struct{ rate, certposts, servers float64 } // a second; ms of processor time a mail

// scale measures the throughput with different numbers of Certposts on the same servers, then
// kills a Certpost and a server, and checks the outcome of every event.
func scale(ctx context.Context, o options, dir string, out io.Writer) (err error) {
	var numbers []int
	for text := range strings.SplitSeq(o.scale, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("-scale %q: want numbers of processes, such as 1,2,4", o.scale)
		}
		numbers = append(numbers, n)
	}
	if o.program, err = road.Program(ctx, o.program, dir); err != nil {
		return err
	}
	relay, err := road.SlowMailbox(o.delay)
	if err != nil {
		return err
	}
	defer relay.Close()
	o.certposts = slices.Max(numbers)
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
	defer enough()
	var publishers sync.WaitGroup
	publishers.Go(func() { p.Run(publishing, 16, harness.Backlog(publishing, p, relay, len(targetIDs), depth)) })
	results := map[int][]throughput{}
	for round := range o.rounds {
		for i := range numbers {
			n := numbers[(round+i)%len(numbers)]
			t, err := c.measure(ctx, n, o.window, relay.Count)
			if err != nil {
				return err
			}
			results[n] = append(results[n], t)
		}
	}
	if err := printScale(out, numbers, results); err != nil {
		return err
	}
	if err := c.killBoth(ctx, o); err != nil {
		return err
	}
	enough()
	publishers.Wait()
	if err := p.Finish(ctx); err != nil {
		return err
	}
	found, err := c.settle(ctx)
	if err != nil {
		return err
	}
	t := harness.Count(p.IDs(), targetIDs, relay.Mails(), found)
	fmt.Fprintf(out, "with %d certposts one was killed together with the leader of the ledger; all settled %v after the last event\n%s", o.certposts, found.Took.Round(time.Second), t)
	return t.Verdict()
}

// run makes the first n Certposts run, and no others.
func (c *cluster) run(n int) (err error) {
	for i, m := range c.certposts {
		switch running := m.Runs(); {
		case i < n && !running:
			err = errors.Join(err, m.Start())
		case i >= n && running:
			err = errors.Join(err, m.End(syscall.SIGTERM))
		}
	}
	return err
}

// measure measures with n Certposts from when they are under way.
func (c *cluster) measure(ctx context.Context, n int, window time.Duration, mails func() int) (t throughput, err error) {
	if err := c.run(n); err != nil {
		return t, err
	}
	backoff.Sleep(ctx, 6*time.Second)
	used := func(all []*harness.Process) (sum time.Duration, err error) {
		for _, m := range all {
			if m.Runs() {
				u, err := harness.UsageOf(m.PID())
				if err != nil {
					return 0, err
				}
				sum += u.CPU
			}
		}
		return sum, nil
	}
	var before, after [2]time.Duration
	groups := [2][]*harness.Process{c.certposts, c.servers}
	for i, all := range groups {
		if before[i], err = used(all); err != nil {
			return t, err
		}
	}
	began, first := time.Now(), mails()
	backoff.Sleep(ctx, window)
	took, sent := time.Since(began), float64(mails()-first)
	for i, all := range groups {
		if after[i], err = used(all); err != nil {
			return t, err
		}
	}
	if err := ctx.Err(); err != nil || sent == 0 {
		return t, errors.Join(err, errors.New("no mail arrived during a measurement"))
	}
	ms := func(i int) float64 { return (after[i] - before[i]).Seconds() * 1000 / sent }
	return throughput{sent / took.Seconds(), ms(0), ms(1)}, nil
}

// printScale prints medians, and how many times the rate of the first number the others reach.
func printScale(out io.Writer, numbers []int, results map[int][]throughput) error {
	median := func(n int, of func(throughput) float64) float64 {
		var all []float64
		for _, t := range results[n] {
			all = append(all, of(t))
		}
		return road.Median(all)
	}
	rate := func(t throughput) float64 { return t.rate }
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "certposts\tmails a second\ttimes that of %d\tprocessor ms a mail: certposts\tNATS servers\t\n", numbers[0])
	for _, n := range numbers {
		fmt.Fprintf(table, "%d\t%.0f\t%.2f\t%.2f\t%.2f\t\n", n, median(n, rate), median(n, rate)/median(numbers[0], rate),
			median(n, func(t throughput) float64 { return t.certposts }), median(n, func(t throughput) float64 { return t.servers }))
	}
	return table.Flush()
}

// killBoth kills a Certpost and the server that leads the ledger amid the work of all, and
// starts them again.
func (c *cluster) killBoth(ctx context.Context, o options) error {
	if err := c.run(o.certposts); err != nil {
		return err
	}
	backoff.Sleep(ctx, 6*time.Second)
	leader, err := c.leader(ctx)
	if err != nil {
		return err
	}
	for _, m := range []*harness.Process{leader, c.certposts[0]} {
		if err := m.End(syscall.SIGKILL); err != nil {
			return err
		}
	}
	backoff.Sleep(ctx, o.lasts)
	for _, m := range []*harness.Process{leader, c.certposts[0]} {
		if err := m.Start(); err != nil {
			return err
		}
	}
	if err := c.led(ctx); err != nil {
		return err
	}
	backoff.Sleep(ctx, o.pause)
	return ctx.Err()
}
