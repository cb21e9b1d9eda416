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
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
)

// Options are what the pages need besides the desk.
type Options struct {
	// Look must be the Look whose Access pages were given to the guard.
	Look *Look
	// Alerts says that this process sends alerts: then the navigation has them.
	Alerts bool
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
		guard.Handle(route.pattern, route.needs, p.serve(route.page))
	}
	guard.Handle("GET /events", access.Viewer, p.events)
	guard.Handle("GET /targets/{id}/mail/body", access.Viewer, p.mailBody)
	return suffixed(compressed(guard))
}

// route is one address with the role that it requires.
type route struct {
	pattern string
	needs   access.Role
	page    page
}

// page makes the view of one address.
type page func(*request) (view, error)
