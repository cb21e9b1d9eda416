package access

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// identity is a user of the provider.
type identity struct {
	subject, name string
	values        []string // of the role claim
	claims        []string // names of all claims, sorted, at most 50
}

// maxSub is the maximum length of `sub` in OpenID Connect, in bytes.
const maxSub = 255

// problem is why a sign-in failed: text for the page, and err for the log in addition.
type problem struct {
	text string
	err  error
}

func (e *problem) Error() string {
	if e.err == nil {
		return e.text
	}
	return e.text + ": " + shown(e.err.Error(), 300)
}

// redeem exchanges the code for tokens and reads the user from them.
func (p *provider) redeem(ctx context.Context, m *metadata, code string, sent sealed) (*identity, error) {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.client), 2*providerTimeout)
	defer cancel()
	client, err := p.oauth(ctx, m, true)
	if err != nil {
		return nil, &problem{"Certpost cannot ask the provider", err}
	}
	token, err := client.Exchange(ctx, code, oauth2.VerifierOption(sent.Verifier))
	if err != nil {
		return nil, &problem{"The provider did not accept the code", exchangeError(err)}
	}
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return nil, &problem{"The provider sent no usable ID token", errors.New("no id_token in its answer")}
	}
	verifier := m.provider.Verifier(&oidc.Config{ClientID: p.cfg.ClientID, Now: func() time.Time { return time.Now().Add(-skew) }})
	id, err := verifier.Verify(ctx, raw)
	if err != nil {
		return nil, &problem{"The provider's ID token is invalid", err}
	}
	var claims map[string]any
	if err := id.Claims(&claims); err != nil {
		return nil, &problem{"The claims of the provider's ID token cannot be read", nil}
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(sent.Nonce)) != 1:
		err = errors.New("it is for another sign-in (nonce)")
	case id.Subject == "" || len(id.Subject) > maxSub:
		err = errors.New("it has no usable sub")
	case len(id.Audience) > 1 && claims["azp"] != p.cfg.ClientID:
		err = errors.New("it is for several clients, and was not issued to this one (azp)")
	case id.AccessTokenHash != "" && id.VerifyAccessToken(token.AccessToken) != nil:
		err = errors.New("it belongs to another access token (at_hash)")
	}
	if err != nil {
		return nil, &problem{"The provider's ID token is invalid", err}
	}
	if _, found := lookUp(claims, p.cfg.RoleClaim); !found && m.UserInfo != "" {
		p.addUserInfo(ctx, m, token, id.Subject, claims)
	}
	return p.identity(id.Subject, claims), nil
}

// addUserInfo adds claims that the provider gives only at its userinfo endpoint. If the
// endpoint fails they are absent, which the page without a role shows.
func (p *provider) addUserInfo(ctx context.Context, m *metadata, token *oauth2.Token, subject string, claims map[string]any) {
	info, err := m.provider.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil || info.Subject != subject {
		return
	}
	var more map[string]any
	if info.Claims(&more) != nil {
		return
	}
	for name, value := range more {
		if _, known := claims[name]; !known {
			claims[name] = value
		}
	}
}

// exchangeError describes an error of the token endpoint, without the response's body.
func exchangeError(err error) error {
	var refused *oauth2.RetrieveError
	var connection *url.Error
	switch {
	case errors.As(err, &refused):
		status := 0
		if refused.Response != nil {
			status = refused.Response.StatusCode
		}
		return fmt.Errorf("the token endpoint answered %d %s", status, errorCode(refused.ErrorCode))
	case errors.As(err, &connection):
		return fmt.Errorf("the token endpoint does not answer: %w", connection.Err)
	}
	return errors.New("the token endpoint's answer cannot be read")
}

// errorCode is an error code of RFC 6749, section 5.2, or "".
func errorCode(text string) string {
	if len(text) > 64 || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return text
}

// lookUp finds a claim by its name, or inside a claim along the dots of path.
func lookUp(claims map[string]any, path string) (any, bool) {
	if value, found := claims[path]; found {
		return value, true
	}
	for at := 0; ; {
		dot := strings.IndexByte(path[at:], '.')
		if dot < 0 {
			return nil, false
		}
		at += dot
		if below, isMap := claims[path[:at]].(map[string]any); isMap {
			if value, found := lookUp(below, path[at+1:]); found {
				return value, true
			}
		}
		at++
	}
}

// texts are the values of a claim: a text, or the texts in a list.
func texts(value any) []string {
	switch value := value.(type) {
	case string:
		return []string{value}
	case []any:
		found := []string{}
		for _, item := range value {
			if text, isText := item.(string); isText {
				found = append(found, text)
			}
		}
		return found
	}
	return []string{}
}

// identity reads the user from the claims.
func (p *provider) identity(subject string, claims map[string]any) *identity {
	who := &identity{subject: p.cfg.Issuer + "#" + subject, values: []string{}}
	value, found := lookUp(claims, p.cfg.RoleClaim)
	if found && (p.cfg.RoleClaim != "email" || claims["email_verified"] == true) {
		who.values = texts(value)
	}
	for _, claim := range []string{"preferred_username", "email", "name"} {
		if name, isText := claims[claim].(string); isText && shown(name, MaxName) != "" {
			who.name = shown(name, MaxName)
			break
		}
	}
	if who.name == "" {
		who.name = shown(subject, MaxName)
	}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		if len(who.claims) < 50 {
			who.claims = append(who.claims, shown(name, 60))
		}
	}
	return who
}
