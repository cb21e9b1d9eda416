package access

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// Every route with every role. The dashboard's tests try all its pages in the same way:
// Routes lists everything that can be reached.
//
// Fault: forged roles. Result: refused.
func TestEveryRouteWithEveryRole(t *testing.T) {
	t.Parallel()
	a := door(t, func(c *Config) {
		c.ProbeToken = func(context.Context) (string, error) { return "a-token-of-the-probes", nil }
	})
	if len(a.Routes()) != 10+1 {
		t.Errorf("%d routes: %+v", len(a.Routes()), a.Routes())
	}
	for _, name := range []string{"", "viewer", "operator", "admin"} {
		role := Anyone
		if name != "" {
			role, _ = ParseRole(name)
		}
		b := as(t, a, name)
		token := b.get(map[bool]string{true: "/sign-in", false: "/"}[name == ""]).token()
		for _, route := range a.Routes() {
			method, path, _ := strings.Cut(route.Pattern, " ")
			if strings.HasPrefix(path, "/sign-") || path == "/events" {
				continue // have tests of their own
			}
			path = strings.NewReplacer("{number}", "7", "{$}", "").Replace(path)
			var form url.Values
			if method == "POST" {
				form = url.Values{TokenField: {token}}
			}
			got := b.send(t.Context(), method, path, form, nil)
			want := http.StatusOK
			switch {
			case role >= route.Needs:
			case route.Kind == Probe || name == "" && method == "POST":
				want = http.StatusUnauthorized
			case name == "":
				want = http.StatusSeeOther
			default:
				want = http.StatusForbidden
			}
			if got.Code != want {
				t.Errorf("%s as %q: %d, want %d", route.Pattern, name, got.Code, want)
			}
			if passed := got.Header().Get("X-Role"); route.Kind == Page && (passed != "") != (want == http.StatusOK) {
				t.Errorf("%s as %q: the handler ran with role %q", route.Pattern, name, passed)
			}
			if want == http.StatusSeeOther && got.location() != "/sign-in?return="+url.QueryEscape(path) {
				t.Errorf("%s: sent to %s", route.Pattern, got.location())
			}
			// HEAD is GET without a body, and POST is not GET.
			other, allowed := "POST", http.StatusMethodNotAllowed
			if method == "POST" {
				other = "GET"
			}
			if got := b.send(t.Context(), other, path, nil, nil); got.Code != allowed {
				t.Errorf("%s %s: %d", other, path, got.Code)
			}
		}
	}
}

func TestRoutesNeedMethodAndRole(t *testing.T) {
	t.Parallel()
	a := door(t, nil)
	for pattern, role := range map[string]Role{"/x": Viewer, "GET /y": Admin + 1, "GET /z": -1, "GET /{$}": Viewer} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s with %v was registered", pattern, role)
				}
			}()
			a.Handle(pattern, role, func(http.ResponseWriter, *http.Request, Visit) {})
		}()
	}
}

// Fault: framing. Result: refused.
func TestHeaders(t *testing.T) {
	t.Parallel()
	a := door(t, nil)
	b := as(t, a, "viewer")
	want := map[string]string{
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		"X-Content-Type-Options":  "nosniff", "X-Frame-Options": "DENY", "X-Robots-Tag": "noindex, nofollow", "Referrer-Policy": "no-referrer",
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		"Strict-Transport-Security": "max-age=31536000", "Cache-Control": "no-store",
	}
	for path, status := range map[string]int{
		"/": 200, "/sign-in": 303, "/absent": 404, "/dead-letters/1/replay": 405, "/livez": 200, "/static/x": 200, "//": 307,
	} {
		got := b.get(path)
		if got.Code != status {
			t.Errorf("%s: %d, want %d", path, got.Code, status)
		}
		for name, value := range want {
			if path == "/static/x" && name == "Cache-Control" {
				value = "public, max-age=31536000, immutable"
			}
			if got.Header().Get(name) != value {
				t.Errorf("%s: %s: %q", path, name, got.Header().Get(name))
			}
		}
		if !strings.Contains(got.Header().Get("Permissions-Policy"), "camera=()") {
			t.Errorf("%s: Permissions-Policy: %q", path, got.Header().Get("Permissions-Policy"))
		}
	}
	if got := b.get("/dead-letters/1/replay"); got.Header().Get("Allow") != "POST" {
		t.Errorf("Allow: %q", got.Header().Get("Allow"))
	}
	local, err := New(Config{Listen: "127.0.0.1:8080"})
	if err != nil {
		t.Fatal(err)
	}
	if got := newBrowser(t, local, "http://127.0.0.1:8080").get("/"); got.Header().Get("Strict-Transport-Security") != "" {
		t.Error("HSTS without TLS")
	}
}

