package access

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// atProvider is a door where users sign in only at p, with its log and its events.
func atProvider(t testing.TB, p *idp, change func(*Provider)) (*Access, *bytes.Buffer, *[]Event) {
	t.Helper()
	var log bytes.Buffer
	var events []Event
	a := door(t, func(c *Config) {
		c.Accounts, c.Provider, c.Log = nil, p.provider(), zerolog.New(&log)
		c.Record = func(_ context.Context, e Event) { events = append(events, e) }
		if change != nil {
			change(c.Provider)
		}
	})
	return a, &log, &events
}

func TestProvider(t *testing.T) {
	t.Parallel()
	p := newIDP(t)
	a, _, events := atProvider(t, p, nil)
	b := newBrowser(t, a, home)
	if got := b.get("/sign-in?return=/dead-letters/7"); !strings.Contains(got.body, `<a href="/sign-in/provider?return=%2Fdead-letters%2F7">Sign in with Example SSO</a>`) || strings.Contains(got.body, "<form") {
		t.Errorf("%s", got.body)
	}
	got := p.signInAt(b, nil)
	if got.Code != http.StatusOK || !strings.Contains(got.body, `content="0;url=/dead-letters/7"`) {
		t.Fatalf("%d %s", got.Code, got.body)
	}
	for name, want := range map[string]string{"client_id": "certpost", "response_type": "code", "scope": "openid profile email", "redirect_uri": home + "/sign-in/callback", "code_challenge_method": "S256"} {
		if p.asked.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, p.asked.Get(name), want)
		}
	}
	if len(p.asked.Get("state")) != 43 || len(p.asked.Get("nonce")) != 43 || p.asked.Get("state") == p.asked.Get("nonce") {
		t.Errorf("state %q, nonce %q", p.asked.Get("state"), p.asked.Get("nonce"))
	}
	if c := b.jar["__Host-certpost-session"]; c == nil || c.SameSite != http.SameSiteStrictMode {
		t.Errorf("cookie: %+v", c)
	}
	if b.cookie("__Host-certpost-sign-in") != "" {
		t.Error("the cookie of the sign-in is still there")
	}
	page := b.get("/dead-letters/7")
	if page.Code != http.StatusOK || page.Header().Get("X-Name") != "ada" || page.Header().Get("X-Role") != "operator" {
		t.Errorf("%d %v", page.Code, page.Header())
	}
	if e := (*events)[0]; len(*events) != 1 || e.Kind != SignedIn || e.Way != byProvider || e.User.Subject != p.server.URL+"#248289761001" || e.User.Recorded() != "ada (248289761001)" {
		t.Errorf("%+v", *events)
	}
	if got := b.post("/dead-letters/7/replay", "/", nil); got.Code != http.StatusOK {
		t.Errorf("replaying: %d", got.Code)
	}
	if got := b.post("/dead-letters/7/edit", "/", nil); got.Code != http.StatusForbidden {
		t.Errorf("editing: %d", got.Code)
	}

	// The session keeps the claim's values, and ends when changed roles map them to another role.
	if ended := a.Renew(nil, Roles{Operator: {"ops"}}); ended != 0 || b.get("/").Code != http.StatusOK {
		t.Errorf("the same role, and %d sessions ended", ended)
	}
	if ended := a.Renew(nil, Roles{Viewer: {"ops"}}); ended != 1 || b.get("/").Code != http.StatusSeeOther {
		t.Errorf("another role, and %d sessions ended", ended)
	}
	a.Renew(nil, p.provider().Roles)

	// A new sign-in ends the previous session, although its cookie is not sent with the
	// callback; after signing out there is a link to sign out at the provider.
	p.signInAt(b, nil)
	before := b.cookie("__Host-certpost-session")
	p.signInAt(b, nil)
	if number := b.cookie("__Host-certpost-session"); number == before || len(a.sessions.byKey) != 1 {
		t.Errorf("%d sessions", len(a.sessions.byKey))
	}
	if got := b.post("/sign-out", "/", nil); got.Code != http.StatusSeeOther {
		t.Fatal(got.Code)
	}
	want := p.server.URL + "/logout?client_id=certpost&amp;x=1"
	if got := b.get("/sign-in?signed-out"); !strings.Contains(got.body, want) {
		t.Errorf("%s\nis not in\n%s", want, got.body)
	}
}

