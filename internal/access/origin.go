package access

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// answers says whether a Host header names this dashboard. Without this check a page
// whose owner points its name at 127.0.0.1 after it is loaded (DNS rebinding) would have
// the dashboard's origin, and could do whatever the user can.
func (a *Access) answers(host string) bool {
	name := hostname(host)
	return isLoopbackName(name) || a.cfg.URL != nil && name == hostname(a.cfg.URL.Host)
}

// hostname is the host without its port, in lower case and without a trailing dot.
func hostname(host string) string {
	u := url.URL{Host: host}
	return strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
}

// NamesLoopback says whether a Host header names the loopback of this machine.
func NamesLoopback(host string) bool { return isLoopbackName(hostname(host)) }

func isLoopbackName(name string) bool {
	return name == "localhost" || name == "127.0.0.1" || name == "::1"
}

// IsLoopback says whether only this machine can reach a listen address, host:port. A
// name other than localhost may resolve to anything, so it counts as reachable.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// sentFromHere says whether a page of the dashboard sent an unsafe request. Browsers
// since 2023 say so in Sec-Fetch-Site; without it a matching Origin is required. A
// request with neither is refused: an old browser may have sent it for another site.
func (a *Access) sentFromHere(r *http.Request) bool {
	if a.crossOrigin.Check(r) != nil {
		return false
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	origin := r.Header.Get("Origin")
	if u, err := url.Parse(origin); err == nil && u.Host != "" && u.Host == r.Host {
		return true
	}
	return a.cfg.URL != nil && origin == originOf(a.cfg.URL)
}

func originOf(u *url.URL) string { return u.Scheme + "://" + u.Host }

// fromElsewhere says that a page of another site caused the request.
func fromElsewhere(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return site == "cross-site" || site == "same-site"
}

// isNavigation says that the browser shows the response as a page to a person. Without
// Sec-Fetch-Mode a request that accepts HTML counts as one, unless htmx sent it.
func isNavigation(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return r.Header.Get("HX-Request") == "" && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// isStream says that a page sent the request to refresh itself, not a person: its event
// stream, and the parts that htmx fetches on an event. The dashboard uses htmx for
// nothing else.
func isStream(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/event-stream") || r.Header.Get("HX-Request") != ""
}

// isSafe says that a request changes nothing (RFC 9110, section 9.2.1).
func isSafe(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// forwarded are the headers that proxies add.
var forwarded = []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Forwarded", "Via"}

func isForwarded(r *http.Request) bool {
	return slices.ContainsFunc(forwarded, func(name string) bool { return r.Header.Get(name) != "" })
}

// ClientAddress is the address that a request comes from, also through trusted proxies.
func (a *Access) ClientAddress(r *http.Request) string { return a.clientAddress(r) }

// clientAddress is the address that a request comes from. X-Forwarded-For is trusted only
// from configured proxies, and read from the right: the last address that is not a
// proxy's.
func (a *Access) clientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	address = address.Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && a.isProxy(address); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		address = hop.Unmap()
	}
	return address.WithZone("").String()
}

func (a *Access) isProxy(address netip.Addr) bool {
	return slices.ContainsFunc(a.cfg.Proxies, func(p netip.Prefix) bool { return p.Contains(address.WithZone("")) })
}
