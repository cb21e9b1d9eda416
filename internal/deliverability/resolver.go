package deliverability

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// resolver remembers what a net.Resolver said: targets share senders and relays. After a question
// that no server answered in time it asks no more. It is safe for concurrent use.
type resolver struct {
	servers []*net.Resolver // are asked in this order, the next if one gives no answer
	timeout time.Duration   // of one question to one server

	mu    sync.Mutex
	known map[string]func() (any, error) // by kind and name
	away  error
}

func newResolver(addresses []string, timeout time.Duration) *resolver {
	r := &resolver{known: map[string]func() (any, error){}, timeout: timeout, servers: []*net.Resolver{{PreferGo: true}}}
	for i, address := range addresses {
		server := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}}
		r.servers = append(r.servers[:i], server)
	}
	return r
}

func look[T any](ctx context.Context, r *resolver, kind, name string, ask func(*net.Resolver, context.Context, string) (T, error)) (answer T, err error) {
	r.mu.Lock()
	once := r.known[kind+" "+name]
	if once == nil {
		once = sync.OnceValues(func() (any, error) {
			r.mu.Lock()
			away := r.away
			r.mu.Unlock()
			if away != nil {
				return answer, away
			}
			var got T
			var err error
			for _, server := range r.servers {
				within, cancel := context.WithTimeout(ctx, r.timeout)
				got, err = ask(server, within, name)
				cancel()
				if err == nil || absent(err) {
					break
				}
			}
			if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.IsTimeout {
				r.mu.Lock()
				r.away = err
				r.mu.Unlock()
			}
			return got, err
		})
		r.known[kind+" "+name] = once
	}
	r.mu.Unlock()
	got, err := once()
	answer, _ = got.(T)
	return answer, err
}

// LookupTXT, and the others, are those of net.Resolver.
func (r *resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	return look(ctx, r, "TXT", name, (*net.Resolver).LookupTXT)
}

func (r *resolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	return look(ctx, r, "MX", name, (*net.Resolver).LookupMX)
}

func (r *resolver) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	return look(ctx, r, "A", host, (*net.Resolver).LookupIPAddr)
}

func (r *resolver) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	return look(ctx, r, "PTR", addr, (*net.Resolver).LookupAddr)
}
