package dashboard

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
)

//go:embed templates
var files embed.FS

// Look is how pages look: the layout with each page's template, and the files that
// they load. The guard has pages too, so it is made before the guard is.
type Look struct {
	assets *assets
	pages  map[string]*template.Template
	about  string // the program and its version
	log    zerolog.Logger
}

// NewLook reads the templates. The log gets what a template could not be executed on.
func NewLook(version string, log zerolog.Logger) *Look {
	l := &Look{assets: newAssets(), pages: map[string]*template.Template{}, about: "Certpost " + version, log: log}
	words := words()
	words["asset"] = l.assets.path
	base := template.Must(template.New("").Funcs(words).ParseFS(files, "templates/layout.html", "templates/parts/*.html"))
	entries, err := files.ReadDir("templates")
	if err != nil {
		panic(err) // the files are part of the program
	}
	for _, entry := range entries {
		if name := entry.Name(); !entry.IsDir() && name != "layout.html" {
			l.pages[name] = template.Must(template.Must(base.Clone()).ParseFS(files, "templates/"+name))
		}
	}
	return l
}

// Access is how the guard's own pages look: signing in, and being refused.
func (l *Look) Access() access.Pages {
	return access.Pages{
		SignIn: func(w http.ResponseWriter, r *http.Request, v access.SignInView) {
			l.html(w, &request{Request: r, now: time.Now().UTC()}, view{template: "sign-in", title: "Sign in", status: v.Status, data: v})
		},
		Refused: func(w http.ResponseWriter, r *http.Request, status int, title, text string) {
			l.html(w, &request{Request: r, now: time.Now().UTC()}, view{template: "problem", title: title, status: status, data: problem{Title: title, Says: text}})
		},
	}
}

// frame is what a page's template is executed on: everything around .Data.
type frame struct {
	Title   string
	Section string // the first part of the path: which entry of the navigation is current
	Here    string // the address, for forms that come back to it
	Who     who
	Now     time.Time
	Scheme  string
	Keys    string
	Notice  string
	About   string
	JSON    string // the same page as JSON, "" when there is none
	CSV     string
	Mark    string // from which on the page wants to hear of changes
	Data    any
}

// who is the visitor as templates know him.
type who struct {
	Name            string // "" where nobody is known yet: then there is no navigation
	Role            string
	Operator, Admin bool
	Session         bool // that can be ended
	Token           string
}

func newWho(v access.Visit) who {
	return who{v.User.Name, v.User.Role.String(), v.User.Role >= access.Operator, v.User.Role >= access.Admin, v.SignedIn, v.Token}
}

// html executes the template to memory first: a page is whole, or it is the page
// that says that it failed.
func (l *Look) html(w http.ResponseWriter, r *request, v view) {
	f := frame{
		Title: v.title, Section: section(r.URL.Path), Here: r.URL.RequestURI(), Now: r.now, About: l.about,
		Scheme: r.scheme(), Keys: r.keys(), Notice: notices[r.URL.Query().Get(doneKey)], Data: v.data,
		Who: newWho(r.visit), Mark: r.mark,
	}
	switch {
	case r.Method == http.MethodPost:
		f.Here = path.Dir(r.URL.Path) // the page that the form was on; its own address takes forms alone
	case v.table != nil:
		f.JSON, f.CSV = r.as("json"), r.as("csv")
	case v.object != nil:
		f.JSON = r.as("json")
	}
	var text bytes.Buffer
	if err := l.execute(&text, v, f); err != nil {
		l.log.Error().Err(err).Str("page", v.template).Msg("a page could not be shown")
		http.Error(w, "This page could not be shown; the log says why. Nothing was changed by it.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(text.Len()))
	w.WriteHeader(v.status)
	_, _ = w.Write(text.Bytes())
}

// execute shows a view: its template defines "main", which the layout surrounds.
func (l *Look) execute(to *bytes.Buffer, v view, f frame) error {
	name := "layout.html"
	if v.fragment {
		name = "main"
	}
	return l.pages[v.template+".html"].ExecuteTemplate(to, name, f)
}

// section is the first part of a path. A request need not have one: CONNECT has a host.
func section(address string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(address, "/"), "/")
	return first
}
