package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Handler answers a request that was let through. The request's context ends with
// the user's session.
type Handler func(w http.ResponseWriter, r *http.Request, v Visit)

// Visit is who makes a request, and what the page for him needs to know.
type Visit struct {
	User User
	// Token goes into the field TokenField of every form on the page.
	Token string
	// SignedIn says that there is a session, which a form can end: POST /sign-out.
	SignedIn bool
}

// Route is one that was registered.
type Route struct {
	Pattern string // as of http.ServeMux: "POST /dead-letters/{number}/replay"
	Needs   Role
	Kind    Kind
}

// Kind is what stands behind a route.
type Kind string

// The kinds.
const (
	Page  Kind = "page"  // pages, and the forms on them
	Files Kind = "files" // style sheets and the like: the same for everybody
	Probe Kind = "probe" // for machines that look whether all is well
)

// Handle registers a route: a method, a path, and the role it needs. It panics where
// http.ServeMux does, and on a pattern without a method. GET must change nothing.
func (a *Access) Handle(pattern string, needs Role, handler Handler) {
	a.add(Route{pattern, needs, Page}, func(w http.ResponseWriter, r *http.Request) { a.guard(w, r, needs, handler) })
}

// HandleFiles registers files that everybody may have. The handler replaces
// Cache-Control where they never change.
func (a *Access) HandleFiles(pattern string, handler http.Handler) {
	a.add(Route{pattern, Anyone, Files}, func(w http.ResponseWriter, r *http.Request) {
		if !a.answers(r.Host) {
			a.refuseHost(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// HandleProbe registers what machines ask for. With Anyone it is answered always, by
// whatever name they know this machine; with Viewer it takes what Trusts wants.
func (a *Access) HandleProbe(pattern string, needs Role, handler http.Handler) {
	a.add(Route{pattern, needs, Probe}, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case needs == Anyone || a.Trusts(r):
			handler.ServeHTTP(w, r)
		case a.exposed:
			w.Header().Set("WWW-Authenticate", `Bearer realm="certpost"`)
			plain(w, http.StatusUnauthorized, "sign in, or send http.metrics_token: Authorization: Bearer ...\n")
		default:
			plain(w, http.StatusForbidden, "ask as localhost and without a proxy, or send http.metrics_token: Authorization: Bearer ...\n")
		}
	})
}

// Trusts says whether who sends a request for a probe may read what names relays: with
// a session, or the probes' token, or on loopback, where everybody may who asks for
// this machine himself. Pages that have their name point here, and proxies, do not.
func (a *Access) Trusts(r *http.Request) bool {
	return !a.exposed && a.answers(r.Host) && !isForwarded(r) || a.showsProbeToken(r) || a.signIn() && a.identify(r).session != nil
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

// guard is the one door: every page passes it.
func (a *Access) guard(w http.ResponseWriter, r *http.Request, needs Role, handler Handler) {
	switch {
	case !a.answers(r.Host):
		a.refuseHost(w, r)
		return
	case isSafe(r) && fromElsewhere(r) && !isNavigation(r):
		// A page of another site wants our page in it, or just to keep us busy.
		a.pages.Refused(w, r, http.StatusForbidden, "Not for other sites", "Another site's page asked for this.")
		return
	case !isSafe(r) && !a.sentFromHere(r):
		a.pages.Refused(w, r, http.StatusForbidden, "Not sent from here",
			"The request did not come from a page of this dashboard, so nothing was done. Programs use the command line or NATS instead.")
		return
	case !a.signIn() && isForwarded(r):
		a.pages.Refused(w, r, http.StatusForbidden, "Sign-in is not set up",
			"A proxy passed this request on. Behind a proxy the dashboard needs http.url and http.sign_in.")
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
	handler(w, r.WithContext(ctx), Visit{User: who.user, Token: a.token(who.number), SignedIn: who.session != nil})
}

// caller is what is known of who makes a request.
type caller struct {
	user    User
	number  string   // of the cookie that the tokens are bound to; "": there is none
	session *session // nil: none
}

func (c caller) known() bool { return c.number != "" }

// identify finds out who makes a request.
func (a *Access) identify(r *http.Request) caller {
	address := a.clientAddress(r)
	if !a.signIn() {
		who := caller{user: User{Name: a.cfg.Local, Subject: "local", Role: Admin, Address: address}}
		if number := a.cookie(r, visitorCookie); isNumber(number) {
			who.number = number
		}
		return who
	}
	if number := a.cookie(r, sessionCookie); number != "" {
		if s := a.sessions.find(number, !isStream(r)); s != nil {
			who := caller{user: s.user, number: number, session: s}
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

// turnAway answers those whose role is not enough.
func (a *Access) turnAway(w http.ResponseWriter, r *http.Request, who caller, needs Role) {
	if who.session != nil {
		a.record(r.Context(), Event{Kind: Refused, User: who.user, Reason: r.Method + " " + r.URL.EscapedPath()})
		a.pages.Refused(w, r, http.StatusForbidden, "That is not yours to do",
			"This takes the role "+needs.String()+"; "+who.user.Name+" has the role "+who.user.Role.String()+". Nothing was done.")
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
		a.pages.Refused(w, r, http.StatusUnauthorized, "You are not signed in any more", "Nothing was done. Sign in, and do it again.")
	}
}

// readForm reads the form of an unsafe request and compares its token.
func (a *Access) readForm(w http.ResponseWriter, r *http.Request, who caller) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		a.pages.Refused(w, r, http.StatusUnsupportedMediaType, "Not a form", "This takes a form of this dashboard (application/x-www-form-urlencoded).")
		return false
	}
	if err := r.ParseForm(); err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			a.pages.Refused(w, r, http.StatusRequestEntityTooLarge, "Too much at once", "The form is larger than the dashboard takes. Nothing was done.")
		} else {
			a.pages.Refused(w, r, http.StatusBadRequest, "Not a form", "The form could not be read. Nothing was done.")
		}
		return false
	}
	if !a.fits(r.PostForm.Get(TokenField), who.number) {
		a.pages.Refused(w, r, http.StatusForbidden, "The page is too old",
			"It was made for another session, or before the program was started anew. Nothing was done: load the page again, and do it again.")
		return false
	}
	return true
}

func (a *Access) refuseHost(w http.ResponseWriter, r *http.Request) {
	a.pages.Refused(w, r, http.StatusMisdirectedRequest, "Not this name", "The dashboard is not answered by this name: open it at localhost, or configure http.url.")
}

// showsProbeToken compares hashes, which have one length.
func (a *Access) showsProbeToken(r *http.Request) bool {
	kind, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if a.cfg.ProbeToken == nil || !strings.EqualFold(kind, "Bearer") {
		return false
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	token, err := a.cfg.ProbeToken(ctx)
	if err != nil || len(token) < minProbeToken {
		a.cfg.Log.Warn().Err(err).Int("least_length", minProbeToken).Msg("the token of the probes cannot be read, or is too short")
		return false
	}
	want, got := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(strings.TrimSpace(shown)))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

// minProbeToken is the length of the shortest token of probes, in bytes: nothing
// slows down guessing it.
const minProbeToken = 16