// New refuses an unsafe configuration.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	u, local := mustURL(t, home), mustURL(t, "http://localhost:8080")
	people := accounts()
	provider := &Provider{Issuer: "https://id.example.com", ClientID: "certpost", RoleClaim: "groups"}
	for name, test := range map[string]struct {
		cfg  Config
		want string // "" is fine
	}{
		"loopback":                  {Config{Listen: "127.0.0.1:8080"}, ""},
		"loopback by name":          {Config{Listen: "localhost:0"}, ""},
		"loopback of IPv6":          {Config{Listen: "[::1]:8080"}, ""},
		"loopback with its address": {Config{Listen: "127.0.0.1:8080", URL: local}, ""},
		"everywhere":                {Config{Listen: ":8080"}, "TLS"},
		"everywhere of IPv6":        {Config{Listen: "[::]:8080"}, "TLS"},
		"a host":                    {Config{Listen: "certpost.example.com:8080", URL: u, Accounts: people}, "TLS"},
		"TLS alone":                 {Config{Listen: ":443", TLS: true}, "address"},
		"TLS and address":           {Config{Listen: ":443", TLS: true, URL: u}, "sign-in"},
		"all of it":                 {Config{Listen: ":443", TLS: true, URL: u, Accounts: people}, ""},
		"behind a proxy, open":      {Config{Listen: "127.0.0.1:8080", URL: u}, "sign-in"},
		"behind a proxy":            {Config{Listen: "127.0.0.1:8080", URL: u, Provider: provider}, ""},
		"provider, no way back":     {Config{Listen: "127.0.0.1:8080", Provider: provider}, "address"},
		"provider in the clear":     {Config{Listen: "127.0.0.1:8080", URL: u, Provider: &Provider{Issuer: "http://id.example.com", ClientID: "x", RoleClaim: "x"}}, "https"},
		"provider without client":   {Config{Listen: "127.0.0.1:8080", URL: u, Provider: &Provider{Issuer: "https://id.example.com"}}, "client id"},
	} {
		_, err := New(test.cfg)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// DNS rebinding: a name that its owner points at the dashboard after a page is loaded.
func TestHosts(t *testing.T) {
	t.Parallel()
	local, err := New(Config{Listen: "127.0.0.1:8080", URL: mustURL(t, "http://localhost:8080")})
	if err != nil {
		t.Fatal(err)
	}
	network := door(t, nil)
	for _, a := range []*Access{local, network} {
		if a == local {
			a.Handle("GET /{$}", Viewer, func(http.ResponseWriter, *http.Request, Visit) {})
			a.HandleProbe("GET /livez", Anyone, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		}
		b := newBrowser(t, a, "http://localhost:8080")
		for host, answered := range map[string]bool{
			"localhost": true, "localhost:8080": true, "LOCALHOST:8080": true, "localhost.": true, "127.0.0.1:9": true, "[::1]:8080": true,
			"certpost.example.com": a == network, "CertPost.example.com:443": a == network, "certpost.example.com.": a == network,
			"evil.example": false, "evil.example:8080": false, "127.0.0.1.evil.example": false, "localhost.evil.example": false,
			"": false, "127.0.0.2": false, "10.0.0.1": false, "certpost.example.com.evil.example": false, "localhost:8080:80": false, "localhost@evil.example": false,
		} {
			for _, path := range []string{"/", "/absent"} {
				got := b.send(t.Context(), "GET", path, nil, map[string]string{"Host": host})
				if (got.Code != http.StatusMisdirectedRequest) != answered {
					t.Errorf("Host %q: %s: %d", host, path, got.Code)
				}
				if !answered && len(got.Result().Cookies()) > 0 {
					t.Errorf("Host %q gets cookies", host)
				}
			}
			if got := b.send(t.Context(), "GET", "/livez", nil, map[string]string{"Host": host}); got.Code != http.StatusOK {
				t.Errorf("Host %q: /livez: %d", host, got.Code)
			}
		}
	}
}

// Fault: requests from other sites. Result: refused.
func TestCrossSiteRequests(t *testing.T) {
	t.Parallel()
	a := door(t, nil)
	b := as(t, a, "operator")
	token := b.get("/").token()
	other := as(t, a, "operator").get("/").token()
	const path = "/dead-letters/7/replay"
	for name, test := range map[string]struct {
		header map[string]string
		token  string
		want   int
	}{
		"from our page":                   {nil, token, 200},
		"by script":                       {map[string]string{"Sec-Fetch-Mode": "cors"}, token, 200},
		"another token of the session":    {nil, b.get("/").token(), 200},
		"an old browser, by its origin":   {map[string]string{"Sec-Fetch-Site": "", "Origin": home}, token, 200},
		"another site":                    {map[string]string{"Sec-Fetch-Site": "cross-site"}, token, 403},
		"another name of the same domain": {map[string]string{"Sec-Fetch-Site": "same-site"}, token, 403},
		"typed into the address bar":      {map[string]string{"Sec-Fetch-Site": "none"}, token, 403},
		"nonsense":                        {map[string]string{"Sec-Fetch-Site": "same-origin, cross-site"}, token, 403},
		"our origin from another site":    {map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": home}, token, 403},
		"neither header":                  {map[string]string{"Sec-Fetch-Site": "", "Origin": ""}, token, 403},
		"null":                            {map[string]string{"Sec-Fetch-Site": "", "Origin": "null"}, token, 403},
		"another origin":                  {map[string]string{"Sec-Fetch-Site": "", "Origin": "https://evil.example"}, token, 403},
		"our host at another port":        {map[string]string{"Sec-Fetch-Site": "", "Origin": home + ":8443"}, token, 403},
		"no token":                        {nil, "", 403},
		"another session's token":         {nil, other, 403},
		"a token cut short":               {nil, token[:len(token)-4], 403},
		"a token changed":                 {nil, "AAAA" + token[4:], 403},
		"JSON":                            {map[string]string{"Content-Type": "application/json"}, token, 415},
		"plain text":                      {map[string]string{"Content-Type": "text/plain"}, token, 415},
		"multipart":                       {map[string]string{"Content-Type": "multipart/form-data; boundary=x"}, token, 415},
		"no type":                         {map[string]string{"Content-Type": ""}, token, 415},
	} {
		got := b.send(t.Context(), "POST", path, url.Values{TokenField: {test.token}}, test.header)
		if got.Code != test.want || (got.Header().Get("X-Role") != "") != (test.want == 200) {
			t.Errorf("%s: %d %s, want %d", name, got.Code, got.body, test.want)
		}
	}
	// A token in the URL is ignored: URLs end up in histories and logs.
	if got := b.send(t.Context(), "POST", path+"?token="+token, url.Values{}, nil); got.Code != http.StatusForbidden {
		t.Errorf("a token in the address: %d", got.Code)
	}
	if got := b.send(t.Context(), "POST", path, url.Values{TokenField: {token}, "x": {strings.Repeat("x", maxBody)}}, nil); got.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a large form: %d", got.Code)
	}
	if first, second := b.get("/").token(), b.get("/").token(); first == second {
		t.Error("the token looks the same on every page")
	}

	// Pages of other sites may link here, but must not embed the dashboard's pages.
	for mode, want := range map[string]int{"navigate": 200, "no-cors": 403, "cors": 403} {
		for _, path := range []string{"/", "/events"} {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // otherwise the stream would not end
			got := b.send(ctx, "GET", path, nil, map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode})
			if got.Code != want {
				t.Errorf("GET %s by another site, %s: %d", path, mode, got.Code)
			}
		}
	}
}

// A link from another site works, although the browser sends no session cookie at first.
func TestLinksFromElsewhere(t *testing.T) {
	t.Parallel()
	a := door(t, nil)
	b := as(t, a, "viewer")
	number := b.cookie("__Host-certpost-session")
	got := b.send(t.Context(), "GET", `/dead-letters/7?q="><script>&x=1`, nil, map[string]string{"Sec-Fetch-Site": "cross-site"})
	if got.Code != http.StatusOK || !strings.Contains(got.body, `http-equiv="refresh" content="0;url=/dead-letters/7?q=`) || strings.Contains(got.body, "<script>") {
		t.Errorf("%d %s", got.Code, got.body)
	}
	if len(got.Result().Cookies()) > 0 || b.cookie("__Host-certpost-session") != number {
		t.Error("the session's cookie was replaced")
	}
	if got := b.get("/dead-letters/7"); got.Code != http.StatusOK || got.Header().Get("X-Name") != "viewer" {
		t.Errorf("the second time: %d", got.Code)
	}
}

// Without sign-in every user of this machine is the administrator, and pages of other
// sites have no access.
func TestLocal(t *testing.T) {
	t.Parallel()
	a := door(t, func(c *Config) { *c = Config{Listen: "127.0.0.1:8080", Local: "ada@host"} })
	b := newBrowser(t, a, "http://127.0.0.1:8080")
	got := b.get("/")
	if got.Code != http.StatusOK || got.Header().Get("X-Role") != "admin" || got.Header().Get("X-Name") != "ada@host" {
		t.Fatalf("%d %v", got.Code, got.Header())
	}
	if c := b.jar["certpost-visitor"]; c == nil || !c.HttpOnly || c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" {
		t.Errorf("cookie: %+v", c)
	}
	const edit = "/dead-letters/7/edit"
	if got := b.post(edit, "/", nil); got.Code != http.StatusOK {
		t.Errorf("editing: %d %s", got.Code, got.body)
	}
	token := b.get("/").token()
	if got := newBrowser(t, a, "http://127.0.0.1:8080").send(t.Context(), "POST", edit, url.Values{TokenField: {token}}, nil); got.Code != http.StatusForbidden {
		t.Errorf("another browser's token: %d", got.Code)
	}
	for _, site := range []string{"cross-site", "same-site", "none"} {
		if got := b.send(t.Context(), "POST", edit, url.Values{TokenField: {token}}, map[string]string{"Sec-Fetch-Site": site}); got.Code != http.StatusForbidden {
			t.Errorf("%s: %d", site, got.Code)
		}
	}
	for _, name := range forwarded {
		if got := b.send(t.Context(), "GET", "/", nil, map[string]string{name: "198.51.100.1"}); got.Code != http.StatusForbidden {
			t.Errorf("%s: %d", name, got.Code)
		}
	}
	if got := b.get("/sign-in"); got.Code != http.StatusNotFound {
		t.Errorf("/sign-in: %d", got.Code)
	}
	// A forged cookie is replaced; without the process's secret there is no token for it.
	b.jar["certpost-visitor"].Value = "chosen-by-somebody"
	if got := b.get("/"); got.Code != http.StatusOK || b.jar["certpost-visitor"].Value == "chosen-by-somebody" {
		t.Errorf("a forged cookie was kept: %d", got.Code)
	}
}

