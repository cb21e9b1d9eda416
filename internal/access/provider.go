package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// Provider is an OpenID Connect provider at which users sign in.
type Provider struct {
	// Issuer is the provider's address, exactly as in its tokens.
	Issuer string
	// Name is the text of the link to it; by default the issuer's host.
	Name     string
	ClientID string
	// ClientSecret is called at every sign-in; nil for a public client.
	ClientSecret func(context.Context) (string, error)
	// Scopes are requested besides openid; nil means profile and email.
	Scopes []string
	// RoleClaim is the claim with a user's roles or groups, a text or a list of texts:
	// groups, or realm_access.roles for a nested claim. `email` counts only if the
	// provider has verified it.
	RoleClaim string
	Roles     Roles
	// Client makes the requests to the provider; nil means NewProviderClient(nil).
	Client *http.Client
}

// provider is a Provider in use. Its discovery document is fetched at a sign-in, not at
// the start: a provider that is down must not keep Certpost from delivering.
type provider struct {
	cfg    Provider
	home   *url.URL // of the dashboard
	client *http.Client
	sealer *sealer

	asking  sync.Mutex // held while the discovery document is fetched
	tried   time.Time  // when the last fetch ended; guarded by asking
	failure error      // of the last fetch; guarded by asking

	mu    sync.Mutex
	known *metadata            // guarded by mu
	taken map[string]time.Time // used states, and until when to remember them; guarded by mu
}

// metadata is the provider's discovery document.
type metadata struct {
	provider *oidc.Provider
	asked    time.Time

	// Members of the document.
	EndSession  string   `json:"end_session_endpoint"`
	AuthMethods []string `json:"token_endpoint_auth_methods_supported"`
	SaysIssuer  bool     `json:"authorization_response_iss_parameter_supported"`
	UserInfo    string   `json:"userinfo_endpoint"`
	Keys        string   `json:"jwks_uri"`
}

const (
	providerTimeout = 10 * time.Second
	// maxAnswer is how much of a provider's response is read, in bytes.
	maxAnswer = 1 << 20
	// metadataAge is when the discovery document is fetched again, retryAfter when it
	// is fetched again after a failure.
	metadataAge = time.Hour
	retryAfter  = 2 * time.Second
	// skew is how far the provider's clock may be behind. (go-oidc itself allows it to
	// be 5 minutes ahead.)
	skew = time.Minute
)

// NewProviderClient is a client for a provider; nil means http.DefaultTransport, which
// uses the system's root certificates. It follows no redirects: they could send the
// client secret to another server.
func NewProviderClient(transport http.RoundTripper) *http.Client {
	if transport == nil {
		transport = http.DefaultTransport
	}
	return &http.Client{
		Transport: boundedTransport{transport}, Timeout: providerTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// boundedTransport cuts responses off after maxAnswer bytes.
type boundedTransport struct{ http.RoundTripper }

func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

func newProvider(cfg Provider, home *url.URL, secret [32]byte) (*provider, error) {
	if err := checkEndpoint(cfg.Issuer, true); err != nil {
		return nil, fmt.Errorf("the provider's issuer: %w", err)
	}
	if cfg.ClientID == "" || cfg.RoleClaim == "" {
		return nil, errors.New("the provider needs a client id and a claim for roles")
	}
	if cfg.Scopes == nil {
		cfg.Scopes = []string{"profile", "email"}
	}
	client := cfg.Client
	if client == nil {
		client = NewProviderClient(nil)
	}
	sealer, err := newSealer(secret)
	if err != nil {
		return nil, err
	}
	return &provider{cfg: cfg, home: home, client: client, sealer: sealer, taken: make(map[string]time.Time)}, nil
}

// Check fetches the discovery document, and returns what is wrong with it.
func (p Provider) Check(ctx context.Context) error {
	made, err := newProvider(p, &url.URL{}, [32]byte{})
	if err != nil {
		return err
	}
	_, err = made.discover(ctx)
	return err
}

func (p *provider) name() string {
	if p.cfg.Name != "" {
		return p.cfg.Name
	}
	u, err := url.Parse(p.cfg.Issuer)
	if err != nil {
		return p.cfg.Issuer
	}
	return u.Host
}

// checkEndpoint requires https, or http on loopback.
func checkEndpoint(address string, withoutQuery bool) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || withoutQuery && u.RawQuery != "":
		return errors.New("is not a URL such as https://id.example.com/realm")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopbackName(hostname(u.Host))):
		return errors.New("does not begin with https://")
	}
	return nil
}

