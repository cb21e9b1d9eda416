// Package access decides who may do what on the dashboard.
//
// An Access owns the routes: Handle is the only way to add one, and wants the role
// that it needs. Before a handler is called it is certain that the request was made
// to this host, that one of our own pages sent it if it changes anything, that the
// user has signed in where that is needed, and that his role is high enough. Who it
// is comes as an argument, together with the token that forms have to carry.
//
// People sign in with a name and a password (Argon2id) or at an OpenID Connect
// provider. Sessions are kept in memory, bounded in number and time. On loopback
// sign-in may be left out: then everybody who reaches it is the local administrator,
// and the other checks stay, because any page in a browser can reach loopback too.
package access

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// Config is what an Access needs to know. All of it may be left out on loopback.
type Config struct {
	// Listen is the address of the listener, host:port.
	Listen string
	// TLS says that the listener speaks it.
	TLS bool
	// URL is where people open the dashboard: scheme and host. Its host is answered
	// beside those of loopback, and the provider sends people back to it.
	URL *url.URL
	// Accounts sign in with a password.
	Accounts []Account
	// Provider is where people sign in with OpenID Connect; nil: nowhere.
	Provider *Provider
	// Idle ends a session that nobody uses, Max one that is that old; an hour and
	// twelve by default.
	Idle, Max time.Duration
	// Local is the name of everybody where nobody signs in; "local" by default.
	Local string
	// Proxies are believed when they say whom they ask for (X-Forwarded-For).
	Proxies []netip.Prefix
	// ProbeToken is what a monitoring system shows (Authorization: Bearer) to read
	// health and metrics; nil: there is none. It is asked for at every such request.
	ProbeToken func(context.Context) (string, error)
	// Record is told who signed in and out and what was refused, before the answer
	// goes out; nil: nobody is. It must not block for long.
	Record func(context.Context, Event)
	// Pages are how it looks.
	Pages Pages
	Log   zerolog.Logger
}

// Access lets requests through to the handlers that it was given. All handlers have
// to be registered before the first request.
type Access struct {
	cfg      Config
	secure   bool // browsers come over TLS, ours or a proxy's
	exposed  bool // not only this machine's users come
	pages    Pages
	provider *provider // nil: none
	people   atomic.Pointer[people]

	mux         *http.ServeMux
	routes      []Route
	secret      [32]byte // of this process, under tokens and sealed cookies
	crossOrigin *http.CrossOriginProtection
	sessions    *sessions
	throttle    *throttle
	keeper      *keeper
}

// people are who may sign in, as the configuration is now.
type people struct {
	accounts []Account
	roles    Roles // of the provider's users
}

// New makes an Access without routes but those of signing in. It refuses what nobody
// should run: to be reached from other machines without TLS, an address and sign-in.
func New(cfg Config) (*Access, error) {
	signIn := len(cfg.Accounts) > 0 || cfg.Provider != nil
	exposed := !IsLoopback(cfg.Listen) || cfg.URL != nil && !isLoopbackName(hostname(cfg.URL.Host))
	switch {
	case !IsLoopback(cfg.Listen) && !cfg.TLS:
		return nil, errors.New("the dashboard is to be reached from other machines: that needs TLS")
	case !IsLoopback(cfg.Listen) && cfg.URL == nil:
		return nil, errors.New("the dashboard is to be reached from other machines: that needs its address (url)")
	case exposed && !signIn:
		return nil, errors.New("the dashboard is to be reached from other machines: that needs sign-in")
	case cfg.Provider != nil && cfg.URL == nil:
		return nil, errors.New("the provider needs an address to send people back to (url)")
	}
	if cfg.Idle <= 0 {
		cfg.Idle = time.Hour
	}
	if cfg.Max <= 0 {
		cfg.Max = 12 * time.Hour
	}
	if cfg.Local == "" {
		cfg.Local = "local"
	}
	a := &Access{
		cfg: cfg, exposed: exposed, pages: cfg.Pages.orPlain(),
		secure: cfg.TLS || cfg.URL != nil && cfg.URL.Scheme == "https",
		mux:    http.NewServeMux(), crossOrigin: http.NewCrossOriginProtection(),
		sessions: newSessions(cfg.Idle, cfg.Max), throttle: newThrottle(),
	}
	_, _ = rand.Read(a.secret[:]) // never fails
	a.keeper = newKeeper(a.secret)
	now := &people{accounts: slices.Clone(cfg.Accounts)}
	if cfg.Provider != nil {
		now.roles = cfg.Provider.Roles
		var err error
		if a.provider, err = newProvider(*cfg.Provider, cfg.URL, a.secret); err != nil {
			return nil, err
		}
	}
	a.people.Store(now)
	if cfg.URL != nil {
		// For a proxy that asks us by another name.
		if err := a.crossOrigin.AddTrustedOrigin(originOf(cfg.URL)); err != nil {
			return nil, err
		}
	}
	if signIn {
		a.handleSignIn()
	}
	return a, nil
}

