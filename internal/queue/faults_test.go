package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// invariant checks that every event was accepted or became a dead letter (nothing is
// pending), and that there are no more duplicate mails than unknown outcomes.
func (b *fixture) invariant(ids []string, target string) {
	b.t.Helper()
	dead, sure := map[string]bool{}, map[string]bool{}
	for _, l := range b.letters() {
		dead[l.Event], sure[l.Event] = true, l.Certainty == verdict.NotSent
	}
	doubled, possible := 0, 0
	for _, id := range ids {
		mails := len(b.fake.mails(id))
		if mails == 0 && !dead[id] {
			b.t.Errorf("event %s is lost: %+v", id, b.entry(target, id))
		}
		if mails > 0 && sure[id] {
			b.t.Errorf("event %s was delivered, and its dead letter says that it was not", id)
		}
		doubled += max(0, mails-1)
	}
	entries, err := b.broker.Deliveries(context.Background(), target, "")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		possible += e.PossibleDuplicates
	}
	if doubled > possible {
		b.t.Errorf("%d mails too many, but only %d outcomes were unknown", doubled, possible)
	}
	b.t.Logf("%d events, %d dead, %d mails too many, %d outcomes unknown", len(ids), len(dead), doubled, possible)
}

// Fault: leaders killed. Result: the ledger prevents a second mail.
func TestLeadersKilledUnderLoad(t *testing.T) {
	t.Parallel()
	c := lab.NewNATSCluster(t)
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{URL: strings.Join(c.URLs, ","), Replicas: 3}}
	b.cfg.AckWait = 3 * time.Second
	b.start()
	second := &fixture{t: t, fake: b.fake, set: b.set, cfg: b.cfg}
	second.start()
	var ids []string
	for i := range 300 {
		id := fmt.Sprintf("e%d", i)
		ids = append(ids, id)
		b.publishPatiently(id, "ops")
		if i%100 == 50 {
			stream := []string{broker.DeliveriesStream, "KV_" + broker.LedgerBucket, broker.EventsStream}[i/100]
			down := c.KillLeader(b.broker.JetStream(), stream)
			ids = append(ids, stream)
			b.publishPatiently(stream, "ops")
			b.until("a mail without that server", func() bool { return len(b.fake.mails(stream)) > 0 })
			c.Start(down)
			b.until("the server has caught up", func() bool { return b.inSync(stream) })
		}
	}
	b.settled()
	b.invariant(ids, "ops")
}

// inSync reports whether a stream has its leader and all of its replicas.
func (b *fixture) inSync(stream string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s, err := b.broker.JetStream().Stream(ctx, stream)
	if err != nil {
		return false
	}
	cluster := s.CachedInfo().Cluster
	return cluster.Leader != "" && len(cluster.Replicas) == 2 &&
		!slices.ContainsFunc(cluster.Replicas, func(p *jetstream.PeerInfo) bool { return p.Offline || !p.Current })
}

// publishPatiently publishes an event until it is acknowledged, as a careful publisher
// does.
func (b *fixture) publishPatiently(id string, targets ...string) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, _, err := b.broker.Publish(ctx, event(id, targets...))
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("event %s cannot be published: %v", id, err)
		}
	}
}

// link is a TCP forwarder that can be interrupted: its connections hang, as behind a
// failed router, or are reset.
type link struct {
	addr string

	mu       sync.Mutex
	restored chan struct{} // closed when data may pass; never nil
	conns    map[net.Conn]bool
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &link{addr: l.Addr().String(), restored: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(c.restored)
	t.Cleanup(func() { l.Close(); c.reset() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			c.mu.Lock()
			c.conns[in], c.conns[out] = true, true
			c.mu.Unlock()
			go c.forward(in, out)
			go c.forward(out, in)
		}
	}()
	return c
}

func (c *link) forward(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		c.mu.Lock()
		in := c.restored
		c.mu.Unlock()
		<-in
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// block forwards nothing for a while; the connections stay open.
func (c *link) block(d time.Duration) {
	restore := c.blockUntilRestored()
	time.Sleep(d)
	restore()
}

// blockUntilRestored forwards nothing until restore is called.
func (c *link) blockUntilRestored() (restore func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := make(chan struct{})
	c.restored = in
	return func() { close(in) }
}

// reset ends all connections.
func (c *link) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		conn.Close()
		delete(c.conns, conn)
	}
}

// Fault: network cut. Result: reconnects; the ledger prevents a second mail.
func TestPartitionFromNATS(t *testing.T) {
	t.Parallel()
	srv := lab.NATS(t, lab.FreeAddress(t), "")
	wire := newLink(t, srv.Addr().String())
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{URL: "nats://" + wire.addr, AckWait: 2 * time.Second}}
	b.start()
	direct := &fixture{t: t, cfg: broker.Config{URL: "nats://" + srv.Addr().String()}}
	direct.open()
	defer direct.broker.Close()
	direct.fake = b.fake
	var ids []string
	for i := range 200 {
		id := fmt.Sprintf("e%d", i)
		ids = append(ids, id)
		direct.publishPatiently(id, "ops")
		switch i {
		case 40:
			wire.block(b.cfg.AckWait / 2)
		case 80:
			wire.reset()
		case 120: // that the wait is over is to be seen nowhere: the consumer can tell nobody
			wire.block(2 * b.cfg.AckWait)
		}
	}
	b.settled()
	b.invariant(ids, "ops")
}

