package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
)

// job is what a Certpost does in one measurement.
type job struct {
	sync    string // nats.sync_interval
	targets int    // that each event names
	payload string
}

// certpost is a running program with its embedded NATS, and a client of that.
type certpost struct {
	job
	process *exec.Cmd
	broker  *broker.Broker
	sink    *sink
	remove  func()
	chains  []string
	key     string
}

func (b *bench) openCertpost(ctx context.Context, j job) (c *certpost, err error) {
	dir, remove, err := b.newDir("certpost")
	if err != nil {
		return nil, err
	}
	c = &certpost{job: j, remove: remove, chains: b.chains}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if j.payload == "pkcs12" {
		c.chains, c.key = b.keyed, b.key
	}
	if c.sink, err = openSink(ctx); err != nil {
		return nil, err
	}
	address, err := road.FreeAddress()
	if err != nil {
		return nil, err
	}
	health, err := road.FreeAddress()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "certpost.yaml")
	if err := os.WriteFile(config, []byte(c.config(dir, address, health)), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log.json"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.process = exec.CommandContext(ctx, b.program, "run", "-c", config)
	c.process.Stdout, c.process.Stderr = log, log
	if err := c.process.Start(); err != nil {
		return nil, err
	}
	if err = road.Poll(ctx, stalled, func() error { return ready(health) }); err == nil {
		data := filepath.Join(dir, "data")
		c.broker, err = broker.Dial(ctx, broker.Config{DataDir: data, Listen: address, AuditKeys: auditKeys(data)}, zerolog.Nop())
	}
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		err = fmt.Errorf("%w\n%s", err, text)
	}
	return c, err
}

// auditKeys returns the keys that the program has made. Without them a lane cannot be suspended,
// because that is a signed record of the audit.
func auditKeys(data string) func(context.Context) (*broker.AuditKeys, error) {
	return func(context.Context) (*broker.AuditKeys, error) {
		text, err := os.ReadFile(filepath.Join(data, "audit.key"))
		if err != nil {
			return nil, err
		}
		return broker.ParseAuditKeys(text)
	}
}

// ready returns nil if the program says that it delivers.
func ready(address string) error {
	answer, err := http.Get("http://" + address + "/readyz")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz says %s", answer.Status)
	}
	return nil
}

func (c *certpost) config(dir, address, health string) string {
	host, port, _ := net.SplitHostPort(c.sink.address) // which the sink listens on
	var text strings.Builder
	fmt.Fprintf(&text, "data_dir: %q\nnats: {listen: %q, sync_interval: %q}\nhttp: {listen: %q}\nlog: {format: json}\n", filepath.Join(dir, "data"), address, c.sync, health)
	fmt.Fprintf(&text, "events: {file_roots: [%q]}\ntargets:\n", filepath.Dir(c.keyFile(dir)))
	for i := range c.targets {
		fmt.Fprintf(&text, "  - {id: t%d, host: %s, port: %s, tls_mode: plaintext, from_address: certpost@example.com, to: [certificates@example.com], payload: %s", i, host, port, c.payload)
		if c.payload == "pkcs12" {
			text.WriteString(", pkcs12_passphrase: {value: bench-passphrase}")
		}
		text.WriteString("}\n")
	}
	return text.String()
}

func (c *certpost) keyFile(dir string) string {
	if c.key == "" {
		return filepath.Join(dir, "none")
	}
	return c.key
}

// events returns the events whose deliveries are that many mails. Each has a leaf of its own.
func (c *certpost) events(mails int) (all []*events.Event) {
	var targets []string
	for i := range c.targets {
		targets = append(targets, "t"+strconv.Itoa(i))
	}
	for i := range mails / c.targets {
		ev := &events.Event{ID: strconv.Itoa(i), Source: "bench://compare", Time: time.Now(), Certificate: events.Certificate{PEM: c.chains[i]}, Targets: targets}
		if c.key != "" {
			ev.PrivateKey = &events.Reference{File: c.key}
		}
		all = append(all, ev)
	}
	return all
}