func TestRolesFromClaims(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		claim  string
		claims map[string]any
		info   map[string]any
		role   string // "" is none
	}{
		"a list":                  {"groups", nil, nil, "operator"},
		"the highest":             {"groups", map[string]any{"groups": []string{"root", "staff"}}, nil, "admin"},
		"a text":                  {"role", map[string]any{"role": "staff"}, nil, "viewer"},
		"below":                   {"realm_access.roles", map[string]any{"realm_access": map[string]any{"roles": []any{"x", 7, "ops"}}}, nil, "operator"},
		"below, with dots":        {"https://example.com/x.roles", map[string]any{"https://example.com/x": map[string]any{"roles": "ops"}}, nil, "operator"},
		"a URL":                   {"https://example.com/roles", map[string]any{"https://example.com/roles": []string{"ops"}}, nil, "operator"},
		"at the userinfo":         {"teams", nil, map[string]any{"sub": "248289761001", "teams": []string{"ops"}}, "operator"},
		"the token goes first":    {"groups", nil, map[string]any{"sub": "248289761001", "groups": []string{"root"}}, "operator"},
		"somebody else's":         {"teams", nil, map[string]any{"sub": "other", "teams": []string{"root"}}, ""},
		"none":                    {"teams", nil, nil, ""},
		"others":                  {"groups", map[string]any{"groups": []string{"Staff", "ops ", ""}}, nil, ""},
		"a number":                {"groups", map[string]any{"groups": 7}, nil, ""},
		"a mapping":               {"groups", map[string]any{"groups": map[string]any{"ops": true}}, nil, ""},
		"an address, verified":    {"email", map[string]any{"email": "staff", "email_verified": true}, nil, "viewer"},
		"an address":              {"email", map[string]any{"email": "staff"}, nil, ""},
		"an address, unverified":  {"email", map[string]any{"email": "staff", "email_verified": false}, nil, ""},
		"an address, by its word": {"email", map[string]any{"email": "staff", "email_verified": "true"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newIDP(t)
			p.userInfo = test.info
			p.claims = func(c map[string]any) {
				for name, value := range test.claims {
					c[name] = value
				}
				c["canary_claim"] = "canary-value"
			}
			a, _, events := atProvider(t, p, func(c *Provider) { c.RoleClaim = test.claim })
			b := newBrowser(t, a, home)
			got := p.signInAt(b, nil)
			if role := b.get("/").Header().Get("X-Role"); role != test.role {
				t.Errorf("role %q, want %q: %d %s", role, test.role, got.Code, got.body)
			}
			if test.role != "" {
				return
			}
			if got.Code != http.StatusForbidden || !strings.Contains(got.body, "canary_claim") || strings.Contains(got.body, "canary-value") || strings.Contains(got.body, "248289761001") {
				t.Errorf("the names of the claims, and no values: %d %s", got.Code, got.body)
			}
			if len(*events) != 1 || (*events)[0].Kind != SignInFailed || (*events)[0].User.Name != "ada" {
				t.Errorf("%+v", *events)
			}
		})
	}
}

// A provider that is down does not prevent the start, and is asked again later.
func TestProviderAway(t *testing.T) {
	t.Parallel()
	p := newIDP(t)
	p.set(func() { p.away = true })
	a, log, _ := atProvider(t, p, nil)
	b := newBrowser(t, a, home)
	for range 3 {
		if got := b.get("/sign-in/provider"); got.Code != http.StatusBadGateway || !strings.Contains(got.body, "cannot be reached") || strings.Contains(got.body+log.String(), "canary") {
			t.Fatalf("%d %s\n%s", got.Code, got.body, log)
		}
	}
	if err := p.provider().Check(t.Context()); err == nil || strings.Contains(err.Error(), "canary") || !strings.HasPrefix(err.Error(), p.server.URL+": ") {
		t.Errorf("check: %v", err)
	}
	p.set(func() { p.away = false })
	a.provider.asking.Lock()
	a.provider.tried = time.Now().Add(-retryAfter)
	a.provider.asking.Unlock()
	if got := p.signInAt(b, nil); got.Code != http.StatusOK {
		t.Fatalf("%d %s", got.Code, got.body)
	}
	if err := p.provider().Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	// While it is down an expired discovery document stays in use.
	p.set(func() { p.away = true })
	a.provider.mu.Lock()
	a.provider.known.asked = time.Now().Add(-2 * metadataAge)
	a.provider.mu.Unlock()
	if got := p.signInAt(newBrowser(t, a, home), nil); got.Code != http.StatusOK {
		t.Errorf("%d %s", got.Code, got.body)
	}
}

