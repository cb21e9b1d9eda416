//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/internal/backoff"
)

// fault takes processes away and brings them back. round chooses among them.
type fault struct {
	name, about string
	kills       bool // a Certpost, so that a mail may be sent twice
	do          func(ctx context.Context, c *cluster, round int, lasts time.Duration) error
}

var faults = []fault{
	{"kill", "kill -9 of a NATS server", false, func(ctx context.Context, c *cluster, round int, lasts time.Duration) error {
		return away(ctx, c.servers[round%3], syscall.SIGKILL, lasts)
	}},
	{"leader", "kill -9 of the NATS server that leads the ledger", false, func(ctx context.Context, c *cluster, _ int, lasts time.Duration) error {
		leader, err := c.leader(ctx)
		if err != nil {
			return err
		}
		return away(ctx, leader, syscall.SIGKILL, lasts)
	}},
	{"stop", "SIGSTOP of a NATS server", false, func(ctx context.Context, c *cluster, round int, lasts time.Duration) error {
		return stopped(ctx, lasts, c.servers[round%3])
	}},
	{"stop2", "SIGSTOP of two NATS servers", false, func(ctx context.Context, c *cluster, round int, lasts time.Duration) error {
		return stopped(ctx, lasts, c.servers[round%3], c.servers[(round+1)%3])
	}},
	{"roll-nats", "each NATS server restarted in turn", false, func(ctx context.Context, c *cluster, _ int, lasts time.Duration) error {
		for _, m := range c.servers {
			if err := away(ctx, m, syscall.SIGTERM, lasts); err != nil {
				return err
			}
			if err := c.led(ctx); err != nil {
				return err
			}
		}
		return nil
	}},
	{"roll-certpost", "each Certpost restarted in turn", false, func(ctx context.Context, c *cluster, _ int, lasts time.Duration) error {
		for _, m := range c.certposts {
			if err := away(ctx, m, syscall.SIGTERM, lasts); err != nil {
				return err
			}
		}
		return nil
	}},
	{"kill-certpost", "kill -9 of a Certpost", true, func(ctx context.Context, c *cluster, round int, lasts time.Duration) error {
		return away(ctx, c.certposts[round%len(c.certposts)], syscall.SIGKILL, lasts)
	}},
}

// away ends a process and starts it again after a while.
func away(ctx context.Context, m *harness.Process, how syscall.Signal, lasts time.Duration) error {
	if err := m.End(how); err != nil {
		return err
	}
	backoff.Sleep(ctx, lasts)
	return m.Start()
}

// stopped stops processes for a while, as a machine that swaps or is moved does.
func stopped(ctx context.Context, lasts time.Duration, members ...*harness.Process) error {
	for _, m := range members {
		if err := m.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
	}
	backoff.Sleep(ctx, lasts)
	for _, m := range members {
		if err := m.Signal(syscall.SIGCONT); err != nil {
			return err
		}
	}
	return nil
}

func faultNames() (names []string) {
	for _, f := range faults {
		names = append(names, f.name)
	}
	return names
}

// choose returns the faults with these names.
func choose(list string) ([]fault, error) {
	if list == "all" {
		return faults, nil
	}
	var chosen []fault
	for name := range strings.SplitSeq(list, ",") {
		i := slices.Index(faultNames(), name)
		if i < 0 {
			return nil, fmt.Errorf("fault %q: want some of %s, or all", name, strings.Join(faultNames(), ", "))
		}
		chosen = append(chosen, faults[i])
	}
	return chosen, nil
}

// make makes a fault, waits until everything gets on again, and reports how long that took.
func (c *cluster) make(ctx context.Context, f fault, round int, o options, w *watcher, out io.Writer) error {
	w.begin()
	if f.kills {
		c.killed = true
	}
	if err := f.do(ctx, c, round, o.lasts); err != nil {
		return err
	}
	if err := c.led(ctx); err != nil {
		return err
	}
	backoff.Sleep(ctx, o.pause)
	leaderless, late := w.gaps()
	fmt.Fprintf(out, "%-13s %d: %s; a stream had no leader for %.1f s, the next mail came %.1f s later\n",
		f.name, round+1, f.about, leaderless.Seconds(), late.Seconds())
	return ctx.Err()
}
