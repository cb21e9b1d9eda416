package dane

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
)

// Resolver asks for TLSA records. It is safe for concurrent use.
type Resolver struct {
	// Servers are asked in this order, the next if one does not answer. nil means those in
	// /etc/resolv.conf at that moment, see System.
	Servers []Server
	// Timeout is for one question to one server; zero means 5 s.
	Timeout time.Duration
	// Dial connects to a server; nil means net.Dialer. Servers of zones are at port 53.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Server is a recursive name server.
type Server struct {
	Address string // host:port
	// Trusted says that the server checks DNSSEC and that nothing on the way to it could change
	// its answers, so that its AD bit (RFC 4035, section 3.2.3) counts.
	Trusted bool
}

const (
	defaultTimeout = 5 * time.Second
	// longestLookup is the longest time that TLSA takes for one name.
	longestLookup = 30 * time.Second
	maxAliases    = 8
)

// System returns the servers in a file in the form of /etc/resolv.conf. A server is trusted if it
// runs on this host, or if the file has `options trust-ad`, as with glibc. Without a server in
// the file it is the one on this host.
func System(path string) []Server {
	var servers []Server
	trusted := false
	if file, err := os.Open(path); err == nil {
		defer file.Close()
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			words := strings.Fields(lines.Text())
			switch {
			case len(words) >= 2 && words[0] == "nameserver":
				if addr, err := netip.ParseAddr(words[1]); err == nil {
					servers = append(servers, Server{Address: net.JoinHostPort(addr.String(), "53"), Trusted: addr.IsLoopback()})
				}
			case len(words) >= 2 && words[0] == "options":
				trusted = trusted || slices.Contains(words[1:], "trust-ad")
			}
		}
	}
	for i := range servers {
		servers[i].Trusted = servers[i].Trusted || trusted
	}
	if servers == nil {
		servers = []Server{{Address: "127.0.0.1:53", Trusted: true}}
	}
	return servers
}

// Answer is what is known of the TLSA records of one mail server.
type Answer struct {
	// Sets are the records that others may see now: one set if DNSSEC has proved it, else that of each
	// server of the zone. Without sets there are no records, or none that count.
	Sets [][]Record
	// TTL is the time for which others may keep the records.
	TTL time.Duration
	// Source says who answered.
	Source string
	// Unsigned says that there are records, but no signatures: mail servers ignore them.
	Unsigned bool
}

// TLSA returns the records of a mail server. An answer without records needs no proof, because a
// host without DANE must not depend on DNSSEC. Records are believed if a trusted server has validated
// them; if not, all servers of the zone are asked.
func (r *Resolver) TLSA(ctx context.Context, server string) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, longestLookup)
	defer cancel()
	owner := strings.ToLower(Owner(server))
	reply, from, err := r.ask(ctx, owner, typeTLSA)
	if err != nil {
		return Answer{}, err
	}
	records, ttl, signed, _ := reply.tlsa(owner)
	if !signed { // what a cache has left of it
		ttl = max(ttl, time.Hour)
	}
	switch {
	case len(records) == 0:
		return Answer{Source: from.Address}, nil
	case from.Trusted && reply.authentic:
		return Answer{Sets: [][]Record{records}, TTL: ttl, Source: from.Address + ", with DNSSEC"}, nil
	}
	answer, err := r.authoritative(ctx, owner)
	if err != nil {
		return Answer{}, fmt.Errorf("%s has TLSA records, but %s did not validate them, and the servers of the zone could not all be asked: %w; use a resolver that validates DNSSEC (dns.servers)", owner, from.Address, err)
	}
	return answer, nil
}

// ask asks the recursive servers.
func (r *Resolver) ask(ctx context.Context, name string, kind rrType) (*reply, Server, error) {
	var problems []string
	servers := r.Servers
	if servers == nil {
		servers = System("/etc/resolv.conf")
	}
	for _, s := range servers {
		got, err := r.exchange(ctx, s.Address, name, kind, true)
		if err == nil {
			err = got.problem()
		}
		if err == nil {
			return got, s, nil
		}
		problems = append(problems, s.Address+": "+explain(err))
	}
	return nil, Server{}, fmt.Errorf("%s %s: %s", name, kind, cmp.Or(strings.Join(problems, "; "), "there is no name server to ask"))
}

// authoritative asks all servers of the zone that has the records of a name, following aliases
// into other zones.
func (r *Resolver) authoritative(ctx context.Context, owner string) (Answer, error) {
	name := owner
	for range maxAliases {
		servers, err := r.serversOf(ctx, name)
		if err != nil {
			return Answer{}, err
		}
		a := Answer{Unsigned: true}
		alias := ""
		for _, s := range servers {
			got, err := r.askServer(ctx, s, name)
			if err != nil {
				return Answer{}, err
			}
			records, ttl, signed, last := got.tlsa(name)
			a.Sets, a.TTL, a.Unsigned = append(a.Sets, records), max(a.TTL, ttl), a.Unsigned && !signed
			if len(records) == 0 && last != name {
				alias = last
			}
		}
		if alias != "" {
			name = alias
			continue
		}
		if a.Source = "the servers of the zone: " + names(servers); a.Unsigned {
			a.Sets = nil
		}
		return a, nil
	}
	return Answer{}, fmt.Errorf("%s has too many aliases", owner)
}

// zoneServer is a name server of a zone.
type zoneServer struct {
	name      string
	addresses []string // host:port
}

func names(servers []zoneServer) string {
	var all []string
	for _, s := range servers {
		all = append(all, s.name)
	}
	return strings.Join(all, ", ")
}

// serversOf returns the servers of the zone that has a name.
func (r *Resolver) serversOf(ctx context.Context, name string) ([]zoneServer, error) {
	for zone := name; zone != ""; _, zone, _ = strings.Cut(zone, ".") {
		got, _, err := r.ask(ctx, zone, typeNS)
		if err != nil {
			return nil, err
		}
		var hosts []string
		for _, one := range got.records { // not behind aliases: a zone has none at its top
			if one.owner == zone && one.kind == typeNS {
				hosts = append(hosts, one.value)
			}
		}
		if len(hosts) == 0 {
			continue
		}
		slices.Sort(hosts)
		var servers []zoneServer
		for _, host := range slices.Compact(hosts) {
			s := zoneServer{name: host}
			for _, kind := range []rrType{typeA, typeAAAA} {
				got, _, err := r.ask(ctx, host, kind)
				if err != nil {
					return nil, err
				}
				for _, address := range got.values(host, kind) {
					s.addresses = append(s.addresses, net.JoinHostPort(address, "53"))
				}
			}
			servers = append(servers, s)
		}
		return servers, nil
	}
	return nil, fmt.Errorf("no name servers were found for %s", name)
}

// askServer asks a server of a zone at the first of its addresses that answers: a host may lack IPv6.
func (r *Resolver) askServer(ctx context.Context, s zoneServer, name string) (*reply, error) {
	err := errors.New("it has no address")
	for _, address := range s.addresses {
		var got *reply
		if got, err = r.exchange(ctx, address, name, typeTLSA, false); err == nil {
			err = got.problem()
		}
		if err == nil && !got.authoritative {
			err = errors.New("it is not authoritative for the zone")
		}
		if err == nil {
			return got, nil
		}
	}
	return nil, fmt.Errorf("%s: %s", s.name, explain(err))
}

// explain returns an error of the network in few words.
func explain(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, io.EOF):
		return "the connection was closed"
	case errors.As(err, &op):
		err = op.Err
	}
	return legible.Clean(err.Error(), 200)
}