// No user is recorded under another user's name.
func TestRecorded(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, test := range []struct{ name, subject, want string }{
		{"ada", "user:ada", "ada"},
		{"ada", "https://id.example.com#17", "ada (17)"},
		{"ada", "https://id.example.com#ada", "ada (ada)"}, // the name equals the sub, and users can choose it
		{"a#b", "user:a#b", "a#b"},
		{"eve", "https://id.example.com#x\u202e\r\n#y", "eve (x???#y)"},
		{"ada@host", "local", "ada@host"},
	} {
		got := User{Name: test.name, Subject: test.subject}.Recorded()
		if got != test.want || seen[got] != "" {
			t.Errorf("%s as %s is recorded as %q, want %q", test.subject, test.name, got, test.want)
		}
		seen[got] = test.subject
	}
}

func TestClientAddress(t *testing.T) {
	t.Parallel()
	a := door(t, func(c *Config) {
		c.Proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	})
	for _, test := range []struct{ remote, forwarded, want string }{
		{"198.51.100.7:1", "", "198.51.100.7"},
		{"198.51.100.7:1", "203.0.113.1", "198.51.100.7"}, // not a configured proxy
		{"10.0.0.1:1", "", "10.0.0.1"},
		{"10.0.0.1:1", "203.0.113.1", "203.0.113.1"},
		{"[::1]:1", "203.0.113.1", "203.0.113.1"},
		{"[::ffff:10.0.0.1]:1", "203.0.113.1", "203.0.113.1"},
		{"10.0.0.1:1", "192.0.2.9, 203.0.113.1, 10.2.2.2", "203.0.113.1"}, // the client invented the first
		{"10.0.0.1:1", "192.0.2.9, nonsense, 10.2.2.2", "10.2.2.2"},
		{"10.0.0.1:1", "2001:db8::1", "2001:db8::1"},
		{"[fe80::1%eth0]:1", "", "fe80::1"},
		{"10.0.0.1:1", "10.1.1.1", "10.1.1.1"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = test.remote
		r.Header.Set("X-Forwarded-For", test.forwarded)
		if got := a.clientAddress(r); got != test.want {
			t.Errorf("%s for %q: %s, want %s", test.remote, test.forwarded, got, test.want)
		}
	}
}

// Error pages of the mux are replaced, and the new ones quote nothing from the request.
func TestRefusedShowsNothing(t *testing.T) {
	t.Parallel()
	a := door(t, nil)
	for _, path := range []string{"/absent/%3Cscript%3E", "/absent?x=%3Cscript%3E"} {
		got := newBrowser(t, a, home).get(path)
		if got.Code != http.StatusNotFound || strings.Contains(got.body, "script") || !strings.HasPrefix(got.body, "<!DOCTYPE html>") {
			t.Errorf("%s: %d %s", path, got.Code, got.body)
		}
	}
}

// Programs get problem details from every address below /v1/, under any Host header, not a page.
func TestAddressesForPrograms(t *testing.T) {
	t.Parallel()
	a := door(t, nil)
	a.HandleAPI("POST /v1/events", 100, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	a.HandleAPI("GET /v1/events", 0, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	a.HandleAPI("GET /v1/defect", 0, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("canary") }))
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{http.MethodPut, "/v1/events", http.StatusMethodNotAllowed, "GET, HEAD, POST"},
		{http.MethodDelete, "/v1/events", http.StatusMethodNotAllowed, "GET, HEAD, POST"},
		{"CANARY", "/v1/events", http.StatusMethodNotAllowed, "GET, HEAD, POST"},
		{http.MethodPost, "/v1/defect", http.StatusMethodNotAllowed, "GET, HEAD"},
		{http.MethodGet, "/v1/defect", http.StatusInternalServerError, ""},
		{http.MethodGet, "/v1/canary", http.StatusNotFound, ""},
		{http.MethodPost, "/v1/event", http.StatusNotFound, ""},
		{http.MethodPost, "/v1/events/", http.StatusNotFound, ""},
		{http.MethodPost, "//v1/events", http.StatusNotFound, ""},
		{http.MethodPost, "/v1//events", http.StatusNotFound, ""},
		{http.MethodPost, "/canary/../v1/events", http.StatusNotFound, ""},
		{http.MethodGet, "/v1/", http.StatusNotFound, ""},
		{http.MethodGet, "/v1", http.StatusNotFound, ""},
	} {
		r := httptest.NewRequest(c.method, "/", nil)
		r.URL = &url.URL{Path: c.path}
		r.Host = "anything.example"
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		var body struct {
			Type, Title, Detail string
			Status              int
		}
		err := json.Unmarshal(w.Body.Bytes(), &body)
		if w.Code != c.status || w.Header().Get("Content-Type") != "application/problem+json" || w.Header().Get("Allow") != c.allow || err != nil ||
			body.Type != "about:blank" || body.Status != c.status || body.Title != http.StatusText(c.status) || body.Detail == "" || strings.Contains(strings.ToLower(w.Body.String()), "canary") {
			t.Errorf("%s %s: %d %v %s", c.method, c.path, w.Code, w.Header(), w.Body)
		}
	}
}
