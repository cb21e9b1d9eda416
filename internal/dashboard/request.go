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
	"github.com/certpost/certpost/internal/desk"
)

// request is what a page function is given.
type request struct {
	*http.Request
	visit access.Visit
	now   time.Time
	mark  string // of the desk, before anything was read from it
}

// actor is who asks, for the audit.
func (r *request) actor() broker.Actor {
	return broker.Actor{Name: r.visit.User.Recorded(), Role: r.visit.User.Role.String(), Via: broker.ViaPage, Address: r.visit.User.Address}
}

// number reads the part of the path that is a letter's number; 0 when it is none,
// which no letter has.
func (r *request) number() uint64 {
	n, _ := strconv.ParseUint(r.PathValue("number"), 10, 64)
	return n
}

// after reads where the page before ended.
func (r *request) after() uint64 {
	n, _ := strconv.ParseUint(r.FormValue("after"), 10, 64)
	return n
}

// reason is the one that a form was sent with.
func (r *request) reason() string {
	text := []rune(strings.TrimSpace(r.PostFormValue("reason")))
	return string(text[:min(len(text), desk.MaxReason)])
}

// The keys of an address that say what has just happened, and nothing of what the page
// shows: no other address has them from it.
const (
	doneKey   = "done"   // a notice
	chooseKey = "choose" // the action for which no letter was chosen
)

func lasting(query url.Values) url.Values {
	query.Del(doneKey)
	query.Del(chooseKey)
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

// format is what the request wants the answer in.
type format string

const (
	asHTML format = "html"
	asJSON format = "json"
	asCSV  format = "csv"
)

var formats = map[string]format{"text/html": asHTML, "application/xhtml+xml": asHTML, "application/json": asJSON, "text/csv": asCSV}

// format is the first of the accepted ones that there is: browsers name HTML
// first, programs what they want alone. Weights are not looked at.
func (r *request) format() format {
	for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		if kind, _, err := mime.ParseMediaType(part); err == nil && formats[kind] != "" {
			return formats[kind]
		}
	}
	return asHTML
}

// suffixed lets an address that ends in .json or .csv stand for the page without
// it in that format.
func suffixed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for suffix, kind := range map[string]string{".json": "application/json", ".csv": "text/csv"} {
			path, found := strings.CutSuffix(r.URL.Path, suffix)
			if found && path != "" && !strings.HasPrefix(path, "/static/") {
				r = r.Clone(r.Context())
				r.URL.Path, r.URL.RawPath = path, strings.TrimSuffix(r.URL.RawPath, suffix)
				r.Header.Set("Accept", kind)
				break // one suffix is one too many for what is left
			}
		}
		next.ServeHTTP(w, r)
	})
}

// The cookies of /settings. They hold a word each and identify nobody.
const (
	schemeCookie = "certpost-scheme" // light, dark, system
	keysCookie   = "certpost-keys"   // on, off
)

// setting is a cookie's value if it is one of those allowed, else the first of them.
func (r *request) setting(cookie string, allowed ...string) string {
	if c, err := r.Cookie(cookie); err == nil {
		for _, value := range allowed {
			if c.Value == value {
				return value
			}
		}
	}
	return allowed[0]
}

func (r *request) scheme() string { return r.setting(schemeCookie, schemes...) }
func (r *request) keys() string   { return r.setting(keysCookie, keyWords...) }
