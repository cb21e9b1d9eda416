//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
)

// targetIDs are the targets of every event.
var targetIDs = []string{"first", "second"}

// cluster is all processes.
type cluster struct {
	servers, certposts []*harness.Process
	urls               []string
	killed             bool           // a Certpost was killed
	observer           *broker.Broker // this program's own connection
	ledBy              atomic.Pointer[string]
}

// startCluster makes a cluster and starts it. If it does not start, it is ended.
func startCluster(ctx context.Context, o options, dir string, relay *devrelay.Relay) (*cluster, error) {
	c, err := newCluster(o, dir, relay)
	if err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

func newCluster(o options, dir string, relay *devrelay.Relay) (*cluster, error) {
	c := &cluster{}
	var err error
	if c.servers, c.urls, err = harness.NewServers(dir); err != nil {
		return nil, err
	}
	targets, err := harness.Targets(targetIDs, relay, dir)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "certpost.yaml")
	text := fmt.Sprintf("nats: {url: %q, replicas: 3}\nhttp: {listen: \"127.0.0.1:0\"}\nlog: {format: json}\ndelivery: {concurrency: %d}\n%s", strings.Join(c.urls, ","), o.concurrency, targets)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	for i := range o.certposts {
		name := fmt.Sprintf("certpost%d", i+1)
		c.certposts = append(c.certposts, &harness.Process{Name: name, Log: filepath.Join(dir, name+".log"), Command: func() *exec.Cmd {
			cmd := exec.Command(o.program, "run", "-c", config)
			cmd.Dir = dir
			return cmd
		}})
	}
	return c, nil
}

// start starts everything and waits until the streams have leaders.
func (c *cluster) start(ctx context.Context) error {
	for _, m := range c.servers {
		if err := m.Start(); err != nil {
			return err
		}
	}
	for _, m := range c.certposts {
		if err := m.Start(); err != nil {
			return err
		}
	}
	var err error
	if c.observer, err = broker.Open(broker.Config{URL: strings.Join(c.urls, ",")}, zerolog.Nop()); err != nil {
		return err
	}
	return c.led(ctx)
}

// end ends everything that runs.
func (c *cluster) end() {
	if c.observer != nil {
		c.observer.Close()
	}
	for _, m := range append(c.certposts, c.servers...) {
		_ = m.End(syscall.SIGKILL)
	}
}

// allLed reports whether every stream and consumer that a mail needs answers.
func (c *cluster) allLed(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	js := c.observer.JetStream()
	for _, name := range []string{broker.EventsStream, broker.DeliveriesStream, "KV_" + broker.LedgerBucket} {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return false
		}
		if info := stream.CachedInfo().Cluster; info != nil && name == "KV_"+broker.LedgerBucket {
			c.ledBy.Store(&info.Leader)
		}
	}
	if _, err := js.Consumer(ctx, broker.EventsStream, broker.FanoutConsumer); err != nil {
		return false
	}
	stream, err := js.Stream(ctx, broker.DeliveriesStream)
	if err != nil {
		return false
	}
	lister := stream.ListConsumers(ctx)
	lanes := 0
	for range lister.Info() {
		lanes++
	}
	return lanes > 0 && (lister.Err() == nil || errors.Is(lister.Err(), jetstream.ErrEndOfData))
}

// led waits until everything has a leader.
func (c *cluster) led(ctx context.Context) error {
	for end := time.Now().Add(2 * time.Minute); !c.allLed(ctx); backoff.Sleep(ctx, look) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return errors.New("a stream or a consumer has had no leader for two minutes")
		}
	}
	return nil
}

// leader returns the server that leads the ledger.
func (c *cluster) leader(ctx context.Context) (*harness.Process, error) {
	if err := c.led(ctx); err != nil {
		return nil, err
	}
	name := c.ledBy.Load()
	for _, m := range c.servers {
		if name != nil && m.Name == *name {
			return m, nil
		}
	}
	return nil, errors.New("the server that leads the ledger is not known")
}

// settle waits until everything is settled, reads the outcome, and stops the Certposts with
// SIGTERM.
func (c *cluster) settle(ctx context.Context) (harness.Outcome, error) {
	found, err := harness.Settle(ctx, c.observer, 5*time.Minute)
	if err != nil {
		return found, err
	}
	for _, m := range c.certposts {
		err = errors.Join(err, m.End(syscall.SIGTERM))
	}
	return found, err
}
