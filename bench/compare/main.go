// Compare measures Certpost against its peers on one machine: Postfix with its queue, a bare
// go-mail loop, Postfix's smtp-source, and a bare PKCS#12 encoder. Every peer, and the built
// program, is a process of its own, and all mails go to the same smtp-sink.
//
// The measurements are interleaved: each round runs every one of them once, in an order that
// turns from round to round, so that other work on the machine falls on all of them alike.
// The table shows the median of the ratios within the rounds, and for each contestant the
// medians of its rate, its processor time per mail and its peak memory.
//
//	go run ./bench/compare                                # all figures, five rounds
//	go run ./bench/compare -only durable-backlog,relaxed-backlog -rounds 7
//	go run ./bench/compare -json compare.json
//
// It needs Linux, root (Postfix drops its own rights) and Debian's package postfix. -dir must
// be on a real disk, otherwise the durable figures mean nothing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
)

// options are the flags.
type options struct {
	dir, program, only, json string
	rounds, mails            int
}

func main() {
	if len(os.Args) > 1 && peers[os.Args[1]] != nil {
		if err := peers[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "compare:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory for stores and queues")
	flag.StringVar(&o.program, "program", "", "the program to measure (default: build ./cmd/consumer)")
	flag.StringVar(&o.only, "only", "", "the figures to measure, separated by commas (default: all): "+strings.Join(names(), ", "))
	flag.StringVar(&o.json, "json", "", "also write every measurement to this file")
	flag.IntVar(&o.rounds, "rounds", 5, "number of rounds; each runs every measurement once")
	flag.IntVar(&o.mails, "mails", 3000, "number of mails in each measurement")
	flag.Parse()
	harness.Main("compare", func(ctx context.Context) error { return compare(ctx, o, os.Stdout) }, syscall.SIGTERM)
}

// compare runs the rounds and prints the tables.
func compare(ctx context.Context, o options, out io.Writer) (err error) {
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	if o.rounds < 1 || o.mails < 100 {
		return errors.New("want -rounds of at least 1 and -mails of at least 100")
	}
	if o.dir, err = os.MkdirTemp(o.dir, "compare-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.dir)
	// Postfix's processes run as its own user and must reach their queue below this directory.
	if err := os.Chmod(o.dir, 0o755); err != nil {
		return err
	}
	if o.program, err = road.Program(ctx, o.program, o.dir); err != nil {
		return err
	}
	b, err := newBench(o)
	if err != nil {
		return err
	}
	runs := needed(chosen)
	all := map[string][]Result{}
	for round := range o.rounds {
		for i := range runs {
			name := runs[(i+round)%len(runs)]
			r, err := measurements[name](ctx, b)
			if err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, name, err)
			}
			all[name] = append(all[name], r)
			fmt.Fprintf(out, "round %d  %-26s %s\n", round+1, name, r)
		}
	}
	report(out, chosen, all)
	if o.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(document(chosen, all), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(text, '\n'), 0o644)
}

// A figure is the ratio of two measurements.
type figure struct {
	Name   string
	Of, To string // names of measurements: Of is divided by To
	By     func(Result) float64
	Unit   string
	Wanted float64
	Most   bool // Wanted is a maximum
}

var figures = []figure{
	{Name: "durable-backlog", Of: "certpost durable backlog", To: "postfix backlog", By: rate, Unit: "mails/s", Wanted: 3},
	{Name: "durable-road", Of: "certpost durable road", To: "postfix road", By: rate, Unit: "mails/s", Wanted: 2.5},
	{Name: "relaxed-backlog", Of: "certpost relaxed backlog", To: "go-mail loop", By: rate, Unit: "mails/s", Wanted: 0.8},
	{Name: "relaxed-road", Of: "certpost relaxed road", To: "go-mail loop", By: rate, Unit: "mails/s", Wanted: 0.5},
	{Name: "pkcs12", Of: "certpost pkcs12", To: "pkcs12 loop", By: rate, Unit: "mails/s", Wanted: 0.75},
	{Name: "pkcs12-50-targets", Of: "certpost pkcs12, 50 targets", To: "certpost pkcs12", By: rate, Unit: "mails/s", Wanted: 10},
	{Name: "idle-relaxed", Of: "certpost relaxed idle", To: "go-mail idle", By: p50, Unit: "ms (p50)", Wanted: 3, Most: true},
	{Name: "idle-durable", Of: "certpost durable idle", To: "go-mail idle and 3 flushes", By: p50, Unit: "ms (p50)", Wanted: 2, Most: true},
	{Name: "100-targets", Of: "certpost 100 targets", To: "certpost relaxed road", By: cpu, Unit: "cpu-ms/mail", Wanted: 0.5, Most: true},
	{Name: "sink", Of: "smtp-source", To: "go-mail loop", By: rate, Unit: "mails/s"},
}

func names() (all []string) {
	for _, f := range figures {
		all = append(all, f.Name)
	}
	return all
}

// choose returns the figures with these names, all of them for "".
func choose(only string) ([]figure, error) {
	if only == "" {
		return figures, nil
	}
	var chosen []figure
	for name := range strings.SplitSeq(only, ",") {
		i := slices.Index(names(), strings.TrimSpace(name))
		if i < 0 {
			return nil, fmt.Errorf("-only: there is no figure %q: want %s", name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, figures[i])
	}
	return chosen, nil
}

// needed returns the measurements that the figures divide, each once, sorted.
func needed(chosen []figure) []string {
	set := map[string]bool{}
	for _, f := range chosen {
		set[f.Of], set[f.To] = true, true
	}
	return slices.Sorted(maps.Keys(set))
}
