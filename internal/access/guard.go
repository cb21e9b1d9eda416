package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Handler handles a request that passed all checks. The request's context ends with the
// user's session.
type Handler func(w http.ResponseWriter, r *http.Request, v Visit)

// Visit is the user of a request, and what the page needs for that user.
type Visit struct {
	User User
	// Token goes into the field TokenField of every form on the page.
	Token string
	// SignedIn says that there is a session, which POST /sign-out ends.
	SignedIn bool

	session *session // nil for none
}

// Route is a registered route.
type Route struct {
	Pattern string // as of http.ServeMux: "POST /dead-letters/{number}/replay"
	Needs   Role
	Kind    Kind
}

// Kind is what a route serves.
type Kind string

// The kinds.
const (
	Page  Kind = "page"  // pages, and the forms on them
	Files Kind = "files" // style sheets and the like: the same for everyone
	Probe Kind = "probe" // for monitoring systems
	API   Kind = "api"   // for programs, which prove themselves who they are
)

// Handle registers a route: a method, a path, and the role that it requires. It panics
// where http.ServeMux does, and on a pattern without a method. A GET must change nothing.
func (a *Access) Handle(pattern string, needs Role, handler Handler) {
	a.add(Route{pattern, needs, Page}, func(w http.ResponseWriter, r *http.Request) { a.guard(w, r, needs, handler) })
}

