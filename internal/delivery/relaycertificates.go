package delivery

import (
	"crypto/x509"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/smtp"
)

// RelayCertificate is the certificate that a relay has shown in its last TLS handshake with this
// process, whether it was accepted or not.
type RelayCertificate struct {
	Relay   string // host:port
	Name    string // of the certificate, quoted
	Expires time.Time
	Seen    time.Time
}

// relayCertificates are the last ones by relay.
type relayCertificates struct {
	mu   sync.Mutex
	last map[string]RelayCertificate
}

func (c *relayCertificates) note(relay string, leaf *x509.Certificate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = make(map[string]RelayCertificate)
	}
	c.last[relay] = RelayCertificate{Relay: relay, Name: payload.ShortName(leaf), Expires: leaf.NotAfter, Seen: time.Now()}
}

// RelayCertificates returns what the relays of the present targets have shown, by relay. A relay
// that was not connected to since the start is not in it.
func (c *Courier) RelayCertificates() []RelayCertificate {
	known := make(map[string]bool)
	for _, relay := range c.book.Current().Relays() {
		known[relay.Relay] = true
	}
	c.shown.mu.Lock()
	defer c.shown.mu.Unlock()
	var all []RelayCertificate
	for relay, one := range c.shown.last {
		if !known[relay] {
			delete(c.shown.last, relay) // its target was removed
			continue
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b RelayCertificate) int { return strings.Compare(a.Relay, b.Relay) })
	return all
}

// notes returns the function that notes what the relay of a target shows.
func (c *Courier) notes(t *Target) func(*x509.Certificate) {
	name := smtp.RelayName(t.Host, t.Port)
	return func(leaf *x509.Certificate) { c.shown.note(name, leaf) }
}
