package secrets

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/tracing"
)

const (
	// mountsTTL is how long the engine of a mount is cached: for that long an engine
	// that is upgraded to version 2 is read in the wrong form.
	mountsTTL = time.Minute
	// farewell is the time limit of closing.
	farewell = 2 * time.Second
)

// vault reads and writes the secrets of one Vault server.
type vault struct {
	client   *client
	session  *session
	cacheTTL time.Duration
	end      context.CancelFunc

	engines *cache[engine]  // by mount
	fields  *cache[Secret]  // by reference: fields of KV secrets; transit passes through
	leases  *cache[*record] // by mount and path: dynamic secrets, whose fields belong together
}

// openVault returns nil when Vault is not configured.
func openVault(cfg Config, f files, log zerolog.Logger) (*vault, error) {
	if !cfg.configured() {
		return nil, nil
	}
	c, err := newClient(cfg, log)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	ttl := cfg.CacheTTL
	if ttl == 0 {
		ttl = defaultCacheTTL
	}
	patience := 4 * c.timeout // a read may need a login, the engine, the read, and once more after a 403
	return &vault{
		client: c, cacheTTL: ttl, end: end,
		session: newSession(life, c, &method{auth: cfg.Auth, files: f, agent: cfg.viaAgent()}, log),
		engines: newCache[engine](life, patience),
		fields:  newCache[Secret](life, patience),
		leases:  newCache[*record](life, patience),
	}, nil
}

func (v *vault) close() {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	v.session.close(ctx)
	v.end()
	v.fields.clear()
	v.leases.clear()
	v.client.http.CloseIdleConnections()
}

// get returns the secret, from the cache or read anew as how says.
func (v *vault) get(ctx context.Context, ref Ref, how reading) (Secret, error) {
	if ref.Transit != nil {
		return v.fields.get(ctx, ref.key(), time.Time{}, func(ctx context.Context) (Secret, time.Duration, error) {
			secret, err := v.decrypt(ctx, ref)
			return secret, 0, err
		})
	}
	since, ttl, key := time.Time{}, v.cacheTTL, ref.key()
	switch how {
	case readNow:
		since = time.Now()
	case readAndForget:
		// A key of its own: values under it are never cached.
		since, ttl, key = time.Now(), 0, "uncached "+key
	}
	eng, err := v.engine(ctx, ref)
	if err != nil {
		return Secret{}, err
	}
	if eng == otherEngine && how != readAndForget {
		return v.leased(ctx, ref, since)
	}
	return v.fields.get(ctx, key, since, func(ctx context.Context) (Secret, time.Duration, error) {
		rec, err := v.read(ctx, ref, eng)
		if err != nil {
			return Secret{}, 0, err
		}
		defer rec.clear()
		secret, err := rec.pick(ref)
		return secret, ttl, err
	})
}

// key returns a cache key that is different for different references.
func (r Ref) key() string {
	if r.Transit != nil {
		return fmt.Sprintf("transit %q %q %q", r.Transit.Mount, r.Transit.Key, r.Transit.Ciphertext)
	}
	return fmt.Sprintf("vault %q %q %q %d", r.Vault.Mount, r.Vault.Path, r.Vault.Key, r.Vault.Version)
}

// health makes a request that needs no token, and also reports a refused login.
func (v *vault) health(ctx context.Context) error {
	ans, err := v.ask(ctx, "sys/health")
	if err != nil {
		return err
	}
	var said struct {
		Initialized        bool `json:"initialized"`
		Sealed             bool `json:"sealed"`
		Standby            bool `json:"standby"`
		PerformanceStandby bool `json:"performance_standby"`
	}
	unwell := func(what string) error { return &Error{Kind: ErrUnavailable, What: what} }
	switch {
	case json.Unmarshal(ans.body, &said) != nil:
		return unwell("the server at vault.address is not a Vault server")
	case !said.Initialized:
		return unwell("Vault is not initialized")
	case said.Sealed:
		return unwell("Vault is sealed")
	case said.Standby && !said.PerformanceStandby:
		return unwell("this Vault node is on standby")
	}
	if refused := v.session.gate.failure(); refused != nil {
		return refused
	}
	return nil
}

// ask is a GET without a token that bypasses the breaker: a probe must see Vault as it
// is now, and its failures do not count for the breaker.
func (v *vault) ask(ctx context.Context, path string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, v.client.timeout)
	defer cancel()
	ans, failure := v.client.exchange(ctx, request{method: http.MethodGet, path: path, query: everyStateIsOK})
	if failure != nil {
		return answer{}, failure
	}
	return ans, nil
}

// everyStateIsOK makes sys/health answer 200 in every state, with the state in
// the body.
var everyStateIsOK = map[string][]string{
	"uninitcode": {"200"}, "sealedcode": {"200"}, "standbycode": {"200"}, "drsecondarycode": {"200"},
	"performancestandbycode": {"200"}, "removedcode": {"200"}, "haunhealthycode": {"200"},
}

// do makes a request with Certpost's token. After a 403 it retries once with a new
// login, if that can make a difference.
func (v *vault) do(ctx context.Context, r request) (ans answer, err error) {
	ctx, span := tracing.Child(ctx, tracing.Client, "vault "+r.method) // without the path: it names secrets
	defer func() {
		switch {
		case err != nil:
			span.Fail("vault")
		case ans.status != 0:
			span.Add(tracing.Number("http.response.status_code", ans.status))
		}
		span.End()
	}()
	for try := 1; ; try++ {
		t, err := v.session.token(ctx)
		if err != nil {
			return answer{}, err
		}
		r.token = t.value
		ans, err := v.client.send(ctx, r)
		if err != nil || ans.status != http.StatusForbidden {
			return ans, err
		}
		if try > 1 {
			if ans.tokenIsBad() {
				return answer{}, &Error{Kind: ErrUnavailable, What: "Vault refuses the token of a new login",
					Hint: "check the role's bound addresses and vault.namespace"}
			}
			return ans, nil
		}
		again, err := v.session.refused(ctx, t, ans)
		if err != nil || !again {
			return ans, err
		}
	}
}
