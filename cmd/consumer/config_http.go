package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/secrets"
)

// HTTPConfig is the section http. docs/dashboard-access.md tells how to put the
// dashboard on the network.
type HTTPConfig struct {
	// Listen is the address of dashboard, health and metrics. One that is reached
	// from other machines takes url, tls and sign_in.
	Listen string `yaml:"listen" required:"true"`
	// URL is where people open the dashboard: scheme and host, such as
	// https://certpost.example.com. Other names than this one and localhost are not
	// answered.
	URL string `yaml:"url"`
	// TLS is the certificate of the dashboard, read again when it changes. Give
	// cert_file and key_file, or pkcs12_file.
	TLS ServerTLSConfig `yaml:"tls"`
	// SignIn is who may use the dashboard. Without it everybody who reaches
	// listen on this machine may do everything.
	SignIn SignInConfig `yaml:"sign_in"`
	// MetricsToken lets a monitoring system read /healthz and /metrics of a dashboard
	// that is reached from other machines (Authorization: Bearer); at least 16
	// characters, as a secret reference.
	MetricsToken secrets.Ref `yaml:"metrics_token"`
	// TrustedProxies are addresses or networks (10.0.0.0/8) of reverse proxies that
	// are believed when they say whom they ask for (X-Forwarded-For).
	TrustedProxies []string `yaml:"trusted_proxies"`
	// EditAndReplay says what an admin may change of a dead letter before it is
	// replayed.
	EditAndReplay EditConfig `yaml:"edit_and_replay"`

	file  string // that all of it was read from; "": none
	again func() (*HTTPConfig, []config.Problem)
}

// ServerTLSConfig is the section http.tls.
type ServerTLSConfig struct {
	// CertFile is a PEM file with the certificate and its chain.
	CertFile string `yaml:"cert_file"`
	// KeyFile is a PEM file with its key, not encrypted.
	KeyFile string `yaml:"key_file"`
	// PKCS12File has all of it in one file.
	PKCS12File string `yaml:"pkcs12_file"`
	// PKCS12Passphrase opens pkcs12_file, as a secret reference.
	PKCS12Passphrase secrets.Ref `yaml:"pkcs12_passphrase"`
}

// SignInConfig is the section http.sign_in. A viewer reads; an operator also
// replays, discards, restores and holds dead letters and suspends relays; an admin
// also edits, where that is switched on.
type SignInConfig struct {
	// OIDC is an OpenID Connect provider where people sign in.
	OIDC OIDCConfig `yaml:"oidc"`
	// Users sign in with a name and a password.
	Users []UserConfig `yaml:"users"`
	// Idle is how long nobody may use a session before it ends.
	Idle time.Duration `yaml:"idle" min:"1m" max:"24h"`
	// Max is the age at which a session ends, however much it is used.
	Max time.Duration `yaml:"max" min:"5m" max:"168h"`
}

// UserConfig is one entry of http.sign_in.users.
type UserConfig struct {
	// Name to sign in with, and the name in the history.
	Name string `yaml:"name" required:"true"`
	// PasswordHash is what `certpost hash-password` prints.
	PasswordHash string `yaml:"password_hash" required:"true"`
	// Role of the user.
	Role string `yaml:"role" required:"true" enum:"viewer,operator,admin"`
}

// OIDCConfig is the section http.sign_in.oidc.
type OIDCConfig struct {
	// Issuer is the provider's address, exactly as it calls itself. The redirect URI
	// to register there is http.url with /sign-in/callback.
	Issuer string `yaml:"issuer"`
	// Name is how the page calls it; the issuer's host by default.
	Name string `yaml:"name"`
	// ClientID is what the provider calls Certpost.
	ClientID string `yaml:"client_id"`
	// ClientSecret as a secret reference; none for a public client.
	ClientSecret secrets.Ref `yaml:"client_secret"`
	// Scopes to ask for beside openid.
	Scopes []string `yaml:"scopes"`
	// RoleClaim is the claim that says what somebody may do, such as groups or
	// realm_access.roles: text or a list of texts. An email counts only if the
	// provider has verified it.
	RoleClaim string `yaml:"role_claim"`
	// Roles says which values of the claim give which role. Who has several gets the
	// highest, who has none may do nothing.
	Roles RolesConfig `yaml:"roles"`
	// CAFile has the CAs to trust instead of the system's.
	CAFile string `yaml:"ca_file"`
}

// RolesConfig is the section http.sign_in.oidc.roles.
type RolesConfig struct {
	// Viewer are the values that let somebody read.
	Viewer []string `yaml:"viewer"`
	// Operator are those that let somebody act.
	Operator []string `yaml:"operator"`
	// Admin are those that let somebody edit too.
	Admin []string `yaml:"admin"`
}

func defaultHTTP() HTTPConfig {
	return HTTPConfig{
		Listen: "127.0.0.1:8080",
		SignIn: SignInConfig{Idle: time.Hour, Max: 12 * time.Hour, OIDC: OIDCConfig{Scopes: []string{"profile", "email"}, RoleClaim: "groups"}},
	}
}

