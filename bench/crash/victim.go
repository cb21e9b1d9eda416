package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
)

// victim is the `certpost run` process that is killed.
type victim struct {
	*harness.Process
	nats   broker.Config
	disk   *disk                                     // of the store; nil: the one of everything else
	verify func(ctx context.Context) ([]byte, error) // certpost audit verify
	broken string                                    // what that said, if not that all is well
}

// configure writes the configuration.
func (v *victim) configure(o options, dir string, relay *devrelay.Relay) error {
	address, err := road.FreeAddress()
	if err != nil {
		return err
	}
	targets, err := harness.Targets(targetIDs, relay, dir)
	if err != nil {
		return err
	}
	config, data := filepath.Join(dir, "certpost.yaml"), filepath.Join(dir, "data")
	if v.disk != nil {
		data = filepath.Join(v.disk.dir, "data")
	}
	text := fmt.Sprintf("data_dir: %q\nnats: {listen: %q, sync_interval: %q}\nhttp: {listen: \"127.0.0.1:0\"}\nlog: {format: json}\n%s",
		data, address, o.sync, targets)
	v.Process = &harness.Process{Name: "certpost", Log: filepath.Join(dir, "log.json"), Command: func() *exec.Cmd {
		return exec.Command(o.program, "run", "-c", config)
	}}
	v.nats = broker.Config{DataDir: data, Listen: address}
	v.verify = func(ctx context.Context) ([]byte, error) {
		return exec.CommandContext(ctx, o.program, "audit", "verify", "-c", config).CombinedOutput()
	}
	return os.WriteFile(config, []byte(text), 0o600)
}

// killAgainAndAgain starts and kills the victim for o.span and returns the number of
// kills. Afterwards the victim does not run.
func (v *victim) killAgainAndAgain(ctx context.Context, o options) (kills int, err error) {
	wait := func() time.Duration { return o.every }
	if v.disk != nil {
		wait = func() time.Duration { return rand.N(2 * o.every) }
	}
	for begin := time.Now(); time.Since(begin) < o.span; kills++ {
		if err := v.Start(); err != nil {
			return kills, err
		}
		backoff.Sleep(ctx, wait())
		if err := errors.Join(ctx.Err(), v.EndedByItself()); err != nil {
			return kills, err
		}
		if err := v.End(syscall.SIGKILL); err != nil {
			return kills, err
		}
		if v.disk != nil {
			if err := v.disk.cut(ctx); err != nil {
				return kills, err
			}
		}
	}
	return kills, nil
}

// settle waits until everything is settled, reads the outcome, and stops the victim
// with SIGTERM.
func (v *victim) settle(ctx context.Context) (found harness.Outcome, stranded int, err error) {
	var b *broker.Broker
	err = road.Poll(ctx, 10*time.Minute, func() error {
		if b = harness.Dial(ctx, v.nats); b == nil {
			return errors.New("certpost did not start again: see its log")
		}
		return nil
	})
	if err != nil {
		return found, 0, err
	}
	defer b.Close()
	if found, err = harness.Settle(ctx, b, 10*time.Minute); err != nil {
		return found, 0, err
	}
	if said, err := v.verify(ctx); err != nil {
		v.broken = strings.TrimSpace(string(said)) + " (" + err.Error() + ")"
	}
	if err := v.End(syscall.SIGTERM); err != nil {
		return found, 0, err
	}
	stranded, err = v.stranded()
	return found, stranded, err
}

// stranded counts in the log the messages that a consumer counted as acknowledged
// although the stream still had them.
func (v *victim) stranded() (n int, err error) {
	log, err := os.ReadFile(v.Log)
	for line := range bytes.Lines(log) {
		var said struct {
			Message  string `json:"message"`
			Messages int    `json:"messages"`
		}
		if json.Unmarshal(line, &said) != nil {
			continue // a kill may have truncated the line
		}
		if strings.Contains(said.Message, "removed stranded deliveries") || strings.Contains(said.Message, "published stranded deliveries again") {
			n += said.Messages
		}
	}
	return n, err
}
