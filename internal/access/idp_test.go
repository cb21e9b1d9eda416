package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

const clientSecret = "canary-client-secret"

// idp is an OpenID Connect provider whose answers a test can change, also to wrong ones.
type idp struct {
	t      testing.TB
	server *httptest.Server
	key    *ecdsa.PrivateKey

	mu        sync.Mutex
	away      bool                                       // guarded by mu, as is all that follows
	discovery func(map[string]any)                       // changes the discovery document
	claims    func(map[string]any)                       // changes the claims
	sign      func(header, claims map[string]any) string // replaces the valid signature
	token     http.HandlerFunc                           // replaces the token endpoint
	userInfo  map[string]any
	asked     url.Values      // the latest request to sign in
	codes     map[string]bool // that were redeemed
	header    http.Header     // of the latest request for a token
	forms     []url.Values    // of all requests for tokens
}

func newIDP(t testing.TB) *idp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &idp{t: t, key: key, codes: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.describe)
	mux.HandleFunc("GET /keys", p.keys)
	mux.HandleFunc("POST /token", p.giveToken)
	mux.HandleFunc("GET /userinfo", p.giveUserInfo)
	p.server = httptest.NewServer(mux)
	t.Cleanup(p.server.Close)
	return p
}

// set changes its behaviour.
func (p *idp) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *idp) describe(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		http.Error(w, "canary-from-the-provider", http.StatusServiceUnavailable)
		return
	}
	said := map[string]any{
		"issuer": p.server.URL, "authorization_endpoint": p.server.URL + "/auth", "token_endpoint": p.server.URL + "/token",
		"jwks_uri": p.server.URL + "/keys", "userinfo_endpoint": p.server.URL + "/userinfo", "end_session_endpoint": p.server.URL + "/logout?x=1",
		"id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"},
	}
	if p.discovery != nil {
		p.discovery(said)
	}
	answerJSON(w, said)
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (p *idp) keys(w http.ResponseWriter, _ *http.Request) {
	point, err := p.key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		p.t.Error(err)
	}
	answerJSON(w, map[string]any{"keys": []any{map[string]string{
		"kty": "EC", "crv": "P-256", "kid": "one", "alg": "ES256", "use": "sig", "x": b64(point[1:33]), "y": b64(point[33:]),
	}}})
}

// es256 signs as the provider does.
func es256(key *ecdsa.PrivateKey) func(header, claims map[string]any) string {
	return func(header, claims map[string]any) string {
		text := unsigned(header, claims)
		sum := sha256.Sum256([]byte(text))
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			panic(err)
		}
		var sig [64]byte
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
		return text + "." + b64(sig[:])
	}
}

func unsigned(header, claims map[string]any) string {
	h, _ := json.Marshal(header)
	c, _ := json.Marshal(claims)
	return b64(h) + "." + b64(c)
}

func (p *idp) giveToken(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		p.t.Error(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.header = r.Header
	p.forms = append(p.forms, r.PostForm)
	if p.token != nil {
		p.token(w, r)
		return
	}
	challenge := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	if user, secret, _ := r.BasicAuth(); user != "certpost" || secret != clientSecret {
		p.t.Errorf("the client id is %q, or the secret is wrong", user)
	}
	if p.asked.Get("code_challenge_method") != "S256" || p.asked.Get("code_challenge") != b64(challenge[:]) || r.PostForm.Get("redirect_uri") != home+"/sign-in/callback" {
		p.t.Errorf("asked %v, then %v", p.asked, r.PostForm)
	}
	p.codes[r.PostForm.Get("code")] = true
	access := "canary-access-token"
	hash := sha256.Sum256([]byte(access))
	claims := map[string]any{
		"iss": p.server.URL, "sub": "248289761001", "aud": "certpost", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
		"nonce": p.asked.Get("nonce"), "preferred_username": "ada", "groups": []string{"staff", "ops"}, "at_hash": b64(hash[:16]),
	}
	if p.claims != nil {
		p.claims(claims)
	}
	sign := p.sign
	if sign == nil {
		sign = es256(p.key)
	}
	answerJSON(w, map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 3600, "id_token": sign(map[string]any{"alg": "ES256", "kid": "one"}, claims)})
}

func (p *idp) giveUserInfo(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer canary-access-token" || p.userInfo == nil {
		http.Error(w, "canary-from-the-provider", http.StatusUnauthorized)
		return
	}
	answerJSON(w, p.userInfo)
}

// provider is how Certpost is configured for it.
func (p *idp) provider() *Provider {
	return &Provider{
		Issuer: p.server.URL, ClientID: "certpost", RoleClaim: "groups", Name: "Example SSO",
		ClientSecret: func(context.Context) (string, error) { return clientSecret, nil },
		Roles:        Roles{Viewer: {"staff"}, Operator: {"ops"}, Admin: {"root"}},
	}
}

// signInAt goes to the provider and comes back; answer may change the query of the
// redirect.
func (p *idp) signInAt(b *browser, answer func(url.Values)) answer {
	b.t.Helper()
	got := b.get("/sign-in/provider?return=%2Fdead-letters%2F7")
	to := mustURL(b.t, got.location())
	if got.Code != http.StatusSeeOther || !strings.HasPrefix(got.location(), p.server.URL+"/auth?") {
		b.t.Fatalf("%d %s %s", got.Code, got.location(), got.body)
	}
	p.set(func() { p.asked = to.Query() })
	back := url.Values{"state": {to.Query().Get("state")}, "code": {"canary-code"}}
	if answer != nil {
		answer(back)
	}
	return b.send(b.t.Context(), "GET", "/sign-in/callback?"+back.Encode(), nil, map[string]string{"Sec-Fetch-Site": "cross-site"})
}