func (t ServerTLSConfig) on() bool { return t.CertFile+t.KeyFile+t.PKCS12File != "" }

func (s SignInConfig) on() bool { return s.OIDC.Issuer != "" || len(s.Users) > 0 }

func (h *HTTPConfig) validate(f *findings) {
	f.address("http.listen", h.Listen)
	h.TLS.validate(f)
	h.SignIn.validate(f)
	home := h.validateURL(f)
	if _, _, err := net.SplitHostPort(h.Listen); err == nil && !access.IsLoopback(h.Listen) {
		var missing []string
		for _, need := range []struct {
			key  string
			have bool
		}{{"http.url", h.URL != ""}, {"http.tls", h.TLS.on()}, {"http.sign_in", h.SignIn.on()}} {
			if !need.have {
				missing = append(missing, need.key)
			}
		}
		if len(missing) > 0 {
			f.err("http.listen", "is reached from other machines, which takes "+strings.Join(missing, " and ")+": give them, or listen on 127.0.0.1")
		}
	} else if home != nil && !loopbackURL(home) && !h.SignIn.on() {
		f.err("http.url", "lets others reach the dashboard, which takes http.sign_in")
	} else if home != nil && home.Scheme == "https" && !loopbackURL(home) && len(h.TrustedProxies) == 0 && access.IsLoopback(h.Listen) {
		f.warn("http.url", "is reached through a proxy, and http.trusted_proxies names none: everybody comes from one address then, and one who guesses passwords has all of them wait")
	}
	if h.SignIn.OIDC.Issuer != "" && h.URL == "" {
		f.err("http.url", "is missing: the provider has to send people back to it")
	}
	f.secret("http.metrics_token", h.MetricsToken)
	for i, text := range h.TrustedProxies {
		if _, err := parsePrefix(text); err != nil {
			f.err(fmt.Sprintf("http.trusted_proxies[%d]", i), "want an address or a network such as 10.0.0.0/8")
		}
	}
	h.EditAndReplay.validate(f)
}

// secret checks a reference that may be left out.
func (f *findings) secret(path string, ref secrets.Ref) {
	if ref.IsZero() {
		return
	}
	if err := ref.Validate(); err != nil {
		f.err(path, err.Error())
	} else if warning := ref.Warning(); warning != "" {
		f.warn(path, warning)
	}
}

func (h *HTTPConfig) validateURL(f *findings) *url.URL {
	home, err := h.home()
	switch {
	case h.URL == "":
		return nil
	case err != nil:
		f.err("http.url", err.Error())
		return nil
	case home.Scheme == "http" && h.TLS.on():
		f.err("http.url", "begins with http://, but http.tls is on")
	case home.Scheme == "http" && !loopbackURL(home):
		f.err("http.url", "begins with http://: from other machines the dashboard is reached with https alone")
	}
	return home
}

// home is http.url.
func (h *HTTPConfig) home() (*url.URL, error) {
	u, err := url.Parse(h.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("want scheme and host alone, such as https://certpost.example.com")
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}, nil
}

func loopbackURL(u *url.URL) bool {
	return slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, u.Hostname())
}

func (t *ServerTLSConfig) validate(f *findings) {
	switch pem := t.CertFile+t.KeyFile != ""; {
	case pem && t.PKCS12File != "":
		f.err("http.tls", "has the certificate twice: give cert_file and key_file, or pkcs12_file")
	case (t.CertFile == "") != (t.KeyFile == ""):
		f.err("http.tls", "cert_file and key_file belong together: give both")
	case t.PKCS12File == "" && !t.PKCS12Passphrase.IsZero():
		f.err("http.tls.pkcs12_file", "is missing: a passphrase alone is of no use")
	case t.PKCS12File != "" && t.PKCS12Passphrase.IsZero():
		f.err("http.tls.pkcs12_passphrase", "is missing: pkcs12_file needs it")
	}
	f.secret("http.tls.pkcs12_passphrase", t.PKCS12Passphrase)
}

func (s *SignInConfig) validate(f *findings) {
	s.OIDC.validate(f)
	seen := map[string]int{}
	for i, u := range s.Users {
		path := fmt.Sprintf("http.sign_in.users[%d]", i)
		if strings.ContainsFunc(u.Name, func(r rune) bool { return !unicode.IsGraphic(r) }) || len([]rune(u.Name)) > 64 || strings.TrimSpace(u.Name) != u.Name {
			f.err(path+".name", "want 1 to 64 characters without spaces at the ends")
		} else if first, twice := seen[u.Name]; twice && u.Name != "" {
			f.err(path+".name", fmt.Sprintf("is already the name of users[%d]: every user needs one of his own", first))
		}
		if _, known := seen[u.Name]; !known {
			seen[u.Name] = i
		}
		if _, err := access.ParseHash(u.PasswordHash); err != nil && u.PasswordHash != "" {
			f.err(path+".password_hash", err.Error())
		}
	}
	if s.Idle > s.Max {
		f.err("http.sign_in.idle", fmt.Sprintf("is longer than a session lasts at all, %v", s.Max))
	}
}

