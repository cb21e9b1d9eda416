package secrets

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/rs/zerolog"
)

const (
	// maxInFlight bounds the requests to Vault at a time, and so the requests that
	// are still in flight when the breaker opens.
	maxInFlight = 16
	// After awayAfter consecutive failures Vault is considered unavailable; further
	// requests wait for a pause between leastPause and mostPause.
	awayAfter  = 5
	leastPause = time.Second
	mostPause  = 30 * time.Second
)

// client makes requests to Vault: bounded in time, size and number, without retries,
// and only to one host.
type client struct {
	api     *api.Client
	http    *http.Transport
	timeout time.Duration
	slots   chan struct{}
	breaker *breaker
	log     zerolog.Logger
	meter   *meter
}

// request is one request. Each request has its own token, because the SDK shares one
// token among all requests, and a login may be in progress at the same time.
type request struct {
	method string // GET, PUT, or PATCH (a JSON merge patch)
	path   string // below /v1/
	query  url.Values
	body   []byte
	token  Value // zero for logins
}

// answer is an answer of Vault about the request itself: its status is below 500, not
// a redirect, and not 429, and its body, if it has one, is a JSON object.
type answer struct {
	status int
	body   []byte
}

// configured reports whether the configuration or the environment has an address.
func (c Config) configured() bool {
	return c.Address != "" || os.Getenv(api.EnvVaultAddress) != "" || os.Getenv(api.EnvVaultAgentAddr) != ""
}

// viaAgent reports whether requests go to a Vault agent or proxy.
func (c Config) viaAgent() bool {
	return strings.HasPrefix(c.Address, "unix://") || c.Address == "" && os.Getenv(api.EnvVaultAgentAddr) != ""
}

func newClient(cfg Config, log zerolog.Logger) (*client, error) {
	conf := api.DefaultConfig()
	if conf.Error != nil {
		return nil, errors.New("vault: one of the VAULT_ environment variables is invalid (addresses, durations, certificates)")
	}
	if cfg.Address != "" {
		conf.Address, conf.AgentAddress = cfg.Address, ""
	}
	timeout := cfg.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
		if os.Getenv(api.EnvVaultClientTimeout) != "" {
			timeout = conf.Timeout
		}
	}
	// The SDK's own time-out ends its context when it returns the answer of a write,
	// before the body can be read. The time-out of http.Client includes the body.
	conf.Timeout, conf.HttpClient.Timeout = 0, timeout
	// The SDK would retry by itself: the breaker would count five requests as one, and
	// the reason of the first failure would be lost.
	conf.MaxRetries = 0
	conf.CheckRetry = func(_ context.Context, _ *http.Response, err error) (bool, error) { return false, err }
	// The SDK would follow a redirect to any host and send the token there.
	conf.DisableRedirects = true
	conf.HttpClient.CheckRedirect = sameHostOnly

	transport := conf.HttpClient.Transport.(*http.Transport)
	transport.MaxIdleConnsPerHost = maxInFlight
	if err := cfg.TLS.apply(transport.TLSClientConfig); err != nil {
		return nil, err
	}
	if transport.TLSClientConfig.InsecureSkipVerify {
		log.Warn().Msg("VAULT_SKIP_VERIFY is set: anyone on the network path to Vault can read every secret; unset it")
	}
	sdk, err := api.NewClient(conf)
	if err != nil {
		return nil, errors.New("vault: the address or one of the VAULT_ environment variables is invalid")
	}
	sdk.ClearToken()
	sdk.SetWrappingLookupFunc(func(string, string) string { return "" }) // VAULT_WRAP_TTL would wrap every answer
	if cfg.Namespace != "" {
		sdk.SetNamespace(cfg.Namespace)
	}
	conf.HttpClient.Transport = bounded{transport}
	return &client{
		api: sdk, http: transport, timeout: timeout, log: log,
		slots:   make(chan struct{}, maxInFlight),
		breaker: &breaker{threshold: awayAfter, least: leastPause, most: mostPause},
		meter:   &meter{},
	}, nil
}

func sameHostOnly(next *http.Request, before []*http.Request) error {
	first := before[0].URL
	if len(before) > 3 || next.URL.Scheme != first.Scheme || next.URL.Host != first.Host {
		return http.ErrUseLastResponse
	}
	return nil
}

// apply overrides the settings of the environment.
func (t TLS) apply(conf *tls.Config) error {
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return fmt.Errorf("vault.tls.ca_file: %s cannot be read", clean(t.CAFile))
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("vault.tls.ca_file: %s contains no PEM certificate", clean(t.CAFile))
		}
	}
	if t.CertFile != "" {
		load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			if err != nil {
				return nil, errClientCertificate
			}
			return &pair, nil
		}
		if _, err := load(nil); err != nil {
			return fmt.Errorf("vault.tls.cert_file: %s and %s are not a PEM certificate and its private key", clean(t.CertFile), clean(t.KeyFile))
		}
		// Read again for each connection: such certificates are valid for hours.
		conf.GetClientCertificate = load
	}
	if t.ServerName != "" {
		conf.ServerName = t.ServerName
	}
	return nil
}

