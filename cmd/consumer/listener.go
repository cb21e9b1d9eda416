package main

import (
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/certpost/certpost/internal/access"
)

// connectionsOfOne is how many connections one party (access.Party) may have. A browser
// has six at most; behind one address there may be a whole office.
const connectionsOfOne = 256

// fairListener closes a party's oldest connection where it has too many. Each one costs
// memory and a file descriptor of the process that delivers certificates, and whoever
// reaches the port can open one and say nothing. The newest is let in, because behind
// the same address there may be who looks whether the process is alive. This machine and
// the proxies in front of it are many parties in one, and are not counted.
type fairListener struct {
	net.Listener
	most    int
	trusted []netip.Prefix

	mu   sync.Mutex
	open map[netip.Prefix][]*countedConn // the oldest first; guarded by mu
}

func newFairListener(l net.Listener, most int, trusted []netip.Prefix) *fairListener {
	return &fairListener{Listener: l, most: most, trusted: trusted, open: map[netip.Prefix][]*countedConn{}}
}

func (l *fairListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	party, counted := l.party(c.RemoteAddr())
	if !counted {
		return c, nil
	}
	fresh := &countedConn{Conn: c, of: l, party: party}
	if oldest := l.enter(fresh); oldest != nil {
		_ = oldest.Close() // whoever serves it sees that it has ended
	}
	return fresh, nil
}

// party is whom a connection counts for; false when it is not counted.
func (l *fairListener) party(remote net.Addr) (netip.Prefix, bool) {
	to, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return netip.Prefix{}, false
	}
	address := to.Addr().Unmap().WithZone("")
	if address.IsLoopback() || slices.ContainsFunc(l.trusted, func(p netip.Prefix) bool { return p.Contains(address) }) {
		return netip.Prefix{}, false
	}
	return access.Party(address), true
}

// enter returns the connection that is one too many, nil when none is.
func (l *fairListener) enter(c *countedConn) *countedConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c.party] = append(l.open[c.party], c)
	if all := l.open[c.party]; len(all) > l.most {
		return all[0]
	}
	return nil
}

func (l *fairListener) leave(c *countedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := slices.DeleteFunc(l.open[c.party], func(have *countedConn) bool { return have == c })
	if len(left) == 0 {
		delete(l.open, c.party)
	} else {
		l.open[c.party] = left
	}
}

// countedConn makes room for another one when it is closed.
type countedConn struct {
	net.Conn
	of    *fairListener
	party netip.Prefix
}

func (c *countedConn) Close() error {
	c.of.leave(c)
	return c.Conn.Close()
}
