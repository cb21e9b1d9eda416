package dashboard

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
)

//go:embed templates
var files embed.FS

// Look holds the layout with each page's template, and the static files. The guard has
// pages too, so the Look is created before the guard.
type Look struct {
	assets *assets
	pages  map[string]*template.Template
	about  string // the program and its version
	log    zerolog.Logger
}

// NewLook parses the embedded templates. The log gets an error for each page whose
// template fails.
func NewLook(version string, log zerolog.Logger) *Look {
	l := &Look{assets: newAssets(), pages: map[string]*template.Template{}, about: "Certpost " + version, log: log}
	words := words()
	words["asset"] = l.assets.path
	base := template.Must(template.New("").Funcs(words).ParseFS(files, "templates/layout.html", "templates/parts/*.html"))
	entries, err := files.ReadDir("templates")
	if err != nil {
		panic(err) // cannot happen: the files are embedded
	}
	for _, entry := range entries {
		if name := entry.Name(); !entry.IsDir() && name != "layout.html" {
			l.pages[name] = template.Must(template.Must(base.Clone()).ParseFS(files, "templates/"+name))
		}
	}
	return l
}

// Access is the guard's own pages: sign-in, and the page for refused requests.
func (l *Look) Access() access.Pages {
	return access.Pages{
		SignIn: func(w http.ResponseWriter, r *http.Request, v access.SignInView) {
			l.html(w, &request{Request: r, now: time.Now().UTC()}, view{template: "sign-in", title: "Sign in", status: v.Status, data: v})
		},
		Refused: func(w http.ResponseWriter, r *http.Request, status int, title, text string) {
			l.html(w, &request{Request: r, now: time.Now().UTC()}, view{template: problemTemplate, title: title, status: status, data: problem{Title: title, Says: text}})
		},
	}
}

// frame is the data of the layout; .Data is the data of the page's own template.
type frame struct {
	Title   string
	Section string // the first part of the path: the current entry of the navigation
	Here    string // the address, for forms that return to it
	Who     who
	Now     time.Time
	Scheme  string
	Keys    string
	Times   string
	Views   []viewLink // of the list on the page
	Unsaved string     // the address of the page if it can be saved as a view
	Notice  string
	About   string
	JSON    string // the address of the page as JSON, "" when there is none
	CSV     string
	Renew   int    // seconds after which the page asks for itself again by script, 0 for never
	Refresh int    // the same without scripts
	Broken  string // why audit or ledger is not what Certpost wrote; "" if it is
	Alerts  bool   // the navigation has the alerts
	Open    int    // dead letters, for the icon
	Mark    string // the state of the desk that the page shows: it needs later changes
	Data    any
}

// who is the user as templates see it.
type who struct {
	Name            string // "" before sign-in: then there is no navigation
	Role            string
	Operator, Admin bool // has at least this role
	Session         bool // there is a session to sign out of
	Token           string
}

func newWho(v access.Visit) who {
	return who{v.User.Name, v.User.Role.String(), v.User.Role >= access.Operator, v.User.Role >= access.Admin, v.SignedIn, v.Token}
}

// html executes the template to memory first, so that the client gets either the whole
// page or an error.
func (l *Look) html(w http.ResponseWriter, r *request, v view) {
	f := frame{
		Title: v.title, Section: section(r.URL.Path), Here: r.URL.RequestURI(), Now: r.now, About: l.about,
		Scheme: scheme.of(r), Keys: keys.of(r), Times: times.of(r), Notice: notices[r.URL.Query().Get(doneKey)], Data: v.data,
		Who: newWho(r.visit), Mark: r.mark, Open: r.open, Broken: r.broken, Alerts: r.alerts || section(r.URL.Path) == alertsPlace.Path,
	}
	f.Views, f.Unsaved = r.viewsHere()
	switch {
	case r.Method == http.MethodPost:
		f.Here = path.Dir(r.URL.Path) // the page with the form; its own address accepts only POST
	case v.table != nil:
		f.JSON, f.CSV = r.as("json"), r.as("csv")
	case v.object != nil:
		f.JSON = r.as("json")
	}
	if v.renews {
		f.Renew = renewEvery
		if !v.hasRows {
			f.Refresh = renewEvery
		}
	}
	var text bytes.Buffer
	if err := l.execute(&text, v, f); err != nil {
		l.log.Error().Err(err).Str("page", v.template).Msg("a page could not be shown")
		http.Error(w, "This page could not be rendered; see the log for the reason. Rendering it changed nothing.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(text.Len()))
	w.WriteHeader(v.status)
	_, _ = w.Write(text.Bytes())
}

// execute renders a view: its template defines "main", which the layout includes. A
// fragment is rendered without the layout.
func (l *Look) execute(to *bytes.Buffer, v view, f frame) error {
	name := "layout.html"
	if v.fragment {
		name = "main"
	}
	return l.pages[v.template+".html"].ExecuteTemplate(to, name, f)
}

// place is an entry of the navigation.
type place struct{ Path, Title string }

var places = []place{{"", "Overview"}, {"dead-letters", "Dead letters"}, {"replays", "Replays"}, {"deliveries", "Deliveries"}, {"targets", "Targets"}, {"relays", "Relays"}, {"audit", "Audit"}}

// alertsPlace is an entry only where alerts are sent.
var alertsPlace = place{"alerts", "Alerts"}

// placeOf is the entry of a section; for one without an entry, the dead letters.
func placeOf(section string) place {
	if section == alertsPlace.Path {
		return alertsPlace
	}
	if i := slices.IndexFunc(places[1:], func(p place) bool { return p.Path == section }); i >= 0 {
		return places[1+i]
	}
	return places[1]
}

// section is the first part of a path, "" if the path is empty, as it is for CONNECT.
func section(address string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(address, "/"), "/")
	return first
}
