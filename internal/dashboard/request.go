package dashboard

import (
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
)

// request is the input of a page function.
type request struct {
	*http.Request
	visit  access.Visit
	now    time.Time
	mark   string // the desk's mark before the page read from the desk
	broken string // why audit or ledger is not what Certpost wrote; "" if it is
	alerts bool   // the navigation has the alerts
	open   int    // dead letters, for the icon
}

// actor is the user of the request, for the audit.
func (r *request) actor() broker.Actor {
	return broker.Actor{Name: r.visit.User.Recorded(), Role: r.visit.User.Role.String(), Via: broker.ViaPage, Address: r.visit.User.Address}
}

// number reads the letter's number from the path; 0, which no letter has, when it is
// not a number.
func (r *request) number() uint64 {
	n, _ := strconv.ParseUint(r.PathValue("number"), 10, 64)
	return n
}

// after reads where the previous page of the list ended.
func (r *request) after() uint64 {
	n, _ := strconv.ParseUint(r.FormValue("after"), 10, 64)
	return n
}

// reason is the reason that the form was sent with, as it was typed.
func (r *request) reason() string { return strings.TrimSpace(r.PostFormValue("reason")) }

// Keys of an address that say what has just happened. They do not affect what the page
// lists, so no link on the page carries them on.
const (
	doneKey   = "done"   // a notice
	chooseKey = "choose" // the action for which no letter was selected
	undoKey   = "undo"   // the act on many letters that can be undone
)

// listKeys are the keys of a list's address besides its conditions.
var listKeys = []string{"view", "after", "size", newerThan, doneKey, chooseKey, undoKey}

func lasting(query url.Values) url.Values {
	query.Del(doneKey)
	query.Del(chooseKey)
	query.Del(undoKey)
	return query
}

// with is the request's own address with one value of its query set, or removed
// when it is "".
func (r *request) with(key, value string) string {
	query := lasting(r.URL.Query())
	if value == "" {
		query.Del(key)
	} else {
		query.Set(key, value)
	}
	return address(r.URL.Path, query)
}

// here is the request's own address.
func (r *request) here() string { return address(r.URL.Path, lasting(r.URL.Query())) }

// as is the request's own address in another format.
func (r *request) as(format string) string {
	query := lasting(r.URL.Query())
	query.Del("after")
	return address(strings.TrimSuffix(r.URL.Path, "/")+"."+format, query)
}

func address(path string, query url.Values) string {
	return (&url.URL{Path: path, RawQuery: query.Encode()}).String()
}

// format is a format of a response.
type format string

const (
	asHTML format = "html"
	asJSON format = "json"
	asCSV  format = "csv"
)

var formats = map[string]format{"text/html": asHTML, "application/xhtml+xml": asHTML, "application/json": asJSON, "text/csv": asCSV}

// format is the first supported format in the Accept header: browsers list HTML first,
// and programs only what they want. Weights (q=) are ignored.
func (r *request) format() format {
	for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		if kind, _, err := mime.ParseMediaType(part); err == nil && formats[kind] != "" {
			return formats[kind]
		}
	}
	return asHTML
}

// suffixed serves an address that ends in .json or .csv as the page without that
// suffix, in that format.
func suffixed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for suffix, kind := range map[string]string{".json": "application/json", ".csv": "text/csv"} {
			path, found := strings.CutSuffix(r.URL.Path, suffix)
			if found && path != "" && !strings.HasPrefix(path, "/static/") {
				r = r.Clone(r.Context())
				r.URL.Path, r.URL.RawPath = path, strings.TrimSuffix(r.URL.RawPath, suffix)
				r.Header.Set("Accept", kind)
				break // remove only one suffix
			}
		}
		next.ServeHTTP(w, r)
	})
}
