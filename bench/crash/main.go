// Crash kills `certpost run` (kill -9) again and again while it is delivering, and
// counts what became of every event: none may be lost, and no more mails may come
// twice than there were outcomes that nobody could know. It ends with 1 otherwise.
//
// Certpost runs as a process of its own, with its embedded NATS server and store,
// two targets, STARTTLS and AUTH. Publishers keep a backlog before it, each event
// published until it is acknowledged, as a careful publisher does; the relay and
// they live in this process and are not killed. After the last kill it is started
// once more and has to settle everything that is left.
//
//	go run ./bench/crash                      # every 2 s, for 2 minutes
//	go run ./bench/crash -every 500ms -for 1m
//	go run ./bench/crash -help                # the other flags
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
	"sync"
	"time"

	"github.com/certpost/certpost/bench/road"
)

// options are the flags.
type options struct {
	dir, program, sync string
	every, span        time.Duration
	backlog            int
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where store and log go; they stay there when something is wrong")
	flag.StringVar(&o.program, "program", "", "the certpost to kill (default: it is built first)")
	flag.StringVar(&o.sync, "sync", "always", "nats.sync_interval")
	flag.DurationVar(&o.every, "every", 2*time.Second, "the time between two kills")
	flag.DurationVar(&o.span, "for", 2*time.Minute, "how long to go on killing")
	flag.IntVar(&o.backlog, "backlog", 1000, "deliveries that always wait")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		stop()
		os.Exit(1)
	}
}

// targetIDs get every event.
var targetIDs = []string{"first", "second"}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp(o.dir, "crash-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			err = fmt.Errorf("%w (store and log are in %s)", err, dir)
		}
	}()
	if o.program == "" {
		o.program = filepath.Join(dir, "certpost")
		if text, err := exec.CommandContext(ctx, "go", "build", "-o", o.program, "github.com/certpost/certpost/cmd/consumer").CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, text)
		}
	}
	relay, err := road.Mailbox()
	if err != nil {
		return err
	}
	defer relay.Close()
	v, err := newVictim(o, dir, relay)
	if err != nil {
		return err
	}
	defer v.end(os.Kill)

	p, err := newPublisher(v.nats)
	if err != nil {
		return err
	}
	publishing, enough := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		p.run(publishing, func() bool { return p.count()*len(targetIDs)-relay.Count() < o.backlog })
	})
	kills, err := v.killAgainAndAgain(ctx, o)
	enough()
	wg.Wait()
	if err == nil {
		err = errors.Join(v.start(), p.finish(ctx))
	}
	if err != nil {
		return err
	}
	found, err := v.settle(ctx)
	if err != nil {
		return err
	}
	t := count(p.ids, relay.Mails(), found)
	fmt.Fprintf(out, "killed %d times, every %v, with sync_interval %s; all settled %v after the last start\n%sstranded messages found and settled: %d\n",
		kills, o.every, o.sync, found.took.Round(time.Second), t, found.stranded)
	return t.verdict()
}
