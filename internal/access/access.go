// Package access decides who may do what on the dashboard.
//
// An Access owns the routes: Handle is the only way to add a page, and requires the
// role that the page needs. Before a handler is called, Access has checked that the
// request names this host, that a request that changes something was sent by a page
// of the dashboard, that the user is signed in where that is required, and that the
// user's role is high enough. The handler gets the user as an argument, together with
// the token that every form must carry.
//
// Users sign in with a name and a password (Argon2id) or at an OpenID Connect
// provider. Sessions are kept in memory, limited in number and time. On loopback
// sign-in is optional: without it every request acts as the local administrator. The
// other checks stay, because a page in any browser can reach loopback too.
package access

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/apiproblem"
)

// Config configures an Access. On loopback every field is optional.
type Config struct {
	// Listen is the address of the listener, host:port.
	Listen string
	// TLS says that the listener speaks TLS.
	TLS bool
	// URL is the address of the dashboard for users: scheme and host. Requests may name
	// its host besides those of loopback, and the provider redirects to it.
	URL *url.URL
	// Accounts sign in with a password.
	Accounts []Account
	// Provider is the OpenID Connect provider; nil for none.
	Provider *Provider
	// Idle is how long a session lasts without use, by default an hour. Max is how long
	// it lasts at most, by default twelve hours.
	Idle, Max time.Duration
	// Local is the user's name where there is no sign-in; "local" by default.
	Local string
	// Proxies are trusted to name the client (X-Forwarded-For).
	Proxies []netip.Prefix
	// ProbeToken returns the token with which a monitoring system reads health and
	// metrics (Authorization: Bearer); nil for none. It is called for every such request.
	ProbeToken func(context.Context) (string, error)
	// Record gets each sign-in, sign-out and refusal before the response is written;
	// nil records nothing. It must not block for long.
	Record func(context.Context, Event)
	// Pages render the sign-in page and refusals.
	Pages Pages
	Log   zerolog.Logger
}

// Access checks requests and passes them to their handlers. All handlers must be
// registered before the first request.
type Access struct {
	cfg      Config
	secure   bool // browsers use TLS, to this listener or to a proxy
	exposed  bool // other machines can reach the dashboard
	pages    Pages
	provider *provider // nil for none
	people   atomic.Pointer[people]

	mux         *http.ServeMux
	routes      []Route
	bodies      map[string]int64 // limits of bodies by pattern; maxBody for others
	secret      [32]byte         // of this process: key of form tokens and sealed cookies
	crossOrigin *http.CrossOriginProtection
	sessions    *sessions
	throttle    *throttle
	keeper      *keeper
}

// people are the accounts and roles that may sign in, as configured now.
type people struct {
	accounts []Account
	roles    Roles // of users of the provider
}

// New makes an Access that has only the sign-in routes. It returns an error for a
// dashboard that other machines can reach without TLS, an address and sign-in.
func New(cfg Config) (*Access, error) {
	signIn := len(cfg.Accounts) > 0 || cfg.Provider != nil
	exposed := !IsLoopback(cfg.Listen) || cfg.URL != nil && !isLoopbackName(hostname(cfg.URL.Host))
	switch {
	case !IsLoopback(cfg.Listen) && !cfg.TLS:
		return nil, errors.New("the dashboard listens beyond loopback: TLS is required")
	case !IsLoopback(cfg.Listen) && cfg.URL == nil:
		return nil, errors.New("the dashboard listens beyond loopback: its address (url) is required")
	case exposed && !signIn:
		return nil, errors.New("the dashboard can be reached from other machines: sign-in is required")
	case cfg.Provider != nil && cfg.URL == nil:
		return nil, errors.New("sign-in at a provider requires the dashboard's address (url), for the redirect URI")
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
		mux:    http.NewServeMux(), bodies: map[string]int64{}, crossOrigin: http.NewCrossOriginProtection(),
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
		// For a proxy that sends another Host header.
		if err := a.crossOrigin.AddTrustedOrigin(originOf(cfg.URL)); err != nil {
			return nil, err
		}
	}
	if signIn {
		a.handleSignIn()
	}
	return a, nil
}

// SignsIn says whether sign-in is configured. Without it there are no sessions.
func (a *Access) SignsIn() bool { return len(a.cfg.Accounts) > 0 || a.provider != nil }

