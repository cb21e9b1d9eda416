package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/secrets"
)

// inspect checks the files that the dashboard needs, without reading secrets, so that
// `check` reports what would stop `run`.
func (h *HTTPConfig) inspect(ctx context.Context, now time.Time) []config.Problem {
	var f findings
	if h.TLS.CertFile != "" && h.TLS.KeyFile != "" {
		c, err := openCertificate(ctx, dashboardTLS, h.TLS, nil, zerolog.Nop())
		if err != nil {
			f.err("http.tls", errors.Unwrap(err).Error())
		} else if unwise := h.unwise(c.current.Leaf, now); unwise != nil {
			f.warn("http.tls.cert_file", unwise.Error())
		}
	}
	if h.Ingest.Enabled && h.Ingest.ClientCAFile != "" {
		if _, err := (NATSTLSConfig{ClientCAFile: h.Ingest.ClientCAFile}).clientCAs(); err != nil {
			f.err("http.ingest.client_ca_file", err.Error())
		}
	}
	if h.SignIn.OIDC.CAFile != "" {
		if _, err := h.SignIn.OIDC.provider(nil); err != nil {
			f.err("http.sign_in.oidc.ca_file", err.Error())
		}
	}
	return f
}

// unwise returns why a certificate is not valid for the dashboard, or will soon not be.
func (h *HTTPConfig) unwise(leaf *x509.Certificate, now time.Time) error {
	if err := validity(leaf, now, expiresSoon); err != nil {
		return err
	}
	if home, err := h.home(); err == nil && leaf.VerifyHostname(home.Hostname()) != nil {
		return fmt.Errorf("the certificate is not for %s, the name in http.url", home.Hostname())
	}
	return nil
}

// secretFindings checks one secret of a section, without showing it.
func secretFindings(ctx context.Context, store *secrets.Store, of, what string, ref secrets.Ref) []finding {
	checked, err := store.Check(ctx, ref, nil)
	if err != nil {
		return []finding{{of, what, "error", err.Error()}}
	}
	found := []finding{{of, what, "ok", "readable: " + ref.String()}}
	for _, warning := range checked.Warnings {
		if warning == ref.Warning() {
			continue // the check of the configuration says it where it matters
		}
		found = append(found, finding{of, what, "warning", ref.String() + ": " + warning})
	}
	return found
}

// usableSecret is secretFindings, and applies the rule by which the program uses the secret.
func usableSecret(ctx context.Context, store *secrets.Store, of, what string, ref secrets.Ref, rule func(string) error) []finding {
	found := secretFindings(ctx, store, of, what, ref)
	secret, err := reader(store, ref)(ctx)
	if err != nil {
		return found // it says why
	}
	if err := rule(secret); err != nil {
		return []finding{{of, what, "error", ref.String() + " " + err.Error()}}
	}
	return found
}

// probe checks what `run` needs from other services: secrets and the OpenID Connect
// provider.
func (h *HTTPConfig) probe(ctx context.Context, store *secrets.Store) (found []finding) {
	add := func(what, message string, err error) {
		f := finding{"http", what, "ok", message}
		if err != nil {
			f.Status, f.Message = "error", err.Error()
		}
		found = append(found, f)
	}
	if h.TLS.on() {
		c, err := openCertificate(ctx, dashboardTLS, h.TLS, store, zerolog.Nop())
		switch {
		case err != nil:
			add("certificate", "", err)
		default:
			if unwise := h.unwise(c.current.Leaf, time.Now()); unwise != nil {
				found = append(found, finding{"http", "certificate", "warning", unwise.Error()})
			} else {
				add("certificate", "valid until "+when(c.current.Leaf.NotAfter), nil)
			}
		}
	}
	if !h.MetricsToken.IsZero() {
		found = append(found, usableSecret(ctx, store, "http", "metrics_token", h.MetricsToken, access.CheckProbeToken)...)
	}
	if ref := h.SignIn.OIDC.ClientSecret; !ref.IsZero() {
		found = append(found, secretFindings(ctx, store, "http", "client_secret", ref)...)
	}
	for _, s := range h.Ingest.senders() {
		if h.Ingest.Enabled && !s.secret.IsZero() {
			found = append(found, usableSecret(ctx, store, "http", "ingest "+s.name, s.secret, func(secret string) error {
				_, err := s.scheme.Key(secret)
				return err
			})...)
		}
	}
	provider, err := h.SignIn.OIDC.provider(store)
	if err != nil || provider != nil {
		if err == nil {
			err = provider.Check(ctx)
		}
		add("sign-in", cmp.Or(h.SignIn.OIDC.Name, h.SignIn.OIDC.Issuer)+" answers", err)
	}
	return found
}
