package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"
)

// method logs in as configured. Only one login is in progress at a time.
type method struct {
	auth  Auth
	files files
	agent bool // requests go to a Vault agent, which may log in for Certpost

	// A wrapping token can be unwrapped once, so its content is kept for later logins,
	// until the reference gives another token.
	wrapping, unwrapped Value
}

// login gets a token. Its error is always an *Error of kind ErrUnavailable: a failed
// login says nothing about any secret, so deliveries wait until the operator has fixed
// the login.
func (m *method) login(ctx context.Context, c *client) (*token, error) {
	if m.auth.method() == "token" {
		return m.useToken(ctx, c)
	}
	path, body, err := m.credentials(ctx, c)
	if err != nil {
		return nil, err
	}
	sent, err := json.Marshal(body)
	if err != nil {
		return nil, noLogin(errors.New("the credentials are not text"))
	}
	ans, err := c.send(ctx, request{method: http.MethodPut, path: path, body: sent})
	if err != nil {
		return nil, err
	}
	defer clear(ans.body)
	at := "auth/" + clean(m.auth.mount())
	switch ans.status {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, noLogin(fmt.Errorf("no auth method is mounted at %s; check vault.auth.mount and vault.namespace", at))
	default:
		return nil, noLogin(fmt.Errorf("%s refuses Certpost's credentials (status %d); %s", at, ans.status, m.remedy()))
	}
	var got api.Secret
	if err := json.Unmarshal(ans.body, &got); err != nil || got.Auth == nil || got.Auth.ClientToken == "" {
		return nil, noLogin(fmt.Errorf("%s returned no token; logins with a second factor are not supported", at))
	}
	t := &token{value: New([]byte(got.Auth.ClientToken)), issued: true}
	if got.Auth.LeaseDuration > 0 {
		t.lifetime = &got
	}
	return t, nil
}

// errRefused marks a login that failed although Vault is available: the operator has
// to fix it.
var errRefused = errors.New("login refused")

func noLogin(why error) error {
	return &Error{Kind: ErrUnavailable, What: "the login to Vault failed: " + why.Error(), Cause: errRefused}
}

func (m *method) remedy() string {
	switch m.auth.method() {
	case "approle":
		return "the role id is unknown, or the secret id is wrong, expired or used up: create a new secret id"
	case "kubernetes":
		return "check vault.auth.role, and that the role is bound to this service account and namespace"
	case "jwt":
		return "check vault.auth.role, and that issuer, audience, claims and expiry of the JWT match it"
	case "cert":
		return "check that the client certificate is valid and that a role trusts its CA"
	}
	return "check user name and password"
}

// credentials returns the path and the body of the login request.
func (m *method) credentials(ctx context.Context, c *client) (path string, body map[string]string, err error) {
	login := "auth/" + m.auth.mount() + "/login"
	switch m.auth.method() {
	case "approle":
		body, err = m.appRole(ctx, c)
	case "kubernetes":
		body, err = m.jwt(ctx, Ref{File: orDefault(m.auth.JWTFile, kubernetesTokenFile)})
	case "jwt":
		ref := m.auth.JWT
		if m.auth.JWTFile != "" {
			ref = Ref{File: m.auth.JWTFile}
		}
		body, err = m.jwt(ctx, ref)
	case "cert":
		body = map[string]string{}
		if m.auth.Role != "" {
			body["name"] = m.auth.Role
		}
	case "userpass":
		return m.userPass(ctx, login)
	}
	return login, body, err
}

func (m *method) appRole(ctx context.Context, c *client) (map[string]string, error) {
	role, err := m.text(ctx, m.auth.RoleID)
	if err != nil {
		return nil, err
	}
	body := map[string]string{"role_id": role}
	if m.auth.SecretID.IsZero() {
		return body, nil
	}
	secret, err := m.resolve(ctx, m.auth.SecretID)
	if err == nil && m.auth.SecretIDWrapped {
		secret, err = m.unwrap(ctx, c, secret)
	}
	if err != nil {
		return nil, err
	}
	body["secret_id"] = revealed(secret)
	return body, nil
}

