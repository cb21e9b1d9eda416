package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
)

// strangers is a listener whose connections have any remote address.
type strangers struct {
	net.Listener
	from chan string
}

type stranger struct {
	net.Conn
	from   net.Addr
	closed int
}

func (s strangers) Accept() (net.Conn, error) {
	from, more := <-s.from
	if !more {
		return nil, net.ErrClosed
	}
	return &stranger{from: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))}, nil
}

func (s *stranger) RemoteAddr() net.Addr { return s.from }
func (s *stranger) Close() error         { s.closed++; return nil }

// No party can use up the connections of the process: beyond the limit the party's oldest
// is closed, and the newest is accepted.
func TestConnectionsOfOneParty(t *testing.T) {
	t.Parallel()
	source := strangers{from: make(chan string, 100)}
	l := newFairListener(source, 3, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	accept := func(address string) net.Conn {
		t.Helper()
		source.from <- address
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ended := func(c net.Conn) int {
		if counted, is := c.(*countedConn); is {
			c = counted.Conn
		}
		return c.(*stranger).closed
	}
	for form, left := range map[string]int{
		"192.0.2.1:%d": 3, "[::ffff:192.0.2.2]:%d": 3, "[2001:db8::%d]:1": 3, "198.51.100.%d:1": 10, "[2001:db8:0:%d::1]:1": 10, "10.1.2.3:%d": 10, "127.0.0.2:%d": 10,
	} {
		var all []net.Conn
		for i := range 10 {
			all = append(all, accept(fmt.Sprintf(form, i+1)))
		}
		for i, c := range all {
			if want := map[bool]int{true: 1, false: 0}[i < 10-left]; ended(c) != want {
				t.Errorf("%s: connection %d was ended %d times, want %d", form, i+1, ended(c), want)
			}
		}
		// After closing a connection a party may open another.
		_ = all[8].Close()
		accept(fmt.Sprintf(form, 20))
		if ended(all[7])+ended(all[9]) != 0 {
			t.Errorf("%s: one was closed, and another ended", form)
		}
		_ = all[0].Close() // again, by its handler
		for _, c := range all {
			_ = c.Close()
		}
	}
	close(source.from)
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the end: %v", err)
	}
	for party, open := range l.open {
		if len(open) > 1 { // the twentieth
			t.Errorf("%v has %d connections that were closed", party, len(open))
		}
	}
}
