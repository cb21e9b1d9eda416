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
	// A token that Vault still knows, and that we got by a login not longer ago
	// than this, is not replaced because one path is denied: the next login would
	// give the same policies, and a thousand denied references a thousand logins.
	youngToken = time.Minute
	// After a refused login the next one waits, between the two.
	leastLoginPause = time.Second
	mostLoginPause  = time.Minute
)

// session holds the token with which we ask: it logs in when there is none,
// renews it in the background, and replaces one that Vault no longer takes.
type session struct {
	client *client
	method *method
	log    zerolog.Logger
	life   context.Context
	logins *cache[*token] // nothing is kept: it makes one login serve all who wait
	gate   *breaker       // after refused logins

	mu      sync.Mutex
	current *token // nil: log in before the next request; guarded by mu
}

// token is what one login gave.
type token struct {
	value    Value
	since    time.Time
	issued   bool // by our login, so ours to give back
	unwatch  context.CancelFunc
	lifetime *api.Secret // for the watcher; nil for one that we do not renew
}

func newSession(life context.Context, c *client, m *method, log zerolog.Logger) *session {
	return &session{
		client: c, method: m, log: log, life: life,
		logins: newCache[*token](life, 4*c.timeout),
		gate:   &breaker{threshold: 1, least: leastLoginPause, most: mostLoginPause},
	}
}

// token returns the current one, logging in where there is none. However many
// wait, one login goes on at a time.
func (s *session) token(ctx context.Context) (*token, error) {
	if t := s.held(); t != nil {
		return t, nil
	}
	return s.logins.get(ctx, "login", time.Time{}, func(ctx context.Context) (*token, time.Duration, error) {
		if t := s.held(); t != nil { // the login before this one may have ended just now
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
		return nil, &Error{Kind: ErrUnavailable, What: last.What, Hint: "tried again in " + wait.Round(time.Second/10).String()}
	}
	t, err := s.method.login(ctx, s.client)
	var refused *Error
	switch {
	case err == nil:
		permit.succeeded()
	case errors.Is(err, errRefused) && errors.As(err, &refused):
		permit.failed(refused)
		s.log.Warn().Str("method", s.method.auth.method()).Str("reason", refused.What).Msg("Vault does not let us in")
		return nil, err
	default: // Vault is away, and then the client's breaker counts
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

// watch renews the token until it cannot be renewed any more, and then forgets
// it, so that the next request logs in afresh: before it expires, not after.
func (s *session) watch(ctx context.Context, t *token) {
	event := s.log.Info().Str("method", s.method.auth.method())
	if t.lifetime == nil {
		event.Msg("logged in to Vault with a token that we need not renew")
		return
	}
	event.Dur("ttl", time.Duration(t.lifetime.Auth.LeaseDuration)*time.Second).Bool("renewable", t.lifetime.Auth.Renewable).Msg("logged in to Vault")
	watcher, err := s.client.api.NewLifetimeWatcher(&api.LifetimeWatcherInput{Secret: t.lifetime})
	if err != nil {
		return // it only checks that there is a secret
	}
	go watcher.Start()
	go func() {
		defer watcher.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-watcher.RenewCh():
				s.log.Debug().Msg("renewed the Vault token")
			case <-watcher.DoneCh():
				s.log.Debug().Msg("the Vault token cannot be renewed any further")
				s.forget(t)
				return
			}
		}
	}()
}

// forget makes the next request log in, unless somebody did so already.
func (s *session) forget(t *token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == t {
		s.current = nil
		t.unwatch()
	}
}

// refused is told that Vault answered 403 to a request with t. It says whether
// trying again makes sense: with another token, that is.
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

// close gives a token of ours back, when that takes no waiting, and ends the
// renewal.
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