// signIn says whether people sign in at all.
func (a *Access) signIn() bool { return len(a.cfg.Accounts) > 0 || a.provider != nil }

// Renew puts other accounts and roles into force. Sessions of those whose account
// is gone or has another password or role, and of those whom the provider's claim
// gives another role now, end. Whether there is sign-in at all stays as it is.
func (a *Access) Renew(accounts []Account, roles Roles) (ended int) {
	a.people.Store(&people{slices.Clone(accounts), roles})
	return a.sessions.finishUnless(a.stillGood)
}

// stillGood says whether the user would get the same session again.
func (a *Access) stillGood(s *session) bool {
	now := a.people.Load()
	if s.values != nil {
		return now.roles.of(s.values) == s.user.Role
	}
	return slices.ContainsFunc(now.accounts, func(have Account) bool {
		return have.Name == s.user.Name && have.Role == s.user.Role && have.Hash.equal(s.hash)
	})
}

// ServeHTTP answers a request.
func (a *Access) ServeHTTP(to http.ResponseWriter, r *http.Request) {
	w := &begun{ResponseWriter: to}
	defer a.contain(w, r)
	a.setHeaders(w.Header())
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	handler, pattern := a.mux.Handler(r)
	if pattern != "" {
		a.mux.ServeHTTP(w, r)
		return
	}
	// The mux would say 404 or 405 in its own words.
	said := &verdict{header: make(http.Header)}
	handler.ServeHTTP(said, r)
	if allow := said.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
	}
	switch {
	case !a.answers(r.Host):
		a.refuseHost(w, r)
	case said.status == http.StatusMethodNotAllowed:
		a.pages.Refused(w, r, said.status, "That is not done this way", "The address takes other methods than "+r.Method+".")
	default:
		a.pages.Refused(w, r, http.StatusNotFound, "There is no such page", "The address may have been mistyped, or what it showed is gone.")
	}
}

// verdict takes an answer's status and forgets the rest.
type verdict struct {
	header http.Header
	status int
}

func (v *verdict) Header() http.Header         { return v.header }
func (v *verdict) WriteHeader(status int)      { v.status = status }
func (v *verdict) Write(b []byte) (int, error) { return len(b), nil }

// maxBody is the size of the largest form, in bytes. There are no uploads.
const maxBody = 256 << 10

// policy is the Content-Security-Policy: everything from here, nothing inline, no
// frames in either direction.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// setHeaders are those of every answer. A handler of files whose names are hashes of
// their content replaces Cache-Control.
func (a *Access) setHeaders(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), publickey-credentials-get=(), usb=()")
	// On localhost it would hold for whatever else runs there.
	if a.secure && a.cfg.URL != nil && !isLoopbackName(hostname(a.cfg.URL.Host)) {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}
