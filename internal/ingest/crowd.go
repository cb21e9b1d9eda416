package ingest

import (
	"net/netip"
	"sync"
)

const (
	// strangers is how many bodies are read at a time whose signature has not been checked yet: every
	// client can send the header of a signature.
	strangers = 16
	// strangersEach is how many of them one address may send, or one network of IPv6 (/64), so that it
	// takes several to keep the senders of signed requests waiting.
	strangersEach = 4
)

// crowd are the requests whose sender is not known yet. It is safe for concurrent use.
type crowd struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by address
}

// enter takes a place; leave gives it back. nil: there is none.
func (c *crowd) enter(address string) (leave func()) {
	if ip, err := netip.ParseAddr(address); err == nil && ip.Unmap().Is6() {
		if network, err := ip.WithZone("").Prefix(64); err == nil {
			address = network.String()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= strangers || c.of[address] >= strangersEach {
		return nil
	}
	if c.of == nil {
		c.of = map[string]int{}
	}
	c.all++
	c.of[address]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all--
		if c.of[address]--; c.of[address] == 0 {
			delete(c.of, address)
		}
	}
}
