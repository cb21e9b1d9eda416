package delivery

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

const (
	tokenTimeout = 15 * time.Second
	// tokenMargin is how long before its expiry a token is no longer used: usually
	// longer than a mail waits for a connection.
	tokenMargin = time.Minute
	// tokenGuess is how long a token without an expiry is used.
	tokenGuess = 5 * time.Minute
)

// tokens fetches access tokens for client credentials and keeps them until they
// expire. Concurrent callers share one request.
type tokens struct {
	client *http.Client
	salt   [sha256.Size]byte // so that a key of grants reveals nothing about a secret

	mu     sync.Mutex
	grants map[[sha256.Size]byte]*grant
}

// grant is the token of one client.
type grant struct {
	lock  chan struct{} // has room for one: the caller that fills it may use and fetch the token
	token secrets.Value
	until time.Time
}

func newTokens() *tokens {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	t := &tokens{grants: make(map[[sha256.Size]byte]*grant), client: &http.Client{
		Transport: transport,
		Timeout:   tokenTimeout,
		// No redirects: the client secret is sent only to the configured URL.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	_, _ = rand.Read(t.salt[:]) // never fails
	return t
}

// get returns a token that is not the refused one.
func (t *tokens) get(ctx context.Context, o OAuth2, secret, refused secrets.Value) (secrets.Value, *verdict.Failure) {
	g := t.grant(o, secret)
	select {
	case g.lock <- struct{}{}:
		defer func() { <-g.lock }()
	case <-ctx.Done():
		return secrets.Value{}, tokenFailure(ctx, o, ctx.Err())
	}
	if time.Now().Before(g.until) && (refused.IsZero() || !g.token.Equal(refused)) {
		return g.token, nil
	}
	password := secret.Reveal()
	defer clear(password)
	config := clientcredentials.Config{ClientID: o.ClientID, ClientSecret: string(password), TokenURL: o.TokenURL, Scopes: o.Scopes}
	got, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, t.client))
	if err != nil {
		return secrets.Value{}, tokenFailure(ctx, o, err)
	}
	g.token, g.until = secrets.New([]byte(got.AccessToken)), time.Now().Add(tokenGuess)
	if !got.Expiry.IsZero() {
		g.until = got.Expiry.Add(-min(tokenMargin, time.Until(got.Expiry)/10))
	}
	return g.token, nil
}

// grant returns the grant of a client, and adds it if there is none. Then it removes
// expired grants, such as those of client secrets that have been replaced.
func (t *tokens) grant(o OAuth2, secret secrets.Value) *grant {
	password := secret.Reveal()
	defer clear(password)
	hash := hmac.New(sha256.New, t.salt[:])
	for _, part := range append([]string{o.TokenURL, o.ClientID, string(password)}, o.Scopes...) {
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	key := [sha256.Size]byte(hash.Sum(nil))
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.grants[key]
	if g == nil {
		for old, g := range t.grants {
			select {
			case g.lock <- struct{}{}:
				if time.Now().After(g.until) {
					delete(t.grants, old)
				}
				<-g.lock
			default: // in use
			}
		}
		g = &grant{lock: make(chan struct{}, 1)}
		t.grants[key] = g
	}
	return g
}

// oauthErrors are the error codes of token endpoints (RFC 6749 section 5.2). Others
// may be any text and are not repeated.
var oauthErrors = []string{"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client",
	"unsupported_grant_type", "invalid_scope", "temporarily_unavailable", "server_error"}

// entraError matches the number of an error of Microsoft Entra.
var entraError = regexp.MustCompile(`\bAADSTS[0-9]{4,8}\b`)

// tokenFailure is the verdict when there is no token. Of the answer only codes are
// repeated: the rest may contain the secret.
func tokenFailure(ctx context.Context, o OAuth2, err error) *verdict.Failure {
	f := &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SecretUnavailable, Phase: verdict.PhaseSecrets, Certainty: verdict.NotSent}, Cause: ctx.Err()}
	endpoint := "the token endpoint"
	if u, err := url.Parse(o.TokenURL); err == nil {
		f.ToFix = legible.Clean(u.Host, 100)
		endpoint += " at " + f.ToFix
	}
	refused, answered := errors.AsType[*oauth2.RetrieveError](err)
	var network interface{ Timeout() bool }
	switch {
	case !answered && ctx.Err() != nil:
		f.Reason = endpoint + " did not answer before the attempt ended"
	case !answered && errors.As(err, &network) && network.Timeout():
		f.Reason = fmt.Sprintf("%s did not answer within %s", endpoint, legible.Seconds(tokenTimeout))
	case !answered && isUntrusted(err):
		f.Reason = endpoint + " has a certificate that is not trusted here; the client secret was not sent"
	case !answered:
		f.Reason = endpoint + " could not be reached, or its answer has no token"
	default:
		status := refused.Response.StatusCode
		f.Reason = fmt.Sprintf("%s answered %d", endpoint, status)
		if slices.Contains(oauthErrors, refused.ErrorCode) {
			f.Reason += " " + refused.ErrorCode
		}
		if number := entraError.FindString(refused.ErrorDescription); number != "" {
			f.Reason += " (" + number + ")"
		}
		busy := status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout ||
			strings.HasPrefix(refused.ErrorCode, "temporarily") || refused.ErrorCode == "server_error"
		if !busy {
			f.Code = verdict.SecretDenied
			f.Reason += fmt.Sprintf(" to client_id %s; check token_url, client_id, client_secret and scopes, then replay", legible.Clean(o.ClientID, 100))
			return f
		}
	}
	f.Reason += "; Certpost retries"
	return f
}

func isUntrusted(err error) bool {
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	return untrusted
}

// token fetches an access token that is not the refused one. If the endpoint refuses
// the client secret, token reads the secret again and, if it differs, retries once: it
// may have been changed since it was cached.
func (c *Courier) token(ctx context.Context, t *Target, p *provisions, refused secrets.Value) (secrets.Value, *verdict.Failure) {
	secret, failure := c.secret(ctx, t.OAuth2.ClientSecret, p)
	if failure != nil {
		return secrets.Value{}, failure
	}
	token, failure := c.tokens.get(ctx, t.OAuth2, secret, refused)
	if failure == nil || failure.Code != verdict.SecretDenied {
		return token, failure
	}
	fresh, err := c.store.Fresh(ctx, t.OAuth2.ClientSecret, p.vars)
	if err != nil {
		return secrets.Value{}, secretFailure(err)
	}
	if fresh.Value.Equal(secret) {
		return secrets.Value{}, failure
	}
	p.remember(t.OAuth2.ClientSecret, fresh)
	return c.tokens.get(ctx, t.OAuth2, fresh.Value, refused)
}
