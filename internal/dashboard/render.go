package dashboard

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/desk"
)

// view is the result of a page function, for every format that a client can request.
type view struct {
	template string // the name of its file in templates
	title    string
	status   int // 0 is 200
	data     any // .Data in the template

	object any    // the response in JSON; nil: there is none
	table  *table // the response in CSV, and in JSON if object is nil

	frames   bool           // has a frame with another page of ours
	fragment bool           // the template is rendered without the layout
	renews   bool           // waits for something: the page asks for itself again every renewEvery
	hasRows  bool           // has rows to select: only the script renews it, which sees a selection
	to       string         // redirect here instead; a successful POST has nothing else
	cookies  []*http.Cookie // to set; used only by /settings
}

// serve turns a page function into a handler: it calls the function and renders its
// view, or the page of its error.
func (p *pages) serve(make page) access.Handler {
	return func(w http.ResponseWriter, req *http.Request, v access.Visit) {
		r := &request{req, v, p.now().UTC(), p.desk.Mark(), p.desk.Broken(), p.tells, p.desk.Balance().Open}
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
	if v.renews && !v.hasRows {
		w.Header().Set(access.NotServed, strconv.Itoa(renewEvery))
	}
	if v.frames {
		access.Frames(w.Header())
	}
	w.Header().Set("Vary", "Accept, Accept-Encoding, Cookie")
	switch wants := r.format(); {
	case wants == asJSON && v.object != nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(v.status)
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(v.object) // the client may have closed the connection
	case wants == asJSON && v.table != nil:
		p.export(w, r, v.table.json)
	case wants == asCSV && v.table != nil:
		p.export(w, r, v.table.csv)
	case wants == asCSV && v.template == problemTemplate:
		about := v.data.(problem)
		http.Error(w, about.Says+" "+about.Do, v.status)
	default:
		p.html(w, r, v)
	}
}

// A list may have a million entries. They are read one by one from the same NATS that
// deliveries need, so the number of exports is limited.
const (
	exportsOfUser = 3
	exportsInAll  = 12
)

// export writes a complete list, or responds 429 when too many are being written.
func (p *pages) export(w http.ResponseWriter, r *request, write func(http.ResponseWriter)) {
	user := r.visit.User.Subject
	if !p.exports.enter(user) {
		w.Header().Set("Retry-After", "60")
		http.Error(w, "Too many exports are running. Retry when one of yours has finished.", http.StatusTooManyRequests)
		return
	}
	defer p.exports.leave(user)
	write(w)
}

// notices are the texts that a page shows after the POST that redirected to it, by the
// value of ?done=. They are fixed, so that an address cannot make a page show other
// text.
var notices = map[string]string{
	"replayed":       "Published again. It is now a normal delivery; if it fails, it becomes a new dead letter.",
	"discarded":      "Discarded. It can be restored until the audit record expires.",
	"restored-many":  "Restored. They are on the list again, under new numbers.",
	"restored":       "Restored. It is on the list again, under this new number.",
	"handled":        "Saved. All who open this group see it.",
	"held":           "Held. It is neither replayed nor discarded until it is released.",
	"released":       "Released.",
	"started":        "The replay has started. This page shows its progress; the replay continues when you close the page.",
	"paused":         "Paused. Letters that are already published are still delivered; no more are published until the replay is resumed.",
	"resumed":        "Resumed.",
	"cancelled":      "Cancelled. Letters that were not published are still on the list.",
	"edited":         "Published again as edited.",
	"saved":          "Saved.",
	"session-ended":  "Signed out there. The session has ended, and the audit has a record of it.",
	"session-gone":   "That session had already ended. Nothing was done.",
	"others-ended":   "Signed out everywhere else. Only this browser is still signed in.",
	"retried":        "It is tried now.",
	"retried-many":   "They are tried now; those in lanes that deliver nothing still wait.",
	"withdrawn-many": "Cancelled. They are dead letters now, which can be replayed or discarded; those that were being sent at that moment were left.",
	"resent-many":    "Published again. They are deliveries as any other now; what fails becomes a dead letter.",
	"resent":         "Published again. It is a delivery as any other now; if it fails, it becomes a dead letter.",
	"withdrawn":      "Cancelled. It is a dead letter now, which can be replayed or discarded; what was delivered before stays delivered.",
	"rolled-back":    "Rolled back. The mail host has the former certificate again.",
	"silenced":       "Silenced. Nobody is told of it until the silence ends.",
	"unsilenced":     "No longer silenced. What lasts is told.",
	"suspended":      "Suspended. Nothing more is fetched from this lane until it is resumed.",
}
