// Package dashboard is the pages on which people understand, mend and replay what
// was not delivered. Every page is a plain document with plain forms; htmx and a
// small script of our own add live updates and keys on top, and nothing needs them.
//
// A page is a function of a request that returns a view or an error:
//
//	func (p *pages) letter(r *request) (view, error)
//
// routes lists them all with the role each needs, render turns a view into HTML,
// JSON or CSV, and failure turns an error into a page that says what to do.
package dashboard

import (
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
)

// Options are what the pages need beside the desk.
type Options struct {
	// Look is the one that access was given the pages of.
	Look *Look
	// Log gets one line for each page that failed for a reason of ours.
	Log zerolog.Logger
	// Edit is what may be changed of a letter before it is replayed; nil: nothing, and
	// there is no page for it.
	Edit *Edit
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// pages are all pages with what they stand on.
type pages struct {
	*Look
	desk *desk.Desk
	live *live
	// exports are the lists that are being written whole.
	exports *live
	edit    *Edit
	log     zerolog.Logger
	now     func() time.Time
}

// New registers all pages with the guard and returns the handler that serves them,
// and whatever else the guard was given.
func New(d *desk.Desk, guard *access.Access, opts Options) http.Handler {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	p := &pages{Look: opts.Look, desk: d, live: newLive(streamsOfUser, streamsInAll), exports: newLive(exportsOfUser, exportsInAll), edit: opts.Edit, log: opts.Log, now: opts.Now}
	guard.HandleFiles("GET /static/", p.assets)
	// For pages that name no icon: the guard's, that lead on at once.
	guard.HandleFiles("GET /favicon.ico", http.RedirectHandler(p.assets.path("icon.svg"), http.StatusFound))
	for _, route := range p.routes() {
		guard.Handle(route.pattern, route.needs, p.serve(route.page))
	}
	guard.Handle("GET /events", access.Viewer, p.events)
	return suffixed(compressed(guard))
}

// route is one address with the role it needs.
type route struct {
	pattern string
	needs   access.Role
	page    page
}

// page makes the view of one address.
type page func(*request) (view, error)
