package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
)

// HTTPConfig is the section http. docs/dashboard-access.md describes how to make the
// dashboard reachable from other machines.
type HTTPConfig struct {
	// Listen is the address and port of dashboard, health checks and metrics. An
	// address that other machines can reach requires url, tls and sign_in.
	Listen string `yaml:"listen" required:"true"`
	// URL is the address at which people open the dashboard: only scheme and host, such
	// as https://certpost.example.com. Requests for other host names are refused,
	// except for localhost. Default: none.
	URL string `yaml:"url"`
	// TLS is the certificate of the dashboard; its files are read again when they
	// change. Set either cert_file and key_file, or pkcs12_file.
	TLS ServerTLSConfig `yaml:"tls"`
	// SignIn says who may use the dashboard. Without it, everyone who can reach listen
	// on this machine may do everything.
	SignIn SignInConfig `yaml:"sign_in"`
	// MetricsToken lets a monitoring system read /healthz and /metrics of a dashboard
	// that other machines can reach (header Authorization: Bearer TOKEN); a secret
	// reference to at least 16 characters.
	MetricsToken secrets.Ref `yaml:"metrics_token"`
	// TrustedProxies are addresses or networks (10.0.0.0/8) of reverse proxies whose
	// header X-Forwarded-For is trusted for the client's address. Default: none.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// EditAndReplay says what an admin may change in a dead letter before its replay.
	EditAndReplay EditConfig `yaml:"edit_and_replay"`
	// Ingest says who may publish events with POST /v1/events.
	Ingest IngestConfig `yaml:"ingest"`

	file  string                                 // the file that the configuration was read from; "": none
	again func() (*HTTPConfig, []config.Problem) // reads the section again
}

// ServerTLSConfig is the section http.tls.
type ServerTLSConfig struct {
	// CertFile is a PEM file with the certificate and its chain.
	CertFile string `yaml:"cert_file"`
	// KeyFile is a PEM file with the private key of cert_file, not encrypted.
	KeyFile string `yaml:"key_file"`
	// PKCS12File is a PKCS#12 file with certificate, chain and private key, instead of
	// cert_file and key_file.
	PKCS12File string `yaml:"pkcs12_file"`
	// PKCS12Passphrase is the passphrase of pkcs12_file, as a secret reference.
	PKCS12Passphrase secrets.Ref `yaml:"pkcs12_passphrase"`
}

// SignInConfig is the section http.sign_in. A viewer reads; an operator also
// replays, discards, restores and holds dead letters and suspends relays; an admin
// also edits dead letters, if http.edit_and_replay is enabled.
type SignInConfig struct {
	// OIDC is an OpenID Connect provider where users sign in.
	OIDC OIDCConfig `yaml:"oidc"`
	// Users sign in with a name and a password, in addition to oidc or instead of it.
	Users []UserConfig `yaml:"users"`
	// Idle is how long a session may be unused before it ends.
	Idle time.Duration `yaml:"idle" min:"1m" max:"24h"`
	// Max is the age at which a session ends, even if it is in use.
	Max time.Duration `yaml:"max" min:"5m" max:"168h"`
}

// UserConfig is one entry of http.sign_in.users.
type UserConfig struct {
	// Name is the user's name at sign-in and in the history; at most 64 characters.
	Name string `yaml:"name" required:"true"`
	// PasswordHash is the output of `certpost hash-password`.
	PasswordHash string `yaml:"password_hash" required:"true"`
	// Role: a viewer reads; an operator also acts; an admin also edits dead letters.
	Role string `yaml:"role" required:"true" enum:"viewer,operator,admin"`
}

// OIDCConfig is the section http.sign_in.oidc.
type OIDCConfig struct {
	// Issuer is the provider's issuer URL, exactly as the provider states it. Example:
	// https://id.example.com/realms/ops. The redirect URI to register at the provider
	// is http.url followed by /sign-in/callback.
	Issuer string `yaml:"issuer"`
	// Name is the provider's name on the sign-in page. Default: the issuer's host.
	Name string `yaml:"name"`
	// ClientID is the client id that the provider gave Certpost.
	ClientID string `yaml:"client_id"`
	// ClientSecret is the client secret, as a secret reference. Leave it out for a
	// public client.
	ClientSecret secrets.Ref `yaml:"client_secret"`
	// Scopes are the scopes to request in addition to openid. Default: profile, email.
	Scopes []string `yaml:"scopes"`
	// RoleClaim is the claim that decides the role, such as groups or
	// realm_access.roles. Its value is text or a list of texts. The claim email counts
	// only if the provider has verified the address.
	RoleClaim string `yaml:"role_claim"`
	// Roles lists the values of the claim that give each role. A user with several
	// roles gets the highest; a user without a role may do nothing.
	Roles RolesConfig `yaml:"roles"`
	// CAFile is a PEM file with the CAs to trust. Default: the system's CAs.
	CAFile string `yaml:"ca_file"`
}

