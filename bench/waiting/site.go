//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
)

// targets is the number of targets of each event, all at one relay.
const targets = 100

// site is a running Certpost with its NATS server, its relay, and a backlog in one lane.
type site struct {
	name     string
	depth    int // number of deliveries that wait
	relay    *devrelay.Relay
	nats     *harness.Process // nil: embedded
	certpost *harness.Process
	broker   *broker.Broker // this program's connection
	settings broker.Config
	send     func(context.Context, *broker.Broker, string) error
	events   atomic.Int64 // published
}

// open starts a site and returns when its deliveries wait.
func open(ctx context.Context, o options, dir, name string, depth int) (s *site, err error) {
	s = &site{name: name, depth: depth}
	dir = filepath.Join(dir, name)
	if err = os.Mkdir(dir, 0o700); err != nil {
		return s, err
	}
	if s.relay, err = road.Relay(false); err != nil {
		return s, err
	}
	if err = s.configure(o, dir); err != nil {
		return s, err
	}
	if s.nats != nil {
		if err = s.nats.Start(); err != nil {
			return s, err
		}
	}
	if err = s.certpost.Start(); err == nil {
		err = s.dial(ctx)
	}
	if err == nil {
		err = s.suspend(ctx)
	}
	if err == nil {
		err = s.fill(ctx)
	}
	return s, err
}