// If a provider answers late or not at all, the waiting requests do not each ask it again,
// one after the other.
func TestProviderHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		p, err := newProvider(Provider{Issuer: "https://id.example.com", ClientID: "x", RoleClaim: "x", Client: NewProviderClient(roundTripper(func(r *http.Request) (*http.Response, error) {
			asked++
			<-r.Context().Done()
			return nil, r.Context().Err()
		}))}, &url.URL{}, [32]byte{})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if _, err := p.discover(t.Context()); err == nil {
				t.Fatal("it has answered")
			}
		}
		if asked != 1 {
			t.Errorf("it was asked %d times", asked)
		}
		time.Sleep(retryAfter)
		if _, err := p.discover(t.Context()); err == nil || asked != 2 {
			t.Errorf("later it was asked %d times: %v", asked, err)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestDiscovery(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		said func(map[string]any)
		want string
	}{
		"another name":         {func(d map[string]any) { d["issuer"] = "https://evil.example" }, `its issuer is "https://evil.example"`},
		"a slash more":         {func(d map[string]any) { d["issuer"] = d["issuer"].(string) + "/" }, "slash included"},
		"sign-in by script":    {func(d map[string]any) { d["authorization_endpoint"] = "javascript:alert(1)" }, "authorization_endpoint"},
		"sign-in in the clear": {func(d map[string]any) { d["authorization_endpoint"] = "http://id.example.com/auth" }, "https"},
		"tokens in the clear":  {func(d map[string]any) { d["token_endpoint"] = "http://id.example.com/token" }, "https"},
		"keys in the clear":    {func(d map[string]any) { d["jwks_uri"] = "http://id.example.com/keys" }, "jwks_uri"},
		"no token endpoint":    {func(d map[string]any) { delete(d, "token_endpoint") }, "token_endpoint"},
		"too much":             {func(d map[string]any) { d["x"] = strings.Repeat("canary", 1<<18) }, "not an OpenID Connect provider"},
	} {
		p := newIDP(t)
		p.set(func() { p.discovery = test.said })
		if err := p.provider().Check(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	if err := (Provider{Issuer: gone.URL, ClientID: "x", RoleClaim: "x"}).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("gone: %v", err)
	}
}

// The client secret is sent only to the provider's token endpoint.
func TestSecretOfTheClient(t *testing.T) {
	t.Parallel()
	var seen []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, string(body)+r.Header.Get("Authorization"))
	}))
	t.Cleanup(elsewhere.Close)
	p := newIDP(t)
	p.set(func() {
		p.token = func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}
	})
	a, _, _ := atProvider(t, p, nil)
	if got := p.signInAt(newBrowser(t, a, home), nil); got.Code != http.StatusUnauthorized || len(seen) > 0 {
		t.Errorf("%d, and elsewhere got %q", got.Code, seen)
	}

	// If the provider requires it in the form, it is sent there; a public client has none.
	p = newIDP(t)
	p.set(func() {
		p.discovery = func(d map[string]any) { d["token_endpoint_auth_methods_supported"] = []string{"client_secret_post"} }
		p.token = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "{}", http.StatusBadRequest) }
	})
	a, _, _ = atProvider(t, p, nil)
	p.signInAt(newBrowser(t, a, home), nil)
	a, _, _ = atProvider(t, p, func(c *Provider) { c.ClientSecret = nil })
	p.signInAt(newBrowser(t, a, home), nil)
	if len(p.forms) != 2 || p.forms[0].Get("client_secret") != clientSecret || p.forms[1].Has("client_secret") || p.forms[1].Get("client_id") != "certpost" || p.header.Get("Authorization") != "" {
		t.Errorf("%v", p.forms)
	}

	p = newIDP(t)
	a, log, _ := atProvider(t, p, func(c *Provider) {
		c.ClientSecret = func(context.Context) (string, error) { return "", errors.New("vault is sealed") }
	})
	if got := p.signInAt(newBrowser(t, a, home), nil); !strings.Contains(got.body, "cannot ask the provider") || !strings.Contains(log.String(), "vault is sealed") || len(p.forms) > 0 {
		t.Errorf("%s %s", got.body, log)
	}
}
