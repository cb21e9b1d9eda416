package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/rs/zerolog"
)

const (
	// youngToken: a token that Vault still accepts and that is younger than this is not
	// replaced when a path is denied. A new login would give the same policies, and a
	// thousand denied references would cause a thousand logins.
	youngToken = time.Minute
	// After a refused login the next one waits, between leastLoginPause and
	// mostLoginPause.
	leastLoginPause = time.Second
	mostLoginPause  = time.Minute
)

// session holds the token for requests to Vault: it logs in when there is none, renews
// the token in the background, and replaces a token that Vault no longer accepts.
type session struct {
	client *client
	method *method
	log    zerolog.Logger
	life   context.Context
	logins *cache[*token] // keeps nothing; makes one login serve all waiting callers
	gate   *breaker       // delays logins after a refused one

	mu      sync.Mutex
	current *token // nil: log in before the next request; guarded by mu
}

// token is the result of one login.
type token struct {
	value    Value
	since    time.Time
	issued   bool // by Certpost's login, so Certpost revokes it at the end
	unwatch  context.CancelFunc
	lifetime *api.Secret // for the watcher; nil for a token that is not renewed
}

func newSession(life context.Context, c *client, m *method, log zerolog.Logger) *session {
	return &session{
		client: c, method: m, log: log, life: life,
		logins: newCache[*token](life, 4*c.timeout),
		gate:   &breaker{threshold: 1, least: leastLoginPause, most: mostLoginPause},
	}
}

// token returns the current token, and logs in if there is none. Only one login is in
// progress at a time, for all waiting callers.
func (s *session) token(ctx context.Context) (*token, error) {
	if t := s.held(); t != nil {
		return t, nil
	}
	return s.logins.get(ctx, "login", time.Time{}, func(ctx context.Context) (*token, time.Duration, error) {
		if t := s.held(); t != nil { // the previous login may have ended just now
			return t, 0, nil
		}
		t, err := s.login(ctx)
		return t, 0, err
	})
}

func (s *session) held() *token {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

func (s *session) login(ctx context.Context) (*token, error) {
	permit, last, wait := s.gate.admit()
	if last != nil {
		return nil, &Error{Kind: ErrUnavailable, What: last.What, Hint: "next attempt in " + wait.Round(time.Second/10).String()}
	}
	t, err := s.method.login(ctx, s.client)
	var refused *Error
	switch {
	case err == nil:
		permit.succeeded()
	case errors.Is(err, errRefused) && errors.As(err, &refused):
		permit.failed(refused)
		s.log.Warn().Str("method", s.method.auth.method()).Str("reason", refused.What).Msg("the login to Vault failed; secrets cannot be read until it succeeds")
		return nil, err
	default: // Vault is unavailable; the client's breaker counts the failure
		permit.abandoned()
		return nil, err
	}
	t.since = time.Now()
	var watching context.Context
	watching, t.unwatch = context.WithCancel(s.life)
	s.mu.Lock()
	s.current = t
	s.mu.Unlock()
	s.watch(watching, t)
	return t, nil
}

// watch renews the token until it cannot be renewed any more, and then drops it, so
// that the next request logs in again before the token expires.
func (s *session) watch(ctx context.Context, t *token) {
	event := s.log.Info().Str("method", s.method.auth.method())
	if t.lifetime == nil {
		event.Msg("logged in to Vault with a token that is not renewed")
		return
	}
	s.client.meter.holds(t.lifetime.Auth.LeaseDuration)
	event.Dur("ttl", time.Duration(t.lifetime.Auth.LeaseDuration)*time.Second).Bool("renewable", t.lifetime.Auth.Renewable).Msg("logged in to Vault")
	watcher, err := s.client.api.NewLifetimeWatcher(&api.LifetimeWatcherInput{Secret: t.lifetime})
	if err != nil {
		return // cannot happen: it only checks that Secret is set
	}
	go watcher.Start()
	go func() {
		defer watcher.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case renewed := <-watcher.RenewCh():
				if renewed.Secret != nil && renewed.Secret.Auth != nil {
					s.client.meter.holds(renewed.Secret.Auth.LeaseDuration)
				}
				s.log.Debug().Msg("renewed the Vault token")
			case <-watcher.DoneCh():
				s.log.Debug().Msg("the Vault token cannot be renewed any more; the next request logs in again")
				s.forget(t)
				return
			}
		}
	}()
}

// forget drops the token t, so that the next request logs in; it does nothing if t has
// already been replaced.
func (s *session) forget(t *token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == t {
		s.current = nil
		t.unwatch()
	}
}

// refused handles a 403 of Vault to a request with t. again reports whether a retry
// with another token makes sense.
func (s *session) refused(ctx context.Context, t *token, ans answer) (again bool, err error) {
	if s.held() != t {
		return true, nil
	}
	if !ans.tokenIsBad() && time.Since(t.since) < youngToken {
		self, err := s.client.send(ctx, lookupSelf(t.value))
		if err != nil {
			return false, err
		}
		if self.status == http.StatusOK {
			return false, nil
		}
	}
	s.forget(t)
	return true, nil
}

// tokenIsBad reports whether a 403 is about the token, not about the path.
// Vault says so since 1.13.
func (a answer) tokenIsBad() bool {
	var said struct {
		Errors []string `json:"errors"`
	}
	if a.status != http.StatusForbidden || json.Unmarshal(a.body, &said) != nil {
		return false
	}
	return slices.ContainsFunc(said.Errors, func(text string) bool { return strings.Contains(text, "invalid token") })
}

func lookupSelf(token Value) request {
	return request{method: http.MethodGet, path: "auth/token/lookup-self", token: token}
}

// close ends the renewal, and revokes the token if Certpost's login issued it and
// Vault is available.
func (s *session) close(ctx context.Context) {
	s.mu.Lock()
	t := s.current
	s.current = nil
	s.mu.Unlock()
	if t == nil {
		return
	}
	t.unwatch()
	if t.issued && s.client.breaker.failure() == nil {
		_, _ = s.client.send(ctx, request{method: http.MethodPut, path: "auth/token/revoke-self", token: t.value})
	}
}