// configure writes the configuration.
func (s *site) configure(o options, dir string) error {
	data := filepath.Join(dir, "data")
	var nats string
	if o.embedded {
		address, err := road.FreeAddress()
		if err != nil {
			return err
		}
		nats = fmt.Sprintf("data_dir: %q\nnats: {listen: %q, sync_interval: %q}\n", data, address, o.sync)
		s.settings = broker.Config{DataDir: data, Listen: address, AuditKeys: auditKeys(filepath.Join(data, "audit.key"))}
	} else {
		server, url, err := harness.NewServer(dir, "nats")
		if err != nil {
			return err
		}
		nats = fmt.Sprintf("data_dir: %q\nnats: {url: %q}\n", data, url)
		s.nats, s.settings = server, broker.Config{URL: url}
	}
	host, port, err := net.SplitHostPort(s.relay.Plain())
	if err != nil {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%shttp: {listen: \"127.0.0.1:0\"}\nlog: {format: json}\ntargets:\n", nats)
	var ids []string
	for i := range targets {
		ids = append(ids, "t"+strconv.Itoa(i))
		fmt.Fprintf(&text, "  - {id: %s, host: %s, port: %s, tls_mode: plaintext, from_address: certpost@example.com, to: [certificates@example.com]}\n", ids[i], host, port)
	}
	if s.send, err = harness.SendTo("bench://waiting", ids); err != nil {
		return err
	}
	config := filepath.Join(dir, "certpost.yaml")
	s.certpost = &harness.Process{Name: s.name, Log: filepath.Join(dir, "log.json"), Command: func() *exec.Cmd {
		cmd := exec.Command(o.program, "run", "-c", config)
		cmd.Dir = dir
		return cmd
	}}
	return os.WriteFile(config, []byte(text.String()), 0o600)
}

// auditKeys returns the keys that the program has made: a suspension is a signed record.
func auditKeys(file string) func(context.Context) (*broker.AuditKeys, error) {
	return func(context.Context) (*broker.AuditKeys, error) {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		return broker.ParseAuditKeys(text)
	}
}

// patience is how long what must happen may take.
const patience = 20 * time.Minute

// dial connects, once the program has made its streams.
func (s *site) dial(ctx context.Context) error {
	return road.Poll(ctx, patience, func() (err error) {
		if err := s.certpost.EndedByItself(); err != nil {
			return err
		}
		dialing, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if s.broker, err = broker.Dial(dialing, s.settings, zerolog.Nop()); err != nil {
			return err
		}
		if _, err = s.broker.Backlog(dialing); err != nil {
			s.broker.Close()
			s.broker = nil
		}
		return err
	})
}

// lane is the lane of all targets: that of the relay.
func (s *site) lane() string {
	return strings.NewReplacer(".", "_", ":", "-").Replace(s.relay.Plain())
}

var by = broker.Actor{Name: "bench", Via: broker.ViaShell}

// suspend returns when no mail is under way any more.
func (s *site) suspend(ctx context.Context) error {
	// A program that has just started does not have the lane yet.
	err := road.Poll(ctx, time.Minute, func() error {
		return s.broker.Suspend(ctx, broker.Suspension{Lane: s.lane(), Reason: "until all wait", By: by.Name, Since: time.Now()}, by)
	})
	if err != nil {
		return err
	}
	before, since := s.relay.Count(), time.Now()
	return road.Poll(ctx, patience, func() error {
		if now := s.relay.Count(); now != before {
			before, since = now, time.Now()
		}
		if time.Since(since) < 3*time.Second { // the program reads suspensions each second
			return errors.New("mails are still under way")
		}
		return nil
	})
}

func (s *site) resume(ctx context.Context) error {
	return s.broker.Resume(ctx, s.lane(), by, "all wait")
}

// fill publishes events until their deliveries make up the depth.
func (s *site) fill(ctx context.Context) error {
	left, err := s.broker.Backlog(ctx)
	if err != nil {
		return err
	}
	missing := (s.depth - int(left.Deliveries) + targets - 1) / targets
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var publishers sync.WaitGroup
	numbers := make(chan int64)
	for range 16 {
		publishers.Go(func() {
			for n := range numbers {
				if err := s.send(ctx, s.broker, strconv.FormatInt(n, 10)); err != nil {
					cancel(err)
				}
			}
		})
	}
	for range missing {
		numbers <- s.events.Add(1)
	}
	close(numbers)
	publishers.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return road.Poll(ctx, patience, func() error {
		left, err := s.broker.Backlog(ctx)
		if err == nil && (left.Events > 0 || left.Deliveries < uint64(s.depth)) {
			err = fmt.Errorf("%d events and %d deliveries wait, want 0 and %d", left.Events, left.Deliveries, s.depth)
		}
		return err
	})
}

// drained is the result of one measurement.
type drained struct{ rate, work, memory float64 } // a second, ms a mail, MiB

// drain fills the lane up, and measures from the first mail until so many more have arrived.
func (s *site) drain(ctx context.Context, mails int) (d drained, err error) {
	if err := s.fill(ctx); err != nil {
		return d, err
	}
	before := s.relay.Count()
	if err := s.resume(ctx); err != nil {
		return d, err
	}
	if err := s.await(ctx, before+1); err != nil {
		return d, err
	}
	began, first := time.Now(), s.relay.Count()
	used, err := harness.UsageOf(s.certpost.PID())
	if err != nil {
		return d, err
	}
	if err := s.await(ctx, before+mails); err != nil {
		return d, err
	}
	took, n := time.Since(began), float64(s.relay.Count()-first)
	now, err := harness.UsageOf(s.certpost.PID())
	if err != nil {
		return d, err
	}
	d = drained{rate: n / took.Seconds(), work: (now.CPU - used.CPU).Seconds() * 1000 / n, memory: float64(now.Resident) / (1 << 20)}
	return d, s.suspend(ctx)
}

// await waits until the relay has accepted that many mails.
func (s *site) await(ctx context.Context, mails int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for tick := time.NewTicker(time.Millisecond); s.relay.Count() < mails; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return fmt.Errorf("%d mails of %d: %w", s.relay.Count(), mails, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// restart stops the program for a time, with its lane resumed, and measures from its start to the
// first mail.
func (s *site) restart(ctx context.Context, rest time.Duration) (time.Duration, error) {
	if err := s.fill(ctx); err != nil {
		return 0, err
	}
	// The program reads suspensions each second, so it ends before it has sent them all.
	if err := errors.Join(s.resume(ctx), s.certpost.End(syscall.SIGTERM)); err != nil {
		return 0, err
	}
	if backoff.Sleep(ctx, rest); ctx.Err() != nil {
		return 0, ctx.Err()
	}
	before, began := s.relay.Count(), time.Now()
	if err := s.certpost.Start(); err != nil {
		return 0, err
	}
	err := s.await(ctx, before+1)
	return time.Since(began), err
}

func (s *site) close() {
	if s.broker != nil {
		s.broker.Close()
	}
	for _, p := range []*harness.Process{s.certpost, s.nats} {
		if p != nil {
			_ = p.End(os.Kill)
		}
	}
	if s.relay != nil {
		s.relay.Close()
	}
}
