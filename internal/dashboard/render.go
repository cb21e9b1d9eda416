package dashboard

import (
	"encoding/json"
	"net/http"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
)

// view is what a page function found: the same facts for whatever format the
// visitor wants.
type view struct {
	template string // the name of its file in templates
	title    string
	status   int // 0 is 200
	data     any // .Data in the template

	object any    // the answer in JSON; nil: there is none
	table  *table // the answer in CSV, and in JSON where object is nil

	fragment bool           // the template is shown without the layout
	to       string         // where to go instead; a POST that worked has nothing else
	cookies  []*http.Cookie // to be kept; /settings alone has any
}

// serve is the way of every page: ask the page function, show what it found.
func (p *pages) serve(make page) access.Handler {
	return func(w http.ResponseWriter, req *http.Request, v access.Visit) {
		r := &request{req, v, p.now().UTC(), p.desk.Mark()}
		var found view
		err := desk.ErrNotFound
		if r.PathValue("number") == "" || r.number() != 0 {
			found, err = make(r)
		}
		if err != nil {
			found = p.failure(r, err)
		}
		p.render(w, r, found)
	}
}

func (p *pages) render(w http.ResponseWriter, r *request, v view) {
	for _, cookie := range v.cookies {
		http.SetCookie(w, cookie)
	}
	if v.to != "" {
		http.Redirect(w, r.Request, v.to, http.StatusSeeOther)
		return
	}
	if v.status == 0 {
		v.status = http.StatusOK
	}
	w.Header().Set("Vary", "Accept, Accept-Encoding, Cookie")
	switch wants := r.format(); {
	case wants == asJSON && v.object != nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(v.status)
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(v.object) // the other side may have gone
	case wants == asJSON && v.table != nil:
		p.export(w, r, v.table.json)
	case wants == asCSV && v.table != nil:
		p.export(w, r, v.table.csv)
	default:
		p.html(w, r, v)
	}
}

// A list may have a million entries that are read one by one, from the NATS by which
// certificates are delivered.
const (
	exportsOfUser = 3
	exportsInAll  = 12
)

// export writes a list, unless so many are being written already.
func (p *pages) export(w http.ResponseWriter, r *request, write func(http.ResponseWriter)) {
	user := r.visit.User.Subject
	if !p.exports.enter(user) {
		w.Header().Set("Retry-After", "60")
		http.Error(w, "Too many lists are being written already. Ask again when one of yours has ended.", http.StatusTooManyRequests)
		return
	}
	defer p.exports.leave(user)
	write(w)
}

// notices are what a page says after a POST that led to it, by ?done=. They are
// our words alone: nothing of the address is shown.
var notices = map[string]string{
	"replayed":  "Published again. It is a delivery like any other now; if it fails it comes back as a new dead letter.",
	"discarded": "Discarded. It can be restored for as long as the audit keeps it.",
	"restored":  "Restored: it is on the list again, under this new number.",
	"held":      "Held. It is neither replayed nor discarded until it is released.",
	"released":  "Released.",
	"started":   "The replay has begun. This page follows it; closing it stops nothing.",
	"paused":    "Paused. What was published goes its way; nothing more is published until it is resumed.",
	"resumed":   "Resumed.",
	"cancelled": "Cancelled. What was not published is still on the list.",
	"edited":    "Published again as edited.",
	"saved":     "Saved.",
	"suspended": "Suspended. Nothing more is fetched from this lane until it is resumed.",
}