// publish publishes the events, 64 at a time, each until the stream has stored it.
func (c *certpost) publish(ctx context.Context, all []*events.Event) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	waiting := make(chan *events.Event)
	var publishers sync.WaitGroup
	for range 64 {
		publishers.Go(func() {
			for ev := range waiting {
				if _, _, err := c.broker.Publish(ctx, ev); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, ev := range all {
		waiting <- ev
	}
	close(waiting)
	publishers.Wait()
	return context.Cause(ctx)
}

func (c *certpost) close() {
	if c.broker != nil {
		c.broker.Close()
	}
	if c.process != nil && c.process.Process != nil {
		_ = c.process.Process.Signal(syscall.SIGTERM)
		_ = c.process.Wait()
	}
	if c.sink != nil {
		c.sink.close()
	}
	c.remove()
}

// lane is the lane of all targets: that of the sink.
func (c *certpost) lane() string {
	return strings.NewReplacer(".", "_", ":", "-").Replace(c.sink.address)
}

// certpostBacklog measures from the first delivery to the last, all of which wait before.
func certpostBacklog(sync string) func(context.Context, *bench) (Result, error) {
	return func(ctx context.Context, b *bench) (Result, error) {
		c, err := b.openCertpost(ctx, job{sync: sync, targets: 1, payload: "pem"})
		if err != nil {
			return Result{}, err
		}
		defer c.close()
		by := broker.Actor{Name: "bench", Via: broker.ViaShell}
		err = c.broker.Suspend(ctx, broker.Suspension{Lane: c.lane(), Reason: "until all wait", By: by.Name, Since: time.Now()}, by)
		if err != nil {
			return Result{}, err
		}
		time.Sleep(time.Second) // until the program has read the suspension; await finds out if it has not
		if err := c.publish(ctx, c.events(b.mails)); err != nil {
			return Result{}, err
		}
		err = road.Poll(ctx, stalled, func() error {
			left, err := c.broker.Backlog(ctx)
			if err == nil && (left.Events > 0 || left.Deliveries != uint64(b.mails)) {
				err = fmt.Errorf("%d events and %d deliveries wait, want 0 and %d", left.Events, left.Deliveries, b.mails)
			}
			return err
		})
		if err != nil {
			return Result{}, err
		}
		before, err := harness.UsageOf(c.process.Process.Pid)
		if err != nil {
			return Result{}, err
		}
		if err := c.broker.Resume(ctx, c.lane(), by, "all wait"); err != nil {
			return Result{}, err
		}
		taken, err := c.sink.await(ctx, b.mails)
		if err != nil {
			return Result{}, err
		}
		return spent(Result{Mails: b.mails, Rate: paced(taken)}, c.process.Process.Pid, before)
	}
}

// certpostRoad measures from the start of the first publication to the relay's last 250.
func certpostRoad(j job) func(context.Context, *bench) (Result, error) {
	return func(ctx context.Context, b *bench) (Result, error) {
		c, err := b.openCertpost(ctx, j)
		if err != nil {
			return Result{}, err
		}
		defer c.close()
		mails := b.mails
		if j.payload == "pkcs12" {
			mails = b.keyedMails()
		}
		mails = mails / j.targets * j.targets
		before, err := harness.UsageOf(c.process.Process.Pid)
		if err != nil {
			return Result{}, err
		}
		start := time.Now()
		if err := c.publish(ctx, c.events(mails)); err != nil {
			return Result{}, err
		}
		taken, err := c.sink.await(ctx, mails)
		if err != nil {
			return Result{}, err
		}
		return spent(Result{Mails: mails, Rate: since(start, taken)}, c.process.Process.Pid, before)
	}
}

// certpostIdle measures from one publication to its 250, one event after the other, with a
// pause between them, in which all is at rest.
func certpostIdle(sync string) func(context.Context, *bench) (Result, error) {
	return func(ctx context.Context, b *bench) (Result, error) {
		c, err := b.openCertpost(ctx, job{sync: sync, targets: 1, payload: "pem"})
		if err != nil {
			return Result{}, err
		}
		defer c.close()
		before, err := harness.UsageOf(c.process.Process.Pid)
		if err != nil {
			return Result{}, err
		}
		all := c.events(min(gentle, b.mails))
		r, err := gently(ctx, c.sink, len(all), func(i int) error { return c.publish(ctx, all[i:i+1]) })
		if err != nil {
			return r, err
		}
		return spent(r, c.process.Process.Pid, before)
	}
}

// gently calls send for one mail after the other and measures until the sink has it.
func gently(ctx context.Context, s *sink, mails int, send func(i int) error) (Result, error) {
	var took []float64
	begin := time.Now()
	for i := range mails {
		time.Sleep(10 * time.Millisecond)
		start := time.Now()
		if err := send(i); err != nil {
			return Result{}, err
		}
		taken, err := s.await(ctx, i+1)
		if err != nil {
			return Result{}, err
		}
		// A send that returns after the 250 has taken until then.
		took = append(took, float64(max(taken[i].Sub(start), time.Since(start)))/float64(time.Millisecond))
	}
	return Result{Mails: mails, P50: road.Median(took), Rate: float64(mails) / time.Since(begin).Seconds()}, nil
}
