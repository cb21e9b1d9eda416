package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// A provider, or an attacker in between, that sends wrong answers: the user is not signed
// in, and nothing that it sent is shown or logged.
func TestHostileProvider(t *testing.T) {
	t.Parallel()
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	claim := func(name string, value any) func(*idp) {
		return func(p *idp) { p.claims = func(c map[string]any) { c[name] = value } }
	}
	without := func(name string) func(*idp) {
		return func(p *idp) { p.claims = func(c map[string]any) { delete(c, name) } }
	}
	answers := func(status int, body string) func(*idp) {
		return func(p *idp) {
			p.token = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			}
		}
	}
	hours := func(n float64) int64 { return time.Now().Add(time.Duration(n * float64(time.Hour))).Unix() }
	for name, test := range map[string]struct {
		is   func(*idp)
		back func(url.Values)
		want string // "" is signed in
	}{
		"good":                      {nil, nil, ""},
		"its clock is a bit behind": {claim("exp", time.Now().Add(-30*time.Second).Unix()), nil, ""},
		"its clock is a bit ahead":  {claim("nbf", time.Now().Add(2*time.Minute).Unix()), nil, ""},
		"for several clients": {func(p *idp) {
			p.claims = func(c map[string]any) { c["aud"] = []string{"certpost", "other"}; c["azp"] = "certpost" }
		}, nil, ""},
		"no at_hash":       {without("at_hash"), nil, ""},
		"says who answers": {nil, func(v url.Values) { v.Set("iss", "ITSELF") }, ""},
		"another nonce":    {claim("nonce", "AAAA"), nil, "token is invalid"},
		"no nonce":         {without("nonce"), nil, "token is invalid"},
		"another audience": {claim("aud", "other"), nil, "token is invalid"},
		"no audience":      {without("aud"), nil, "token is invalid"},
		"made for another client": {func(p *idp) {
			p.claims = func(c map[string]any) { c["aud"] = []string{"certpost", "other"}; c["azp"] = "other" }
		}, nil, "token is invalid"},
		"made for nobody in particular": {claim("aud", []string{"certpost", "other"}), nil, "token is invalid"},
		"expired":                       {claim("exp", hours(-0.1)), nil, "token is invalid"},
		"no end":                        {without("exp"), nil, "token is invalid"},
		"not yet valid":                 {claim("nbf", hours(1)), nil, "token is invalid"},
		"another issuer":                {claim("iss", "https://evil.example"), nil, "token is invalid"},
		"no sub":                        {claim("sub", ""), nil, "token is invalid"},
		"a long sub":                    {claim("sub", strings.Repeat("x", 300)), nil, "token is invalid"},
		"another access token":          {claim("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), nil, "token is invalid"},
		"alg none": {func(p *idp) {
			p.sign = func(h, c map[string]any) string { h["alg"] = "none"; return unsigned(h, c) + "." }
		}, nil, "token is invalid"},
		"HS256 with our secret": {func(p *idp) {
			p.sign = func(h, c map[string]any) string {
				h["alg"] = "HS256"
				text := unsigned(h, c)
				mac := hmac.New(sha256.New, []byte(clientSecret))
				mac.Write([]byte(text))
				return text + "." + b64(mac.Sum(nil))
			}
		}, nil, "token is invalid"},
		"signed by a stranger": {func(p *idp) { p.sign = es256(stranger) }, nil, "token is invalid"},
		"signed over other claims": {func(p *idp) {
			p.sign = func(h, c map[string]any) string {
				_, rest, _ := strings.Cut(es256(p.key)(h, c), ".")
				_, signature, _ := strings.Cut(rest, ".")
				c["groups"] = []string{"root"}
				return unsigned(h, c) + "." + signature
			}
		}, nil, "token is invalid"},
		"no JWT":                      {func(p *idp) { p.sign = func(_, _ map[string]any) string { return "canary-no-jwt" } }, nil, "token is invalid"},
		"no ID token":                 {answers(200, `{"access_token":"canary-access-token","token_type":"Bearer"}`), nil, "sent no usable ID token"},
		"an ID token of another kind": {answers(200, `{"access_token":"canary-access-token","token_type":"Bearer","id_token":{"canary":1}}`), nil, "sent no usable ID token"},
		"the code is refused":         {answers(400, `{"error":"invalid_grant","error_description":"canary-description"}`), nil, "did not accept the code"},
		"it fails":                    {answers(500, `canary-page`), nil, "did not accept the code"},
		"nonsense":                    {answers(200, `canary{`), nil, "did not accept the code"},
		"endless":                     {answers(200, `{"id_token":"`+strings.Repeat("canary", 1<<18)+`"}`), nil, "did not accept the code"},
		"no code":                     {nil, func(v url.Values) { v.Del("code") }, "sent no authorization code"},
		"it says no":                  {nil, func(v url.Values) { v.Set("error", "access_denied"); v.Set("error_description", "canary-description") }, "(access_denied)"},
		"it says no, with markup":     {nil, func(v url.Values) { v.Set("error", "<canary>") }, "did not sign you in ()"},
		"another provider":            {nil, func(v url.Values) { v.Set("iss", "https://evil.example/canary") }, "does not name the configured provider"},
		"it must say who answers": {func(p *idp) {
			p.discovery = func(d map[string]any) { d["authorization_response_iss_parameter_supported"] = true }
		}, nil, "does not name the configured provider"},
		"another state": {nil, func(v url.Values) { v.Set("state", randomText()) }, "not started in this browser"},
		"no state":      {nil, func(v url.Values) { v.Del("state") }, "not started in this browser"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newIDP(t)
			if test.is != nil {
				p.set(func() { test.is(p) })
			}
			a, log, events := atProvider(t, p, nil)
			b := newBrowser(t, a, home)
			got := p.signInAt(b, func(v url.Values) {
				if test.back != nil {
					test.back(v)
				}
				if v.Get("iss") == "ITSELF" {
					v.Set("iss", p.server.URL)
				}
			})
			signedIn := b.get("/").Code == http.StatusOK
			if signedIn != (test.want == "") || !strings.Contains(got.body, test.want) || test.want != "" && got.Code < 400 {
				t.Errorf("signed in: %v; %d %s", signedIn, got.Code, got.body)
			}
			// What anyone can cause without starting a sign-in is not recorded.
			recorded := map[bool]int{true: 0, false: 1}[strings.HasPrefix(test.want, "not started")]
			if len(*events) != recorded || test.want != "" && recorded == 1 && (*events)[0].Kind != SignInFailed {
				t.Errorf("%+v", *events)
			}
			for _, where := range []string{got.body, log.String()} {
				if strings.Contains(where, "canary") {
					t.Errorf("content of the provider is in\n%s", where)
				}
			}
		})
	}
}