// RolesConfig is the section http.sign_in.oidc.roles.
type RolesConfig struct {
	// Viewer lists the values of role_claim that let a user read. Example: [staff].
	Viewer []string `yaml:"viewer"`
	// Operator lists the values that also let a user act on dead letters and relays.
	Operator []string `yaml:"operator"`
	// Admin lists the values that also let a user edit dead letters.
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
			f.err("http.listen", "can be reached from other machines, which requires "+strings.Join(missing, " and ")+": set them, or listen on 127.0.0.1")
		}
	} else if home != nil && !loopbackURL(home) && !h.SignIn.on() {
		f.err("http.url", "makes the dashboard reachable from other machines, which requires http.sign_in")
	} else if home != nil && home.Scheme == "https" && !loopbackURL(home) && len(h.TrustedProxies) == 0 && access.IsLoopback(h.Listen) {
		f.warn("http.url", "is served by a proxy, but http.trusted_proxies is empty: all users then share the proxy's address, and one who guesses passwords delays the sign-in of all; list the proxy there")
	}
	if h.SignIn.OIDC.Issuer != "" && h.URL == "" {
		f.err("http.url", "is required: the OpenID Connect provider sends users back to it")
	}
	f.secret("http.metrics_token", h.MetricsToken)
	for i, text := range h.TrustedProxies {
		if _, err := parsePrefix(text); err != nil {
			f.err(fmt.Sprintf("http.trusted_proxies[%d]", i), "want an address or a network such as 10.0.0.0/8")
		}
	}
	h.EditAndReplay.validate(f)
	h.Ingest.validate(f, h.TLS.on())
}

// secret checks an optional reference.
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
		f.err("http.url", "begins with http://: other machines can reach the dashboard only by https")
	}
	return home
}

// home returns http.url, parsed and with its host in lower case.
func (h *HTTPConfig) home() (*url.URL, error) {
	u, err := url.Parse(h.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("want only scheme and host, such as https://certpost.example.com")
	}
	if problem := legible.WrongPort(u); problem != "" {
		return nil, errors.New(problem)
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}, nil
}

func loopbackURL(u *url.URL) bool {
	return slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, u.Hostname())
}

func (t *ServerTLSConfig) validate(f *findings) {
	switch pem := t.CertFile+t.KeyFile != ""; {
	case pem && t.PKCS12File != "":
		f.err("http.tls", "has the certificate twice: set either cert_file and key_file, or pkcs12_file")
	case (t.CertFile == "") != (t.KeyFile == ""):
		f.err("http.tls", "cert_file and key_file belong together: set both")
	case t.PKCS12File == "" && !t.PKCS12Passphrase.IsZero():
		f.err("http.tls.pkcs12_file", "is required: http.tls.pkcs12_passphrase is set")
	case t.PKCS12File != "" && t.PKCS12Passphrase.IsZero():
		f.err("http.tls.pkcs12_passphrase", "is required: http.tls.pkcs12_file is set")
	}
	f.secret("http.tls.pkcs12_passphrase", t.PKCS12Passphrase)
}

func (s *SignInConfig) validate(f *findings) {
	s.OIDC.validate(f)
	seen := map[string]int{}
	for i, u := range s.Users {
		path := fmt.Sprintf("http.sign_in.users[%d]", i)
		if u.Name != "" && !access.ValidName(u.Name) {
			f.err(path+".name", fmt.Sprintf("want 1 to %d visible characters without spaces at the ends", access.MaxName))
		} else if first, twice := seen[u.Name]; twice && u.Name != "" {
			f.err(path+".name", fmt.Sprintf("is already the name of users[%d]: names must be unique", first))
		}
		if _, known := seen[u.Name]; !known {
			seen[u.Name] = i
		}
		if _, err := access.ParseHash(u.PasswordHash); err != nil && u.PasswordHash != "" {
			f.err(path+".password_hash", err.Error())
		}
	}
	if s.Idle > s.Max {
		f.err("http.sign_in.idle", fmt.Sprintf("is longer than http.sign_in.max, %v", s.Max))
	}
}

func (o *OIDCConfig) validate(f *findings) {
	const path = "http.sign_in.oidc"
	roles := o.Roles.byRole()
	if o.Issuer == "" {
		if o.ClientID != "" || !o.ClientSecret.IsZero() || len(roles) > 0 {
			f.err(path+".issuer", "is required: client_id, client_secret and roles have no effect without it")
		}
		return
	}
	if u, err := url.Parse(o.Issuer); err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && (u.Scheme != "http" || !loopbackURL(u)) {
		f.err(path+".issuer", "want a URL such as https://id.example.com/realms/ops")
	} else if problem := legible.WrongPort(u); problem != "" {
		f.err(path+".issuer", problem)
	}
	if o.ClientID == "" {
		f.err(path+".client_id", "is required")
	}
	if o.RoleClaim == "" {
		f.err(path+".role_claim", "is required")
	}
	if len(roles) == 0 {
		f.err(path+".roles", "gives no user a role: list the values of the claim that make a viewer, an operator or an admin")
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

// proxies returns http.trusted_proxies, without invalid entries: validate has
// reported those.
func (h *HTTPConfig) proxies() (all []netip.Prefix) {
	for _, text := range h.TrustedProxies {
		if p, err := parsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}