// send makes the request. Its error is an *Error of kind ErrUnavailable, or ctx.Err()
// when ctx ended.
func (c *client) send(ctx context.Context, r request) (answer, error) {
	ans, err := c.admitted(ctx, r)
	c.meter.count(r, ans, err)
	return ans, err
}

// admitted makes the request once there is a free place and the breaker admits it.
func (c *client) admitted(ctx context.Context, r request) (answer, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	permit, last, wait := c.breaker.admit()
	if last != nil {
		return answer{}, &Error{Kind: ErrUnavailable, What: last.What, Hint: fmt.Sprintf("next attempt in %v", wait.Round(time.Second/10))}
	}
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	ans, failure := c.exchange(limited, r)
	switch {
	case failure == nil:
		if permit.succeeded() {
			c.log.Info().Msg("Vault answers again")
		}
		return ans, nil
	case ctx.Err() != nil:
		permit.abandoned()
		return answer{}, ctx.Err()
	}
	if permit.failed(failure) {
		c.log.Warn().Str("reason", failure.What).Msg("Vault is unavailable; deliveries that need its secrets wait")
	}
	return answer{}, failure
}

func (c *client) exchange(ctx context.Context, r request) (answer, *Error) {
	logical := c.api.WithRequestCallbacks(func(out *api.Request) {
		token := r.token.Reveal()
		out.ClientToken = string(token)
		clear(token)
		if r.method == http.MethodPatch {
			out.Headers.Set("Content-Type", "application/merge-patch+json")
		}
	}).Logical()
	var response *api.Response
	var err error
	switch r.method {
	case http.MethodGet:
		response, err = logical.ReadRawWithDataWithContext(ctx, r.path, r.query)
	case http.MethodPut:
		response, err = logical.WriteRawWithContext(ctx, r.path, r.body)
	case http.MethodPatch:
		response, err = logical.PatchRawWithContext(ctx, r.path, r.body)
	}
	if response == nil {
		return answer{}, unreachable(err)
	}
	defer response.Body.Close()
	// The SDK's error for a status only repeats the body, and the status is in
	// response. Any other error is a failure of the connection.
	var refused *api.ResponseError
	if err != nil && !errors.As(err, &refused) {
		return answer{}, unreachable(err)
	}
	// Allocate all of it at once: growing would leave copies of the secret in memory.
	room := max(0, min(response.ContentLength, maxSecret)) + bytes.MinRead
	body := bytes.NewBuffer(make([]byte, 0, room))
	if _, err := body.ReadFrom(response.Body); err != nil {
		clear(body.Bytes())
		return answer{}, unreachable(err)
	}
	return judge(response.StatusCode, body.Bytes())
}

// judge returns an error for answers that say nothing about the secret.
func judge(status int, body []byte) (answer, *Error) {
	unavailable := func(hint, format string, args ...any) (answer, *Error) {
		clear(body)
		return answer{}, &Error{Kind: ErrUnavailable, What: fmt.Sprintf(format, args...), Hint: hint}
	}
	switch {
	case status >= 300 && status < 400:
		return unavailable("set vault.address to the active node or a load balancer",
			"Vault redirects to another host, and Certpost sends its token to no other host")
	case status == http.StatusTooManyRequests:
		return unavailable("", "Vault refuses the request because of its rate limit (429)")
	case status == http.StatusServiceUnavailable && bytes.Contains(body, []byte("sealed")):
		return unavailable("unseal it", "Vault is sealed")
	case status == http.StatusPreconditionFailed || status == 472 || status == 473:
		return unavailable("", "this Vault node is a standby that cannot answer (%d)", status)
	case status >= 500:
		return unavailable("", "Vault answers with status %d", status)
	case len(body) == 0 && (status == http.StatusNoContent || status == http.StatusNotFound): // 404: a patch of what is not there
	case !isObject(body):
		return unavailable("check vault.address and what is between Certpost and Vault",
			"the answer (status %d) is not Vault's JSON, but that of a proxy or another server", status)
	}
	return answer{status: status, body: body}, nil
}

// isObject reports whether body is a JSON object. Every body of Vault is one, that of a
// refusal too.
func isObject(body []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) && json.Valid(body)
}

var (
	errTooLarge          = errors.New("answer too large")
	errClientCertificate = errors.New("client certificate cannot be read")
)

// bounded refuses answers larger than maxSecret.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if response.ContentLength > maxSecret {
		response.Body.Close()
		return nil, errTooLarge
	}
	response.Body = &boundedBody{ReadCloser: response.Body, left: maxSecret}
	return response, nil
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}