// unwrap exchanges the wrapping token for its secret id.
func (m *method) unwrap(ctx context.Context, c *client, wrapping Value) (Value, error) {
	if wrapping.Equal(m.wrapping) {
		return m.unwrapped, nil
	}
	ans, err := c.send(ctx, request{method: http.MethodPut, path: "sys/wrapping/unwrap", token: wrapping})
	if err != nil {
		return Value{}, err
	}
	defer clear(ans.body)
	var got struct {
		Data struct {
			SecretID string `json:"secret_id"`
		} `json:"data"`
	}
	if ans.status != http.StatusOK {
		return Value{}, noLogin(fmt.Errorf("the wrapping token in %s is expired or was used before; if it was not unwrapped by you, "+
			"an attacker may have the secret id: revoke it and wrap a new one", m.auth.SecretID))
	}
	if json.Unmarshal(ans.body, &got) != nil || got.Data.SecretID == "" {
		return Value{}, noLogin(fmt.Errorf("the wrapping token in %s does not contain a secret id", m.auth.SecretID))
	}
	m.wrapping, m.unwrapped = wrapping, New([]byte(got.Data.SecretID))
	return m.unwrapped, nil
}

func (m *method) jwt(ctx context.Context, ref Ref) (map[string]string, error) {
	jwt, err := m.text(ctx, ref)
	return map[string]string{"role": m.auth.Role, "jwt": jwt}, err
}

func (m *method) userPass(ctx context.Context, login string) (string, map[string]string, error) {
	user, err := m.text(ctx, m.auth.Username)
	if err != nil {
		return "", nil, err
	}
	if err := validateSegments("user name", user); err != nil || strings.Contains(user, "/") {
		return "", nil, noLogin(errors.New("the user name has characters that are not allowed in a Vault path"))
	}
	password, err := m.text(ctx, m.auth.Password)
	return login + "/" + user, map[string]string{"password": password}, err
}

// useToken takes the configured token and asks Vault for its lifetime.
func (m *method) useToken(ctx context.Context, c *client) (*token, error) {
	value, err := m.configuredToken(ctx)
	if err != nil {
		return nil, err
	}
	ans, err := c.send(ctx, lookupSelf(value))
	if err != nil {
		return nil, err
	}
	defer clear(ans.body)
	switch {
	case ans.status == http.StatusOK:
	case ans.status == http.StatusForbidden && !ans.tokenIsBad():
		// A token without the default policy may not look itself up. It may still be
		// valid, but it is not renewed.
		return &token{value: value}, nil
	default:
		return nil, noLogin(errors.New("the token is wrong, expired or revoked; create a new one, " +
			"for a service a periodic one"))
	}
	var got struct {
		Data struct {
			TTL       int  `json:"ttl"` // seconds; 0 never expires
			Renewable bool `json:"renewable"`
		} `json:"data"`
	}
	if err := json.Unmarshal(ans.body, &got); err != nil {
		return nil, noLogin(errors.New("the answer to the lookup of the token cannot be read; check vault.address"))
	}
	t := &token{value: value}
	if got.Data.TTL > 0 && !value.IsZero() {
		t.lifetime = &api.Secret{Auth: &api.SecretAuth{
			ClientToken: revealed(value), LeaseDuration: got.Data.TTL, Renewable: got.Data.Renewable,
		}}
	}
	return t, nil
}

// configuredToken returns the token of the configuration, else that of VAULT_TOKEN or
// ~/.vault-token, as Vault's own command does.
func (m *method) configuredToken(ctx context.Context) (Value, error) {
	if !m.auth.Token.IsZero() {
		return m.resolve(ctx, m.auth.Token)
	}
	if os.Getenv(api.EnvVaultToken) != "" {
		return m.resolve(ctx, Ref{Env: api.EnvVaultToken})
	}
	if home, err := os.UserHomeDir(); err == nil {
		path := filepath.Join(home, ".vault-token")
		if _, err := os.Stat(path); err == nil {
			return m.resolve(ctx, Ref{File: path})
		}
	}
	if m.agent {
		return Value{}, nil // the agent adds its own token to the requests
	}
	return Value{}, noLogin(errors.New("no token is configured: set vault.auth, VAULT_TOKEN or ~/.vault-token"))
}

func (m *method) resolve(ctx context.Context, ref Ref) (Value, error) {
	secret, err := local(m.files, ref).read(ctx, ref)
	if err != nil {
		return Value{}, noLogin(err)
	}
	return secret.Value, nil
}

func (m *method) text(ctx context.Context, ref Ref) (string, error) {
	value, err := m.resolve(ctx, ref)
	if err != nil {
		return "", err
	}
	return revealed(value), nil
}

// revealed returns the secret as a string, for JSON bodies. Strings cannot be cleared:
// the copy stays in memory until it is garbage-collected.
func revealed(v Value) string {
	b := v.Reveal()
	defer clear(b)
	return string(b)
}

func orDefault(s, standard string) string {
	if s == "" {
		return standard
	}
	return s
}