// Renew replaces the accounts and roles. It ends the sessions of accounts that were
// removed or have another password or role now, and of provider users whose claim
// gives another role now, and returns their number. It cannot switch sign-in on or off.
func (a *Access) Renew(accounts []Account, roles Roles) (ended int) {
	a.people.Store(&people{slices.Clone(accounts), roles})
	return a.sessions.finishUnless(a.stillGood)
}

// stillGood says whether a new sign-in would give the user the same session.
func (a *Access) stillGood(s *session) bool {
	now := a.people.Load()
	if s.values != nil {
		return now.roles.of(s.values) == s.user.Role
	}
	return slices.ContainsFunc(now.accounts, func(have Account) bool {
		return have.Name == s.user.Name && have.Role == s.user.Role && have.Hash.equal(s.hash)
	})
}

// ServeHTTP handles a request.
func (a *Access) ServeHTTP(to http.ResponseWriter, r *http.Request) {
	w := &begun{ResponseWriter: to}
	defer a.contain(w, r)
	a.setHeaders(w.Header())
	if as := path.Clean("/" + r.URL.Path); as != r.URL.Path && forPrograms(as) {
		// The mux would redirect to it with a page, and most clients do not send a body there.
		w.Header().Set("Connection", "close") // the body is not read
		apiproblem.Write(w, http.StatusNotFound, "the path is misspelt: write it without doubled or trailing slashes and without dots; events are posted to /v1/events")
		return
	}
	handler, pattern := a.mux.Handler(r)
	limit := cmp.Or(a.bodies[pattern], maxBody)
	if r.ContentLength > limit || len(r.TransferEncoding) > 0 {
		// A body that is too large is not read, whoever refuses the request: else the answer would wait for it. And
		// after a body in chunks the connection must end if the request also gave a length (RFC 9112, section 6.1),
		// which net/http does not tell.
		w.Header().Set("Connection", "close")
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	if pattern != "" {
		a.mux.ServeHTTP(w, r)
		return
	}
	// The mux would write its own 404 or 405 page: take only its status and Allow.
	said := &verdict{header: make(http.Header)}
	handler.ServeHTTP(said, r)
	if allow := said.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
	}
	switch {
	case forPrograms(r.URL.Path) && said.status == http.StatusMethodNotAllowed:
		apiproblem.Write(w, said.status, "this address does not accept this method; the header Allow has those that it accepts")
	case forPrograms(r.URL.Path):
		apiproblem.Write(w, http.StatusNotFound, "there is no such address; events are posted to /v1/events, if http.ingest is enabled")
	case !a.answers(r.Host):
		a.refuseHost(w, r)
	case said.status == http.StatusMethodNotAllowed:
		a.pages.Refused(w, r, said.status, "Method not allowed", "This address does not accept the method "+r.Method+".")
	default:
		a.pages.Refused(w, r, http.StatusNotFound, "Page not found", "The address is wrong, or what it showed no longer exists.")
	}
}

// forPrograms reports whether a path is one of HandleAPI, or could be: its errors are for programs.
func forPrograms(address string) bool {
	return address == "/v1" || strings.HasPrefix(address, apiPrefix)
}

// apiPrefix is what the addresses of HandleAPI begin with.
const apiPrefix = "/v1/"

// verdict is a ResponseWriter that keeps the status and discards the rest.
type verdict struct {
	header http.Header
	status int
}

func (v *verdict) Header() http.Header         { return v.header }
func (v *verdict) WriteHeader(status int)      { v.status = status }
func (v *verdict) Write(b []byte) (int, error) { return len(b), nil }

// maxBody is the size of the largest form, in bytes. There are no uploads.
const maxBody = 256 << 10

// policy is the Content-Security-Policy: resources only from this origin, nothing
// inline, no framing in either direction.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// Frames changes the policy of a page that has a frame with another page of this origin.
func Frames(h http.Header) {
	h.Set("Content-Security-Policy", policy+"; frame-src 'self'")
}

// Framed changes the policy of a document for a frame on a page of this origin. The document
// is somebody else's: it runs no script, loads nothing, sends nothing, and has an origin of
// its own, also when it is opened by itself.
func Framed(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'self'; base-uri 'none'; sandbox")
	h.Set("X-Frame-Options", "SAMEORIGIN")
}

// setHeaders sets the headers of every response. A handler of files whose names are
// hashes of their content replaces Cache-Control.
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
	// On localhost it would also apply to other servers there.
	if a.secure && a.cfg.URL != nil && !isLoopbackName(hostname(a.cfg.URL.Host)) {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}
