package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
)

// victim is the `certpost run` process that is killed.
type victim struct {
	program, config string
	nats            broker.Config
	log             string
	process         *exec.Cmd
	ended           chan error // receives the result of the process when it ends
}

func newVictim(o options, dir string, relay *devrelay.Relay) (*victim, error) {
	address, err := road.FreeAddress()
	if err != nil {
		return nil, err
	}
	v := &victim{program: o.program, config: filepath.Join(dir, "certpost.yaml"), nats: broker.Config{DataDir: filepath.Join(dir, "data"), Listen: address}, log: filepath.Join(dir, "log.json")}
	t, err := road.SubmissionTarget("", relay, dir)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "data_dir: %q\nnats: {listen: %q, sync_interval: %q}\nhttp: {listen: \"127.0.0.1:0\"}\nlog: {format: json}\ntargets:\n",
		filepath.Join(dir, "data"), address, o.sync)
	for _, id := range targetIDs {
		fmt.Fprintf(&text, "  - {id: %s, host: %s, port: %d, ca_file: %q, username: %q, password: {file: %q}, from_address: %s, to: [%s]}\n",
			id, t.Host, t.Port, t.CAFile, t.Username.Plain, t.Password.File, t.FromAddress, t.To[0])
	}
	return v, os.WriteFile(v.config, []byte(text.String()), 0o600)
}

func (v *victim) start() error {
	log, err := os.OpenFile(v.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	v.process = exec.Command(v.program, "run", "-c", v.config)
	v.process.Stdout, v.process.Stderr = log, log
	if err := v.process.Start(); err != nil {
		return err
	}
	v.ended = make(chan error, 1)
	go func(p *exec.Cmd, ended chan<- error) { ended <- p.Wait() }(v.process, v.ended)
	return nil
}

// end sends the signal and waits until the process has ended. Without a process it
// does nothing.
func (v *victim) end(signal os.Signal) error {
	if v.process == nil {
		return nil
	}
	if err := v.process.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := <-v.ended
	v.process = nil
	return err
}

// killAgainAndAgain starts and kills the victim for o.span and returns the number of
// kills. Afterwards the victim does not run.
func (v *victim) killAgainAndAgain(ctx context.Context, o options) (kills int, err error) {
	for begin := time.Now(); time.Since(begin) < o.span; kills++ {
		if err := v.start(); err != nil {
			return kills, err
		}
		select {
		case <-time.After(o.every):
		case <-ctx.Done():
			return kills, ctx.Err()
		case err := <-v.ended:
			v.process = nil
			return kills, fmt.Errorf("certpost ended by itself: %w", err)
		}
		_ = v.end(os.Kill) // the error is that it was killed
	}
	return kills, nil
}

// outcome is the state of the deliveries as certpost reports it.
type outcome struct {
	entries  []broker.Entry
	dead     uint64
	took     time.Duration // until everything was settled
	stranded int           // stranded messages that were settled, according to the log
}

// settle waits until everything is settled, reads the outcome, and stops the victim
// with SIGTERM.
func (v *victim) settle(ctx context.Context) (outcome, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	b := dial(ctx, v.nats)
	for ; b == nil && ctx.Err() == nil; b = dial(ctx, v.nats) {
		time.Sleep(20 * time.Millisecond)
	}
	if b == nil {
		return outcome{}, errors.New("certpost did not start again: see its log")
	}
	defer b.Close()
	var left broker.Backlog
	for {
		var err error
		if left, err = b.Backlog(ctx); err == nil && left.Events == 0 && left.Deliveries == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return outcome{}, fmt.Errorf("not everything was settled: %+v, %w", left, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	took := time.Since(began)
	entries, err := b.Deliveries(ctx, "", "")
	if err != nil {
		return outcome{}, err
	}
	if err := v.end(syscall.SIGTERM); err != nil {
		return outcome{}, err
	}
	stranded, err := v.stranded()
	return outcome{entries, left.Dead, took, stranded}, err
}

// stranded counts in the log the messages that a consumer counted as acknowledged
// although the stream still had them.
func (v *victim) stranded() (n int, err error) {
	log, err := os.ReadFile(v.log)
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
