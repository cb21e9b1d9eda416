// Crash kills `certpost run` (kill -9) again and again while it delivers, and
// checks the outcome of every event: no event may be lost, and the number of duplicate
// mails must not exceed the number of unknown outcomes. Otherwise it exits with 1.
//
// Certpost runs as a separate process, with its embedded NATS server and store,
// two targets, STARTTLS and AUTH. Publishers keep a backlog of deliveries waiting, and
// publish each event until it is acknowledged, as a careful publisher does. The relay and
// the publishers run in this process and are not killed. After the last kill Certpost is
// started once more, must settle everything that is left, and its audit must verify.
//
// With -power-cut the store is on a file system of its own, and at each kill everything is
// thrown away that Certpost has written to it and not flushed, as in a power cut (see disk;
// needs Linux and root). Then the kills come at random times, so that some hit the start.
//
//	go run ./bench/crash                      # every 2 s, for 2 minutes
//	go run ./bench/crash -every 500ms -for 1m
//	go run ./bench/crash -power-cut
//	go run ./bench/crash -power-cut -sync 2m  # exits with 1: shows what that setting can lose
//	go run ./bench/crash -help                # the other flags
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
)

// options are the flags.
type options struct {
	dir, program, sync string
	every, span        time.Duration
	backlog            int
	powerCut           bool
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory for store and log; they are kept after a failure")
	flag.StringVar(&o.program, "program", "", "the certpost binary to kill (default: build it)")
	flag.StringVar(&o.sync, "sync", "always", "nats.sync_interval")
	flag.DurationVar(&o.every, "every", 2*time.Second, "time between two kills")
	flag.DurationVar(&o.span, "for", 2*time.Minute, "how long to continue killing")
	flag.IntVar(&o.backlog, "backlog", 1000, "number of deliveries to keep waiting")
	flag.BoolVar(&o.powerCut, "power-cut", false, "also throw away what is not flushed, and kill at random times up to twice -every after the start")
	flag.Parse()
	harness.Main("crash", func(ctx context.Context) error { return run(ctx, o, os.Stdout) })
}

// targetIDs are the targets of every event.
var targetIDs = []string{"first", "second"}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	return harness.InDirectory(o.dir, "crash-", func(dir string) error { return runIn(ctx, o, dir, out) })
}

func runIn(ctx context.Context, o options, dir string, out io.Writer) (err error) {
	if o.program, err = road.Program(ctx, o.program, dir); err != nil {
		return err
	}
	relay, err := road.Mailbox()
	if err != nil {
		return err
	}
	defer relay.Close()
	v := &victim{}
	if o.powerCut {
		if v.disk, err = newDisk(ctx, dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, v.disk.unmount(context.WithoutCancel(ctx))) }()
	}
	if err := v.configure(o, dir, relay); err != nil {
		return err
	}
	defer v.End(os.Kill)

	send, err := harness.SendTo("crash://bench", targetIDs)
	if err != nil {
		return err
	}
	p := harness.NewPublisher(v.nats, send)
	publishing, enough := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(publishing, 8, harness.Backlog(publishing, p, relay, len(targetIDs), o.backlog)) })
	kills, err := v.killAgainAndAgain(ctx, o)
	enough()
	wg.Wait()
	if err == nil {
		err = errors.Join(v.Start(), p.Finish(ctx))
	}
	if err != nil {
		return err
	}
	found, stranded, err := v.settle(ctx)
	if err != nil {
		return err
	}
	t := harness.Count(p.IDs(), targetIDs, relay.Mails(), found)
	way := "killed"
	if o.powerCut {
		way = "power cut"
	}
	fmt.Fprintf(out, "%s %d times, every %v, with sync_interval %s; all settled %v after the last start\n%sstranded messages found and settled: %d\naudit: %s\n",
		way, kills, o.every, o.sync, found.Took.Round(time.Second), t, stranded, cmp.Or(v.broken, "verified"))
	if v.broken != "" {
		err = errors.New("the audit does not verify")
	}
	return errors.Join(t.Verdict(), err)
}
