package lab

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// NATS starts a NATS server with JetStream at an address; config is added to its
// configuration. It ends with the test.
func NATS(t testing.TB, addr, config string) *server.Server {
	t.Helper()
	return RunNATS(t, NATSOptions(t, addr, t.TempDir(), config))
}

// NATSOptions are the options of a NATS server whose store is in a directory.
func NATSOptions(t testing.TB, addr, store, config string) *server.Options {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return natsOptions(t, fmt.Sprintf("host: %s\nport: %s\njetstream { store_dir: %q, max_file_store: 1GB }\n%s", host, port, store, config))
}

func natsOptions(t testing.TB, config string) *server.Options {
	t.Helper()
	opts := &server.Options{}
	if err := opts.ProcessConfigString(config); err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	return opts
}

// RunNATS starts a NATS server and waits until it accepts connections.
func RunNATS(t testing.TB, opts *server.Options) *server.Server {
	t.Helper()
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	return s
}

// NATSCluster is three NATS servers that can keep everything three times.
type NATSCluster struct {
	URLs []string

	t       testing.TB
	configs []string
	servers []*server.Server
}

// NewNATSCluster starts a cluster. Its streams have a leader some seconds later.
func NewNATSCluster(t testing.TB) *NATSCluster {
	t.Helper()
	c := &NATSCluster{t: t}
	var routes, clients []string
	for range 3 {
		routes = append(routes, FreeAddress(t))
		clients = append(clients, FreeAddress(t))
	}
	for i := range 3 {
		host, port, _ := net.SplitHostPort(clients[i])
		c.configs = append(c.configs, fmt.Sprintf("server_name: n%d\nhost: %s\nport: %s\njetstream { store_dir: %q, max_file_store: 1GB, sync_interval: \"2m\" }\n"+
			"cluster { name: lab, listen: %q, routes: [nats-route://%s] }\n", i, host, port, t.TempDir(), routes[i], strings.Join(routes, ", nats-route://")))
		c.URLs = append(c.URLs, "nats://"+clients[i])
		c.servers = append(c.servers, nil)
	}
	for i := range 3 {
		c.Start(i)
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.Stop(i)
		}
	})
	return c
}

// Start starts one of the servers, with the store that it had before.
func (c *NATSCluster) Start(i int) {
	c.t.Helper()
	s, err := server.NewServer(natsOptions(c.t, c.configs[i]))
	if err != nil {
		c.t.Fatal(err)
	}
	s.Start()
	c.servers[i] = s
}

// Stop stops one of the servers.
func (c *NATSCluster) Stop(i int) {
	c.servers[i].Shutdown()
	c.servers[i].WaitForShutdown()
}

// KillLeader stops the server that leads a stream, and returns its number.
func (c *NATSCluster) KillLeader(js jetstream.JetStream, stream string) int {
	c.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		s, err := js.Stream(context.Background(), stream)
		if err != nil || s.CachedInfo().Cluster == nil {
			continue
		}
		for i, srv := range c.servers {
			if srv.Name() == s.CachedInfo().Cluster.Leader {
				c.Stop(i)
				return i
			}
		}
	}
	c.t.Fatalf("stream %s has no leader", stream)
	return -1
}