// discover returns the discovery document. One that was fetched before stays valid
// while the provider is down.
func (p *provider) discover(ctx context.Context) (*metadata, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	known := p.lastKnown()
	switch now := time.Now(); {
	case known != nil && now.Sub(known.asked) < metadataAge:
		return known, nil
	case p.failure == nil || now.Sub(p.tried) >= retryAfter:
		// Other requests wait for the result too, so this one's end must not cancel it.
		// After a failure they share the error, instead of each waiting for the timeout.
		found, err := p.ask(context.WithoutCancel(ctx))
		p.tried = time.Now()
		if p.failure = err; err == nil {
			known = found
			p.mu.Lock()
			p.known = found
			p.mu.Unlock()
		}
	}
	if known == nil {
		return nil, p.failure
	}
	return known, nil
}

func (p *provider) lastKnown() *metadata {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known
}

func (p *provider) ask(ctx context.Context) (*metadata, error) {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.client), providerTimeout)
	defer cancel()
	found, err := oidc.NewProvider(ctx, p.cfg.Issuer)
	if err != nil {
		return nil, discoveryError(p.cfg.Issuer, err)
	}
	m := &metadata{provider: found, asked: time.Now()}
	if err := found.Claims(m); err != nil {
		return nil, fmt.Errorf("%s: its discovery document cannot be read", p.cfg.Issuer)
	}
	endpoints := found.Endpoint()
	for name, address := range map[string]string{"authorization_endpoint": endpoints.AuthURL, "token_endpoint": endpoints.TokenURL, "jwks_uri": m.Keys} {
		if err := checkEndpoint(address, false); err != nil {
			return nil, fmt.Errorf("%s: its %s %w", p.cfg.Issuer, name, err)
		}
	}
	if m.EndSession != "" && checkEndpoint(m.EndSession, false) != nil {
		m.EndSession = ""
	}
	if m.UserInfo != "" && checkEndpoint(m.UserInfo, false) != nil {
		m.UserInfo = "" // it would get an access token in the clear
	}
	return m, nil
}

// discoveryError describes the error, without content that the other side sent.
func discoveryError(issuer string, err error) error {
	var mismatch *oidc.IssuerMismatchError
	var connection *url.Error
	switch {
	case errors.As(err, &mismatch):
		return fmt.Errorf("%s: its issuer is %q: configure exactly that, slash included", issuer, shown(mismatch.Discovered, 200))
	case errors.As(err, &connection):
		return fmt.Errorf("%s does not answer: %w", issuer, connection.Err)
	}
	return fmt.Errorf("%s: not an OpenID Connect provider (no usable /.well-known/openid-configuration)", issuer)
}

// oauth configures the token request. It uses only the authentication method that the
// provider announces: trying both would use up the code.
func (p *provider) oauth(ctx context.Context, m *metadata, withSecret bool) (*oauth2.Config, error) {
	endpoint := m.provider.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if len(m.AuthMethods) > 0 && !slices.Contains(m.AuthMethods, "client_secret_basic") || p.cfg.ClientSecret == nil {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	c := &oauth2.Config{
		ClientID: p.cfg.ClientID, Endpoint: endpoint, RedirectURL: originOf(p.home) + callbackPath,
		Scopes: append([]string{oidc.ScopeOpenID}, p.cfg.Scopes...),
	}
	if withSecret && p.cfg.ClientSecret != nil {
		var err error
		if c.ClientSecret, err = p.cfg.ClientSecret(ctx); err != nil {
			return nil, fmt.Errorf("the client secret cannot be read: %w", err)
		}
	}
	return c, nil
}

// signOutURL is the address to sign out at the provider, "" where the provider offers
// none or was not asked yet. It has no id_token_hint, because that would stay in the
// browser's history; nor a redirect back, which providers do not accept without it.
func (p *provider) signOutURL() string {
	known := p.lastKnown()
	if known == nil || known.EndSession == "" {
		return ""
	}
	u, err := url.Parse(known.EndSession)
	if err != nil {
		return ""
	}
	q := u.Query()
	q.Set("client_id", p.cfg.ClientID)
	u.RawQuery = q.Encode()
	return u.String()
}

// take marks a state as used, and says whether this is its first use; release allows it
// to be used once more, after a sign-in that failed.
func (p *provider) take(state string, until time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for known, until := range p.taken {
		if now.After(until) {
			delete(p.taken, known)
		}
	}
	if _, before := p.taken[state]; before {
		return false
	}
	p.taken[state] = until
	return true
}

func (p *provider) release(state string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, state)
}
