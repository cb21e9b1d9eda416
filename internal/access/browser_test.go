package access

import (
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
)

// cheapHash is a Hash with the least memory that ParseHash accepts.
func cheapHash(password string) Hash {
	h := Hash{memory: minMemory, passes: 1, lanes: 1, salt: make([]byte, 16)}
	_, _ = rand.Read(h.salt)
	h.sum = h.derive(password, 32)
	return h
}

const home = "https://certpost.example.com"

func mustURL(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// passwordOf is the password of an account of accounts.
func passwordOf(name string) string { return "the password of " + name }

// accounts are one account for each role, with the role's name.
func accounts() []Account {
	var all []Account
	for _, role := range []Role{Viewer, Operator, Admin} {
		all = append(all, Account{role.String(), cheapHash(passwordOf(role.String())), role})
	}
	return all
}

// door is an Access that other machines can reach, with accounts and a few routes of a
// dashboard.
func door(t testing.TB, change func(*Config)) *Access {
	t.Helper()
	cfg := Config{Listen: "0.0.0.0:443", TLS: true, URL: mustURL(t, home), Accounts: accounts(), Log: zerolog.Nop()}
	if change != nil {
		change(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	page := func(w http.ResponseWriter, r *http.Request, v Visit) {
		w.Header().Set("X-Role", v.User.Role.String())
		w.Header().Set("X-Name", v.User.Name)
		w.Header().Set("X-Address", v.User.Address)
		_, _ = io.WriteString(w, `<input name="token" value="`+v.Token+`">`+r.PathValue("number"))
	}
	a.Handle("GET /{$}", Viewer, page)
	a.Handle("GET /dead-letters/{number}", Viewer, page)
	a.Handle("POST /dead-letters/{number}/replay", Operator, page)
	a.Handle("POST /dead-letters/{number}/edit", Admin, page)
	a.Handle("GET /events", Viewer, func(w http.ResponseWriter, r *http.Request, _ Visit) {
		w.WriteHeader(http.StatusOK)
		<-r.Context().Done()
	})
	a.HandleFiles("GET /static/", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}))
	a.HandleProbe("GET /livez", Anyone, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive\n") }))
	a.HandleProbe("GET /metrics", Viewer, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "metrics\n") }))
	return a
}

// browser behaves like a web browser: it stores cookies by their rules, and sends the
// headers that say where a request comes from.
type browser struct {
	t       testing.TB
	handler http.Handler
	base    *url.URL
	from    string // RemoteAddr

	mu  sync.Mutex
	jar map[string]*http.Cookie // guarded by mu
}

func newBrowser(t testing.TB, handler http.Handler, base string) *browser {
	return &browser{t: t, handler: handler, base: mustURL(t, base), from: "198.51.100.7:4711", jar: map[string]*http.Cookie{}}
}

// answer is a response with its body.
type answer struct {
	*httptest.ResponseRecorder
	body string
}

func (r answer) location() string { return r.Result().Header.Get("Location") }

var tokenPattern = regexp.MustCompile(`name="token" value="([^"]*)"`)

// token is the form token on the page.
func (r answer) token() string {
	if m := tokenPattern.FindStringSubmatch(r.body); m != nil {
		return m[1]
	}
	return ""
}

// send makes a request like a page of the dashboard; header replaces headers ("" removes
// one). Strict cookies are not sent if the request comes from another site.
func (b *browser) send(ctx context.Context, method, target string, form url.Values, header map[string]string) answer {
	b.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r := httptest.NewRequestWithContext(ctx, method, b.base.ResolveReference(mustURL(b.t, target)).String(), body)
	r.RemoteAddr, r.Host = b.from, b.base.Host
	r.Header.Set("Accept", "text/html,application/xhtml+xml")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", "null") // as browsers send it under no-referrer
	}
	for name, value := range header {
		if r.Header.Del(name); name == "Host" {
			r.Host = value
		} else if value != "" {
			r.Header.Set(name, value)
		}
	}
	b.mu.Lock()
	for _, c := range b.jar {
		if c.SameSite == http.SameSiteStrictMode && r.Header.Get("Sec-Fetch-Site") == "cross-site" {
			continue
		}
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	b.mu.Unlock()
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	b.mu.Lock()
	for _, c := range w.Result().Cookies() {
		if c.MaxAge < 0 {
			delete(b.jar, c.Name)
		} else {
			b.jar[c.Name] = c
		}
	}
	b.mu.Unlock()
	return answer{w, w.Body.String()}
}

func (b *browser) get(target string) answer {
	b.t.Helper()
	return b.send(b.t.Context(), "GET", target, nil, nil)
}

// post sends a form with the token of the page at the path there.
func (b *browser) post(target, there string, form url.Values) answer {
	b.t.Helper()
	if form == nil {
		form = url.Values{}
	}
	form.Set(TokenField, b.get(there).token())
	return b.send(b.t.Context(), "POST", target, form, nil)
}

// signIn signs in as one of accounts.
func (b *browser) signIn(name string) answer {
	b.t.Helper()
	return b.post("/sign-in", "/sign-in?return=/dead-letters/7", url.Values{"name": {name}, "password": {passwordOf(name)}, "return": {"/dead-letters/7"}})
}

// as is a browser in which the named user is signed in; "" means without sign-in.
func as(t testing.TB, a *Access, name string) *browser {
	t.Helper()
	b := newBrowser(t, a, home)
	if name != "" {
		if got := b.signIn(name); got.Code != http.StatusSeeOther {
			t.Fatalf("signing in as %s: %d %s", name, got.Code, got.body)
		}
	}
	return b
}

func (b *browser) cookie(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.jar[name]; c != nil {
		return c.Value
	}
	return ""
}
