package access

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// person is a user who signs in on the pages of a real provider.
type person struct {
	t    *testing.T
	http *http.Client
}

func newPerson(t *testing.T) *person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &person{t, &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), home) {
			return http.ErrUseLastResponse // the test's browser follows it
		}
		return nil
	}}}
}

var formAction = regexp.MustCompile(`<form[^>]*action="([^"]*)"`)

// signIn follows Certpost's link and fills in the provider's form; it returns the path of
// the redirect back.
func (p *person) signIn(link, email, password string) string {
	p.t.Helper()
	resp, err := p.http.Get(link)
	if err != nil {
		p.t.Fatal(err)
	}
	page := p.read(resp)
	if back := resp.Header.Get("Location"); back != "" {
		return back // already signed in there
	}
	action := formAction.FindStringSubmatch(page)
	if action == nil {
		p.t.Fatalf("%d: no form in\n%s", resp.StatusCode, page)
	}
	to, err := resp.Request.URL.Parse(strings.ReplaceAll(action[1], "&amp;", "&"))
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err = p.http.PostForm(to.String(), url.Values{"login": {email}, "password": {password}})
	if err != nil {
		p.t.Fatal(err)
	}
	page = p.read(resp)
	back := resp.Header.Get("Location")
	if !strings.HasPrefix(back, home+"/sign-in/callback?") {
		p.t.Fatalf("%d to %q\n%s", resp.StatusCode, back, page)
	}
	return strings.TrimPrefix(back, home)
}

func (p *person) read(resp *http.Response) string {
	p.t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(body)
}

// TestDex signs users in at a real provider.
func TestDex(t *testing.T) {
	t.Parallel()
	dex := lab.Dex(t, lab.DexClient{
		ID: "certpost", Secret: clientSecret, Redirects: []string{home + "/sign-in/callback"}, AfterSignOut: []string{home + "/sign-in"},
	},
		lab.DexUser{ID: "1", Email: "ada@example.com", Name: "ada", Password: "canary-password", Groups: []string{"staff", "certificates"}},
		lab.DexUser{ID: "2", Email: "grace@example.com", Name: "grace", Password: "canary-password", Groups: []string{"staff"}},
		lab.DexUser{ID: "3", Email: "eve@example.com", Name: "eve", Password: "canary-password", Groups: []string{"visitors"}},
	)
	p := newIDP(t).provider()
	p.Issuer, p.Scopes = dex.Issuer, []string{"profile", "email", "groups"}
	p.Roles = Roles{Viewer: {"staff"}, Operator: {"certificates"}}
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := door(t, func(c *Config) { c.Provider = p }) // beside accounts
	for name, want := range map[string]struct {
		status int
		role   string
	}{"ada": {200, "operator"}, "grace": {200, "viewer"}, "eve": {403, ""}} {
		b := newBrowser(t, a, home)
		page := b.get("/sign-in")
		if !strings.Contains(page.body, "<form") || !strings.Contains(page.body, "Sign in with Example SSO") {
			t.Fatalf("%s", page.body)
		}
		back := newPerson(t).signIn(b.get("/sign-in/provider?return=/dead-letters/7").location(), name+"@example.com", "canary-password")
		got := b.send(t.Context(), "GET", back, nil, map[string]string{"Sec-Fetch-Site": "cross-site"})
		if got.Code != want.status {
			t.Fatalf("%s: %d %s", name, got.Code, got.body)
		}
		if got := b.get("/"); got.Header().Get("X-Role") != want.role || want.role != "" && got.Header().Get("X-Name") != name {
			t.Errorf("%s is %q with role %q", name, got.Header().Get("X-Name"), got.Header().Get("X-Role"))
		}
		if want.role == "" {
			for _, claim := range []string{"email", "groups", "nonce", "sub"} {
				if !strings.Contains(got.body, claim) {
					t.Errorf("claim %s is not named: %s", claim, got.body)
				}
			}
			if strings.Contains(got.body, "visitors") || strings.Contains(got.body, "eve@example.com") {
				t.Errorf("the values are shown: %s", got.body)
			}
			continue
		}
		b.post("/sign-out", "/", nil)
		out := b.get("/sign-in?signed-out")
		link := regexp.MustCompile(`href="(` + regexp.QuoteMeta(dex.Issuer) + `/[^"]*)"`).FindStringSubmatch(out.body)
		if link == nil {
			t.Fatalf("no way to sign out at the provider: %s", out.body)
		}
		resp, err := newPerson(t).http.Get(strings.ReplaceAll(link[1], "&amp;", "&"))
		if err != nil {
			t.Fatal(err)
		}
		if page := (&person{t: t}).read(resp); resp.StatusCode >= 400 {
			t.Errorf("signing out there: %d %s", resp.StatusCode, page)
		}
	}
	// A code is refused the second time, even from a browser that has the state.
	b := newBrowser(t, a, home)
	back := newPerson(t).signIn(b.get("/sign-in/provider").location(), "ada@example.com", "canary-password")
	stolen := *b.jar["__Host-certpost-sign-in"]
	for _, want := range []int{200, 400} {
		b.jar[stolen.Name] = &stolen
		if got := b.send(t.Context(), "GET", back, nil, map[string]string{"Sec-Fetch-Site": "cross-site"}); got.Code != want {
			t.Errorf("%d, want %d: %s", got.Code, want, got.body)
		}
	}
	// A code from another browser's sign-in, without its verifier.
	back = newPerson(t).signIn(b.get("/sign-in/provider").location(), "ada@example.com", "canary-password")
	victim := newBrowser(t, a, home)
	state := mustURL(t, victim.get("/sign-in/provider").location()).Query().Get("state")
	q := mustURL(t, back).Query()
	q.Set("state", state)
	if got := victim.send(t.Context(), "GET", "/sign-in/callback?"+q.Encode(), nil, map[string]string{"Sec-Fetch-Site": "cross-site"}); got.Code != http.StatusUnauthorized {
		t.Errorf("a planted code: %d %s", got.Code, got.body)
	}

	dex.Stop()
	if got := newBrowser(t, a, home).signIn("viewer"); got.Code != http.StatusSeeOther {
		t.Errorf("without the provider, with a password: %d", got.Code)
	}
}