// Two to four faults per round, chosen by a seed that is printed; the same seed chooses
// the same faults. CERTPOST_FAULT_SEED repeats a seed, CERTPOST_FAULT_ROUNDS is the number of
// rounds. For a long run with real processes and relays there is bench/soak.
//
// Fault: a panic while a message is handled. Result: contained and counted.
// Fault: accepts the mail, then drops the connection or hangs before its reply. Result:
// unknown.
// Fault: connections reset. Result: the ledger prevents a second mail.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	rounds, seed := uint64(5), rand.Uint64()
	for name, number := range map[string]*uint64{"CERTPOST_FAULT_ROUNDS": &rounds, "CERTPOST_FAULT_SEED": &seed} {
		if text := os.Getenv(name); text != "" {
			var err error
			if *number, err = strconv.ParseUint(text, 10, 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := uint64(0); n < rounds && !t.Failed(); n++ {
		randomFaults(t, seed+n)
	}
}

func randomFaults(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("CERTPOST_FAULT_SEED=%d", seed)
	srv := lab.NATS(t, lab.FreeAddress(t), "")
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	wire := newLink(t, srv.Addr().String())
	defer wire.reset()
	b := &fixture{t: t, fake: newFakeCourier("ops"), set: quick(), cfg: broker.Config{URL: "nats://" + wire.addr, AckWait: 2 * time.Second}}
	b.set.Grace = 200 * time.Millisecond
	b.open()
	b.run()
	defer func() { b.close() }()
	direct := &fixture{t: t, fake: b.fake, cfg: broker.Config{URL: "nats://" + srv.Addr().String()}}
	direct.open()
	defer direct.broker.Close()

	// Faults of the relay, at random in each attempt.
	var mu sync.Mutex // guards relayFaults and relayChance
	relayFaults := map[string]int{}
	relayChance := rand.New(rand.NewPCG(seed, 1))
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		mu.Lock()
		defer mu.Unlock()
		switch n := relayChance.IntN(100); {
		case n < relayFaults["transient"]:
			return nil, fail(verdict.SMTPTransient, verdict.PhaseRcpt)
		case n < relayFaults["transient"]+relayFaults["lost reply"]:
			f := fail(verdict.SMTPTransient, verdict.PhaseContent)
			f.Certainty = verdict.MaybeSent
			return lostReply, f
		case n < relayFaults["transient"]+relayFaults["lost reply"]+relayFaults["permanent"]:
			return nil, fail(verdict.SMTPPermanent, verdict.PhaseRcpt)
		case n < relayFaults["transient"]+relayFaults["lost reply"]+relayFaults["permanent"]+relayFaults["panic"]:
			panic(errors.New("a fault of the relay"))
		}
		return nil, nil
	})
	faults := []struct {
		name string
		do   func()
	}{
		{"transient", func() { mu.Lock(); relayFaults["transient"] = 30; mu.Unlock() }},
		{"lost reply", func() { mu.Lock(); relayFaults["lost reply"] = 10; mu.Unlock() }},
		{"permanent", func() { mu.Lock(); relayFaults["permanent"] = 10; mu.Unlock() }},
		{"panic", func() { mu.Lock(); relayFaults["panic"] = 5; mu.Unlock() }},
		{"blocked connections", func() { wire.block(time.Duration(500+random.IntN(3000)) * time.Millisecond) }},
		{"reset connections", wire.reset},
		{"restart of the program", func() { b.stop(); b.run() }},
		{"deleted consumers", func() {
			ctx := context.Background()
			for _, c := range []struct{ stream, name string }{{broker.DeliveriesStream, broker.LaneConsumerPrefix + "relay"}, {broker.EventsStream, broker.FanoutConsumer}} {
				// An error means deleted already or not reachable now; both are fine here.
				_ = direct.broker.JetStream().DeleteConsumer(ctx, c.stream, c.name)
			}
		}},
	}
	random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	chosen := faults[:2+random.IntN(3)]
	var names []string
	var ids []string
	for i := range 60 {
		id := fmt.Sprintf("s%d-%d", seed, i)
		ids = append(ids, id)
		direct.publishPatiently(id, "ops")
		if n := i / 10; i%10 == 5 && n < len(chosen) {
			names = append(names, chosen[n].name)
			chosen[n].do()
		}
	}
	mu.Lock()
	relayFaults["transient"], relayFaults["panic"] = 0, 0
	mu.Unlock()
	t.Logf("faults: %s", strings.Join(names, ", "))
	b.settled()
	b.invariant(ids, "ops")
}