func (o *OIDCConfig) validate(f *findings) {
	const path = "http.sign_in.oidc"
	roles := o.Roles.byRole()
	if o.Issuer == "" {
		if o.ClientID != "" || !o.ClientSecret.IsZero() || len(roles) > 0 {
			f.err(path+".issuer", "is missing: without it nobody signs in, and roles mean nothing")
		}
		return
	}
	if u, err := url.Parse(o.Issuer); err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && (u.Scheme != "http" || !loopbackURL(u)) {
		f.err(path+".issuer", "want a URL such as https://id.example.com/realms/ops")
	}
	if o.ClientID == "" {
		f.err(path+".client_id", "is missing")
	}
	if o.RoleClaim == "" {
		f.err(path+".role_claim", "is missing")
	}
	if len(roles) == 0 {
		f.err(path+".roles", "gives nobody a role: list which values of the claim make a viewer, an operator or an admin")
	}
	for _, values := range []struct {
		key  string
		list []string
	}{{"viewer", o.Roles.Viewer}, {"operator", o.Roles.Operator}, {"admin", o.Roles.Admin}} {
		for i, value := range values.list {
			if value == "" {
				f.err(fmt.Sprintf("%s.roles.%s[%d]", path, values.key, i), "is empty")
			}
		}
	}
	f.secret(path+".client_secret", o.ClientSecret)
}

func (r RolesConfig) byRole() access.Roles {
	roles := access.Roles{}
	for role, values := range map[access.Role][]string{access.Viewer: r.Viewer, access.Operator: r.Operator, access.Admin: r.Admin} {
		if len(values) > 0 {
			roles[role] = values
		}
	}
	return roles
}

func parsePrefix(text string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}

// proxies are http.trusted_proxies. What is none was found by validate.
func (h *HTTPConfig) proxies() (all []netip.Prefix) {
	for _, text := range h.TrustedProxies {
		if p, err := parsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// openAccess makes the door to the dashboard. What is not used here is looked at
// when it is: a provider that is away does not keep the program from starting.
func (h *HTTPConfig) openAccess(store *secrets.Store, pages access.Pages, record func(context.Context, access.Event), log zerolog.Logger) (*access.Access, error) {
	cfg := access.Config{
		Listen: h.Listen, TLS: h.TLS.on(), Idle: h.SignIn.Idle, Max: h.SignIn.Max, Local: actor(),
		Pages: pages, Record: record, Log: log, ProbeToken: reader(store, h.MetricsToken),
	}
	var err error
	if h.URL != "" {
		if cfg.URL, err = h.home(); err != nil {
			return nil, fmt.Errorf("http.url: %w", err)
		}
	}
	cfg.Proxies = h.proxies()
	if cfg.Accounts, err = h.SignIn.accounts(); err != nil {
		return nil, err
	}
	if cfg.Provider, err = h.SignIn.OIDC.provider(store); err != nil {
		return nil, err
	}
	a, err := access.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	return a, nil
}

func (s *SignInConfig) accounts() ([]access.Account, error) {
	var accounts []access.Account
	for _, u := range s.Users {
		hash, err := access.ParseHash(u.PasswordHash)
		if err != nil {
			return nil, fmt.Errorf("http.sign_in.users: %s: password_hash %w", u.Name, err)
		}
		role, err := access.ParseRole(u.Role)
		if err != nil {
			return nil, fmt.Errorf("http.sign_in.users: %s: role: %w", u.Name, err)
		}
		accounts = append(accounts, access.Account{Name: u.Name, Hash: hash, Role: role})
	}
	return accounts, nil
}

// provider is nil when there is none.
func (o *OIDCConfig) provider(store *secrets.Store) (*access.Provider, error) {
	if o.Issuer == "" {
		return nil, nil
	}
	p := &access.Provider{
		Issuer: o.Issuer, Name: o.Name, ClientID: o.ClientID, ClientSecret: reader(store, o.ClientSecret),
		Scopes: append([]string{}, o.Scopes...), RoleClaim: o.RoleClaim, Roles: o.Roles.byRole(),
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("http.sign_in.oidc.ca_file %s %w", o.CAFile, config.Unreadable(err))
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("http.sign_in.oidc.ca_file %s has no certificate in PEM", o.CAFile)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
		p.Client = access.NewProviderClient(transport)
	}
	return p, nil
}

// reader reads a secret whenever it is wanted; nil when there is none.
func reader(store *secrets.Store, ref secrets.Ref) func(context.Context) (string, error) {
	if ref.IsZero() {
		return nil
	}
	return func(ctx context.Context) (string, error) {
		secret, err := store.Get(ctx, ref, nil)
		if err != nil {
			return "", err
		}
		value := secret.Value.Reveal()
		defer clear(value)
		return string(value), nil
	}
}