// HandleFiles registers files that anyone may read. The handler replaces Cache-Control
// for files that never change.
func (a *Access) HandleFiles(pattern string, handler http.Handler) {
	a.add(Route{pattern, Anyone, Files}, func(w http.ResponseWriter, r *http.Request) {
		if !a.answers(r.Host) {
			a.refuseHost(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// HandleProbe registers a probe. With Anyone it is always served, under any Host header;
// with Viewer only to requests that Trusts accepts.
func (a *Access) HandleProbe(pattern string, needs Role, handler http.Handler) {
	a.add(Route{pattern, needs, Probe}, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case needs == Anyone || a.Trusts(r):
			handler.ServeHTTP(w, r)
		case a.exposed:
			w.Header().Set("WWW-Authenticate", `Bearer realm="certpost"`)
			plain(w, http.StatusUnauthorized, "sign in, or send http.metrics_token: Authorization: Bearer ...\n")
		default:
			plain(w, http.StatusForbidden, "request it at localhost, without a proxy, or send http.metrics_token: Authorization: Bearer ...\n")
		}
	})
}

// HandleAPI registers an address for programs. It is served under any Host header and without
// a session: the handler itself finds out who sends a request, and must not take cookies for
// it. At most maxBody bytes of a body are received.
func (a *Access) HandleAPI(pattern string, maxBody int64, handler http.Handler) {
	if _, path, _ := strings.Cut(pattern, " "); !strings.HasPrefix(path, apiPrefix) {
		panic("access: " + pattern + " is not below " + apiPrefix)
	}
	a.add(Route{pattern, Anyone, API}, handler.ServeHTTP)
	a.bodies[pattern] = maxBody
}

// Trusts says whether the sender of a probe request may read the names of relays: with a
// session, with the probe token, or, if only loopback can reach the dashboard, with a
// Host header that names this machine and not through a proxy. That excludes pages whose
// own name resolves to this machine (DNS rebinding).
func (a *Access) Trusts(r *http.Request) bool {
	return !a.exposed && a.answers(r.Host) && !isForwarded(r) || a.showsProbeToken(r) || a.SignsIn() && a.identify(r).session != nil
}

// Routes are all routes, in the order in which they were registered.
func (a *Access) Routes() []Route { return slices.Clone(a.routes) }

func (a *Access) add(route Route, handler http.HandlerFunc) {
	if method, _, found := strings.Cut(route.Pattern, " "); !found || method == "" || route.Needs < Anyone || route.Needs > Admin {
		panic("access: " + route.Pattern + " needs a method and a role")
	}
	a.mux.HandleFunc(route.Pattern, handler)
	a.routes = append(a.routes, route)
}

// guard runs all checks of a page.
func (a *Access) guard(w http.ResponseWriter, r *http.Request, needs Role, handler Handler) {
	switch {
	case !a.answers(r.Host):
		a.refuseHost(w, r)
		return
	case isSafe(r) && fromElsewhere(r) && !isNavigation(r):
		// A page of another site embeds this one, or only causes load.
		a.pages.Refused(w, r, http.StatusForbidden, "Cross-site request refused", "A page of another site requested this.")
		return
	case !isSafe(r) && !a.sentFromHere(r):
		a.pages.Refused(w, r, http.StatusForbidden, "Not sent by this dashboard",
			"The request did not come from a page of this dashboard. Nothing was done. Programs use the command line or NATS instead.")
		return
	case !a.SignsIn() && isForwarded(r):
		a.pages.Refused(w, r, http.StatusForbidden, "Sign-in is not set up",
			"A proxy forwarded this request. Behind a proxy the dashboard needs http.url and http.sign_in.")
		return
	}
	who := a.identify(r)
	if !who.known() && isSafe(r) {
		if fromElsewhere(r) && r.URL.Path != callbackPath {
			bounce(w, r, LocalPath(r.URL.RequestURI()))
			return
		}
		who.number = randomText()
		a.setCookie(w, visitorCookie, who.number, http.SameSiteStrictMode, 0)
	}
	if who.user.Role < needs {
		a.turnAway(w, r, who, needs)
		return
	}
	if !isSafe(r) && !a.readForm(w, r, who) {
		return
	}
	ctx := r.Context()
	if who.session != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(who.session.over, cancel)()
	}
	handler(w, r.WithContext(ctx), Visit{User: who.user, Token: a.token(who.number), SignedIn: who.session != nil, session: who.session})
	if who.unuse != nil && w.Header().Get(NotServed) != "" {
		who.unuse()
	}
}

// NotServed is the header of a response that asks the client to come again: a browser
// without scripts does so by itself, so such a request is no use of the session.
const NotServed = "Retry-After"

// caller is what is known about the sender of a request.
type caller struct {
	user    User
	number  string   // in the cookie that form tokens are bound to; "" for none
	session *session // nil for none
	unuse   func()   // takes back that this request was a use of the session; nil if it was none
}

func (c caller) known() bool { return c.number != "" }

// identify finds the caller of a request.
func (a *Access) identify(r *http.Request) caller {
	address := a.clientAddress(r)
	if !a.SignsIn() {
		who := caller{user: User{Name: a.cfg.Local, Subject: "local", Role: Admin, Address: address}}
		if number := a.cookie(r, visitorCookie); isNumber(number) {
			who.number = number
		}
		return who
	}
	if number := a.cookie(r, sessionCookie); number != "" {
		if s := a.sessions.find(number); s != nil {
			who := caller{user: s.user, number: number, session: s}
			if !isStream(r) { // a page that refreshes itself must not keep a session alive
				who.unuse = a.sessions.use(s, address, browserFamily(r.UserAgent()))
			}
			who.user.Address = address
			return who
		}
	}
	who := caller{user: User{Address: address}}
	if number := a.cookie(r, visitorCookie); isNumber(number) {
		who.number = number
	}
	return who
}

// turnAway refuses a request whose role is too low.
func (a *Access) turnAway(w http.ResponseWriter, r *http.Request, who caller, needs Role) {
	if who.session != nil {
		a.record(r.Context(), Event{Kind: Refused, User: who.user, Reason: r.Method + " " + r.URL.EscapedPath()})
		a.pages.Refused(w, r, http.StatusForbidden, "Permission denied",
			"This requires the role "+needs.String()+"; "+who.user.Name+" has the role "+who.user.Role.String()+". Nothing was done.")
		return
	}
	there := signInPath + "?" + url.Values{"return": {LocalPath(r.URL.RequestURI())}}.Encode()
	switch {
	case isSafe(r) && isNavigation(r):
		http.Redirect(w, r, there, http.StatusSeeOther)
	case isSafe(r):
		if r.Header.Get("HX-Request") != "" {
			w.Header().Set("HX-Redirect", signInPath)
		}
		plain(w, http.StatusUnauthorized, "sign in at "+signInPath+"\n")
	default:
		if r.Header.Get("HX-Request") != "" {
			w.Header().Set("HX-Redirect", signInPath)
		}
		a.pages.Refused(w, r, http.StatusUnauthorized, "You are no longer signed in", "Nothing was done. Sign in, then repeat the action.")
	}
}

// readForm parses the form of an unsafe request and checks its token.
func (a *Access) readForm(w http.ResponseWriter, r *http.Request, who caller) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		a.pages.Refused(w, r, http.StatusUnsupportedMediaType, "Not a form", "This address accepts only a form of this dashboard (application/x-www-form-urlencoded).")
		return false
	}
	err = error(&http.MaxBytesError{Limit: maxBody})
	if r.ContentLength <= maxBody { // otherwise nothing is read, and a client that waits for "100 Continue" gets the answer at once
		err = r.ParseForm()
	}
	if err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			w.Header().Set("Connection", "close") // the rest of the form is not read
			a.pages.Refused(w, r, http.StatusRequestEntityTooLarge, "Form too large", "The form is larger than the dashboard accepts. Nothing was done.")
		} else {
			a.pages.Refused(w, r, http.StatusBadRequest, "Invalid form", "The form could not be read. Nothing was done.")
		}
		return false
	}
	if !a.fits(r.PostForm.Get(TokenField), who.number) {
		a.pages.Refused(w, r, http.StatusForbidden, "The page has expired",
			"It belongs to another session, or Certpost was restarted since. Nothing was done. Reload the page, then repeat the action.")
		return false
	}
	return true
}

func (a *Access) refuseHost(w http.ResponseWriter, r *http.Request) {
	a.pages.Refused(w, r, http.StatusMisdirectedRequest, "Unknown host name", "The dashboard does not answer to this host name: open it at localhost, or configure http.url.")
}

// showsProbeToken compares hashes, so that the comparison does not show the length.
func (a *Access) showsProbeToken(r *http.Request) bool {
	kind, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if a.cfg.ProbeToken == nil || !strings.EqualFold(kind, "Bearer") {
		return false
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	token, err := a.cfg.ProbeToken(ctx)
	if err == nil {
		err = CheckProbeToken(token)
	}
	if err != nil {
		a.cfg.Log.Warn().Err(err).Msg("http.metrics_token cannot be read, or is too short")
		return false
	}
	want, got := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(strings.TrimSpace(shown)))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

// minProbeToken is the minimum length of the probe token, in bytes: guesses of it are
// not throttled.
const minProbeToken = 16

// CheckProbeToken returns what is wrong with the token of a monitoring system.
func CheckProbeToken(token string) error {
	if len(token) < minProbeToken {
		return fmt.Errorf("is too short: it has %d characters, want at least %d", len(token), minProbeToken)
	}
	return nil
}