// An attacker who has a code and the browser's state cannot sign in a second time, even if
// the provider would allow it.
func TestReplay(t *testing.T) {
	t.Parallel()
	p := newIDP(t)
	a, _, _ := atProvider(t, p, nil)
	b := newBrowser(t, a, home)
	got := b.get("/sign-in/provider")
	p.set(func() { p.asked = mustURL(t, got.location()).Query() })
	stolen := b.jar["__Host-certpost-sign-in"]
	if stolen == nil || stolen.SameSite != http.SameSiteLaxMode || !stolen.HttpOnly || !stolen.Secure || stolen.MaxAge != 600 {
		t.Fatalf("cookie: %+v", stolen)
	}
	for _, secret := range []string{p.asked.Get("state"), p.asked.Get("nonce")} {
		if strings.Contains(stolen.Value, secret) {
			t.Error("the cookie can be read")
		}
	}
	back := "/sign-in/callback?" + url.Values{"state": {p.asked.Get("state")}, "code": {"one"}}.Encode()
	for i, want := range []int{200, 400, 400} {
		other := newBrowser(t, a, home)
		other.jar[stolen.Name] = stolen
		if got := other.send(t.Context(), "GET", back, nil, map[string]string{"Sec-Fetch-Site": "cross-site"}); got.Code != want {
			t.Errorf("time %d: %d %s", i+1, got.Code, got.body)
		}
	}
	if len(p.forms) != 1 {
		t.Errorf("the code was sent %d times", len(p.forms))
	}
	// Without the cookie, with another browser's, or with a changed one.
	other := newBrowser(t, a, home)
	other.get("/sign-in/provider")
	changed := *stolen
	changed.Value = "A" + stolen.Value[1:]
	for name, c := range map[string]*http.Cookie{"none": nil, "another browser's": other.jar[stolen.Name], "a changed one": &changed} {
		victim := newBrowser(t, a, home)
		if c != nil {
			victim.jar[stolen.Name] = c
		}
		if got := victim.send(t.Context(), "GET", back, nil, map[string]string{"Sec-Fetch-Site": "cross-site"}); got.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", name, got.Code)
		}
	}
}

// Invented codes cannot cause many requests to the provider, or fill the audit.
func TestInventedCodes(t *testing.T) {
	t.Parallel()
	p := newIDP(t)
	p.set(func() {
		p.token = func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
		}
	})
	a, _, events := atProvider(t, p, nil)
	b := newBrowser(t, a, home)
	for i := range paceOfAddress.free {
		if got := p.signInAt(b, nil); got.Code != http.StatusUnauthorized {
			t.Fatalf("try %d: %d %s", i+1, got.Code, got.body)
		}
	}
	if got := p.signInAt(b, nil); got.Code != http.StatusTooManyRequests || got.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", got.Code, got.body)
	}
	if len(p.forms) != paceOfAddress.free || len(*events) != paceOfAddress.free {
		t.Errorf("%d codes were tried, %d events recorded", len(p.forms), len(*events))
	}
	// Another user does not have to wait, and successful sign-ins do not count.
	p.set(func() { p.token = nil })
	other := newBrowser(t, a, home)
	other.from = "203.0.113.9:1"
	for range 2 * paceOfAddress.free {
		if got := p.signInAt(other, nil); got.Code != http.StatusOK {
			t.Fatalf("%d %s", got.Code, got.body)
		}
	}
}

// Callbacks without a started sign-in do not fill the log either.
func TestWaysBackFromNowhere(t *testing.T) {
	t.Parallel()
	p := newIDP(t)
	a, log, events := atProvider(t, p, nil)
	a.cfg.Log = a.cfg.Log.Level(zerolog.InfoLevel)
	for range 50 {
		if got := newBrowser(t, a, home).get("/sign-in/callback?state=x&code=y"); got.Code != http.StatusBadRequest {
			t.Fatalf("%d", got.Code)
		}
	}
	if log.Len() > 0 || len(*events) > 0 {
		t.Errorf("%d events, and in the log is %s", len(*events), log)
	}
}

func TestSealed(t *testing.T) {
	t.Parallel()
	one, err := newSealer([32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	two, err := newSealer([32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	text, err := one.seal(sealed{State: "x", Until: time.Now().Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := one.open(text); !ok || got.State != "x" {
		t.Errorf("%+v %v", got, ok)
	}
	if _, ok := two.open(text); ok {
		t.Error("another process opens it")
	}
	late, err := one.seal(sealed{Until: time.Now().Add(-time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{late, "", "x", strings.Repeat("A", 100), text[:len(text)-4], "!" + text} {
		if _, ok := one.open(text); ok {
			t.Errorf("%q is opened", text)
		}
	}
}
