package delivery

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/smtp"
)

func (t *Target) validateAuth(v *validation) {
	v.ref("username", t.Username.Ref)
	v.ref("password", t.Password)
	if !visible(t.Username.Plain) {
		v.err("username", "has control characters")
	}
	method := t.authMethod()
	if !t.OAuth2.IsZero() {
		t.validateOAuth2(v, method)
	}
	if method == smtp.AuthNone {
		switch {
		case t.AuthMethod == smtp.AuthNone && (!t.Username.IsZero() || !t.Password.IsZero()):
			v.warn("auth_method", "is none, so username and password are not used")
		case t.AuthMethod == "" && !t.Password.IsZero():
			v.err("username", "is required: password is set")
		}
		return
	}
	if problem := smtp.FIPSProblem(method); problem != "" {
		v.err("auth_method", "%s", problem)
	}
	if t.Username.IsZero() {
		v.err("username", "is required by auth_method %s", method)
	}
	switch {
	case t.Password.IsZero() && method == smtp.AuthXOAUTH2 && t.OAuth2.IsZero():
		v.err("password", "is required by auth_method xoauth2: want an access token as the password, or oauth2, which fetches one")
	case t.Password.IsZero() && t.OAuth2.IsZero():
		v.err("password", "is required by auth_method %s", method)
	}
	t.validateLogin(v, method)
}

// validateLogin reports settings that expose the password.
func (t *Target) validateLogin(v *validation, method string) {
	if t.AllowInsecureAuth {
		return
	}
	// With opportunistic the session sends the password only after TLS.
	clear := t.tlsMode() == smtp.TLSPlaintext
	switch {
	case !smtp.TellsPassword(method) && clear:
		v.warn("auth_method", "%s without TLS protects the password only if it cannot be guessed: want starttls or smtps", method)
	case !smtp.TellsPassword(method):
	case clear:
		v.err("tls_mode", "plaintext would expose the password to anyone on the network path: want starttls or smtps, or allow_insecure_auth: true")
	case t.TLSSkipVerify && t.TLSFingerprint == "":
		v.err("tls_skip_verify", "would send the password to anyone who impersonates the relay: want ca_file or tls_fingerprint, or allow_insecure_auth: true")
	}
}

func (t *Target) validateOAuth2(v *validation, method string) {
	o := t.OAuth2
	if method != smtp.AuthXOAUTH2 {
		v.err("oauth2", "is not used with auth_method %s: want xoauth2", method)
	}
	if !t.Password.IsZero() {
		v.err("oauth2", "cannot be combined with password: want one of them")
	}
	if o.ClientID == "" {
		v.err("oauth2.client_id", "is required")
	}
	if o.ClientSecret.IsZero() {
		v.err("oauth2.client_secret", "is required")
	}
	v.ref("oauth2.client_secret", o.ClientSecret)
	if !visible(o.ClientID) {
		v.err("oauth2.client_id", "has control characters")
	}
	for i, scope := range o.Scopes {
		if scope == "" || strings.ContainsAny(scope, " \"\\") || !visible(scope) {
			v.err(fmt.Sprintf("oauth2.scopes[%d]", i), "is not a scope: want one without spaces, quotes and backslashes, such as https://outlook.office365.com/.default")
		}
	}
	u, err := url.Parse(o.TokenURL)
	switch {
	case o.TokenURL == "":
		v.err("oauth2.token_url", "is required")
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || !visible(o.TokenURL):
		v.err("oauth2.token_url", "want a URL such as https://login.microsoftonline.com/TENANT/oauth2/v2.0/token")
	case u.User != nil:
		v.err("oauth2.token_url", "has a user or a password in it: want client_id and client_secret")
	case legible.WrongPort(u) != "":
		v.err("oauth2.token_url", "%s", legible.WrongPort(u))
	case u.Scheme == "http" && !loopback(u.Hostname()):
		v.err("oauth2.token_url", "would expose client_secret to anyone on the network path: want https")
	}
}

// authMethod returns AuthMethod, or its default.
func (t *Target) authMethod() string {
	switch {
	case t.AuthMethod != "":
		return t.AuthMethod
	case !t.OAuth2.IsZero():
		return smtp.AuthXOAUTH2
	case !t.Username.IsZero():
		return smtp.AuthPlain
	}
	return smtp.AuthNone
}
