// Package dashboard serves the pages on which operators see failed deliveries, find out
// what to fix, and replay them. Every page is a plain document with plain forms; htmx
// and small scripts of our own add live updates and keyboard shortcuts. No page needs
// JavaScript.
//
// A page is a function of a request that returns a view or an error:
//
//	func (p *pages) letter(r *request) (view, error)
//
// routes lists all pages with the role that each requires, render turns a view into
// HTML, JSON or CSV, and failure turns an error into a page that says what to do.
package dashboard

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/tracing"
)

// Options are what the pages need besides the desk.
type Options struct {
	// Look must be the Look whose Access pages were given to the guard.
	Look *Look
	// Alerts says that this process sends alerts: then the navigation has them.
	Alerts bool
	// Tracer records spans of what operators do; nil: none.
	Tracer *tracing.Tracer
	// Log gets one line for each page that failed because of an error on the server.
	Log zerolog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// pages holds what all page functions share.
type pages struct {
	*Look
	guard *access.Access
	desk  *desk.Desk
	tells bool // Options.Alerts
	live  *live
	// exports counts the complete lists that are being written.
	exports *live
	log     zerolog.Logger
	now     func() time.Time
}

// New registers all pages with the guard and returns the handler that serves them and
// everything else that is registered with the guard.
func New(d *desk.Desk, guard *access.Access, opts Options) http.Handler {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	p := &pages{Look: opts.Look, guard: guard, desk: d, tells: opts.Alerts, live: newLive(streamsOfUser, streamsInAll), exports: newLive(exportsOfUser, exportsInAll), log: opts.Log, now: opts.Now}
	guard.HandleFiles("GET /static/", p.assets)
	// For pages without a <link rel="icon">: the guard's redirect pages.
	guard.HandleFiles("GET /favicon.ico", http.RedirectHandler(p.assets.path("icon.svg"), http.StatusFound))
	routes := p.routes()
	if guard.SignsIn() {
		routes = append(routes, p.sessionRoutes()...)
	}
	for _, route := range routes {
		guard.Handle(route.pattern, route.needs, traced(opts.Tracer, route.pattern, p.serve(strict(route.pattern, route.page))))
	}
	guard.Handle("GET /events", access.Viewer, p.events)
	guard.Handle("GET /icon/{count}", access.Viewer, icon)
	guard.Handle("GET /targets/{id}/mail/body", access.Viewer, p.mailBody)
	return suffixed(compressed(guard))
}

// route is one address with the role that it requires.
type route struct {
	pattern string
	needs   access.Role
	page    page
}

// traced serves a POST within a span that is named after the pattern: addresses have the names of targets and events,
// forms what people write.
func traced(t *tracing.Tracer, pattern string, serve access.Handler) access.Handler {
	if t == nil || !strings.HasPrefix(pattern, http.MethodPost+" ") {
		return serve
	}
	return func(w http.ResponseWriter, r *http.Request, v access.Visit) {
		ctx, span := t.Start(r.Context(), tracing.Server, pattern, nil, tracing.Text("http.request.method", r.Method), tracing.Text("http.route", strings.TrimPrefix(pattern, "POST ")))
		defer span.End()
		seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		serve(seen, r.WithContext(ctx), v)
		span.Add(tracing.Number("http.response.status_code", seen.status))
		if seen.status >= http.StatusInternalServerError {
			span.Fail(strconv.Itoa(seen.status))
		}
	}
}

// statusWriter notes the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status and sends it.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// page makes the view of one address.
type page func(*request) (view, error)
