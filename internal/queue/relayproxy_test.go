package queue

import (
	"io"
	"net"
	"sync"
	"testing"
)

// relayProxy listens in front of a relay and forwards connections to it only when open.
type relayProxy struct {
	net.Listener
	to string

	mu       sync.Mutex
	open     bool
	conns    []net.Conn
	accepted int
	now      int // connections that are open
	most     int // of them at a time
}

// newRelayProxy returns a proxy that is not open: it closes each connection at once.
func newRelayProxy(t *testing.T, to string) *relayProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &relayProxy{Listener: l, to: to}
	t.Cleanup(func() {
		_ = l.Close()
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, c := range d.conns {
			_ = c.Close()
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.handle(c)
		}
	}()
	return d
}

func (d *relayProxy) handle(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.accepted++
	d.conns = append(d.conns, c)
	if !d.open {
		_ = c.Close()
		return
	}
	behind, err := net.Dial("tcp", d.to)
	if err != nil {
		_ = c.Close()
		return
	}
	d.conns = append(d.conns, behind)
	d.now++
	d.most = max(d.most, d.now)
	go func() {
		_, _ = io.Copy(behind, c)
		d.mu.Lock()
		d.now--
		d.mu.Unlock()
		_ = behind.Close()
	}()
	go func() { _, _ = io.Copy(c, behind); _ = c.Close() }()
}

func (d *relayProxy) enable() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = true
}

func (d *relayProxy) connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.accepted
}

// atOnce returns how many connections were open at a time.
func (d *relayProxy) atOnce() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.most
}
