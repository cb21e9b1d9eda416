package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/secrets"
)

// openAccess makes the access control of the dashboard. It reads no secret and does
// not connect to the provider, so a provider that is unavailable does not keep the
// program from starting.
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

// provider returns the OpenID Connect provider, nil when none is configured.
func (o *OIDCConfig) provider(store *secrets.Store) (*access.Provider, error) {
	if o.Issuer == "" {
		return nil, nil
	}
	p := &access.Provider{
		Issuer: o.Issuer, Name: o.Name, ClientID: o.ClientID, ClientSecret: reader(store, o.ClientSecret),
		Scopes: append([]string{}, o.Scopes...), RoleClaim: o.RoleClaim, Roles: o.Roles.byRole(),
	}
	if o.CAFile != "" {
		pem, err := readFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("http.sign_in.oidc.ca_file %s %w", o.CAFile, config.Unreadable(err))
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("http.sign_in.oidc.ca_file %s contains no PEM certificate", o.CAFile)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
		p.Client = access.NewProviderClient(transport)
	}
	return p, nil
}

// reader returns a function that reads a secret at each call; nil for an empty
// reference.
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
