package main

import (
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/certpost/certpost/internal/access"
)

// connectionsOfOne is how many connections one party (access.Party) may have. A browser
// has at most six, but a whole office may share one address.
const connectionsOfOne = 256

// fairListener closes a party's oldest connection when the party has too many. Each one
// costs memory and a file descriptor of the process that delivers certificates, and any
// client that reaches the port can open connections and stay silent. The newest is
// accepted, because a health probe may come from the same address. Connections from
// loopback and from the configured proxies serve many parties, and are not counted.
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
		_ = oldest.Close() // its handler gets a read or write error
	}
	return fresh, nil
}

// party is the party that a connection counts for; false if it is not counted.
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

// enter adds a connection, and returns the party's oldest if it has too many, else nil.
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

// countedConn removes itself from the listener's count when it is closed.
type countedConn struct {
	net.Conn
	of    *fairListener
	party netip.Prefix
}

func (c *countedConn) Close() error {
	c.of.leave(c)
	return c.Conn.Close()
}
