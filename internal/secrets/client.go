package secrets

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
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
	// maxInFlight bounds our requests to Vault at one time, so that what was asked
	// before the breaker opened is never a storm.
	maxInFlight = 16
	// Vault is taken to be away after this many failures in a row, and asked again
	// after pauses between the two.
	awayAfter  = 5
	leastPause = time.Second
	mostPause  = 30 * time.Second
)

// client makes requests to Vault: bounded in time, size and number, one try
// each, to one host alone.
type client struct {
	api     *api.Client
	http    *http.Transport
	timeout time.Duration
	slots   chan struct{}
	breaker *breaker
	log     zerolog.Logger
}

// request is one request. The token is given with each: the SDK's own place
// for it is shared, and a login may be going on beside.
type request struct {
	method string // GET, PUT, or PATCH (a JSON merge patch)
	path   string // below /v1/
	query  url.Values
	body   []byte
	token  Value // none for logins
}

// answer is what Vault said, with a status that is its considered opinion:
// below 500, and not 429.
type answer struct {
	status int
	body   []byte
}

// configured says whether there is an address, from us or from the environment.
func (c Config) configured() bool {
	return c.Address != "" || os.Getenv(api.EnvVaultAddress) != "" || os.Getenv(api.EnvVaultAgentAddr) != ""
}

// viaAgent says whether a Vault agent or proxy is in between.
func (c Config) viaAgent() bool {
	return strings.HasPrefix(c.Address, "unix://") || c.Address == "" && os.Getenv(api.EnvVaultAgentAddr) != ""
}

func newClient(cfg Config, log zerolog.Logger) (*client, error) {
	conf := api.DefaultConfig()
	if conf.Error != nil {
		return nil, errors.New("vault: one of the VAULT_ environment variables cannot be used (addresses, durations, certificates)")
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
	// The SDK's own time-out ends its context when it returns the answer of a
	// write, before anybody could read that. http.Client's covers the reading.
	conf.Timeout, conf.HttpClient.Timeout = 0, timeout
	// The SDK would try again by itself: five requests where we count one, and
	// the reason of the first failure lost.
	conf.MaxRetries = 0
	conf.CheckRetry = func(_ context.Context, _ *http.Response, err error) (bool, error) { return false, err }
	// The SDK would follow a redirect to any host, with the token.
	conf.DisableRedirects = true
	conf.HttpClient.CheckRedirect = sameHostOnly

	transport := conf.HttpClient.Transport.(*http.Transport)
	transport.MaxIdleConnsPerHost = maxInFlight
	if err := cfg.TLS.apply(transport.TLSClientConfig); err != nil {
		return nil, err
	}
	if transport.TLSClientConfig.InsecureSkipVerify {
		log.Warn().Msg("VAULT_SKIP_VERIFY is set: whoever sits between us and Vault can read every secret")
	}
	sdk, err := api.NewClient(conf)
	if err != nil {
		return nil, errors.New("vault: the address or one of the VAULT_ environment variables cannot be used")
	}
	sdk.ClearToken()
	sdk.SetWrappingLookupFunc(func(string, string) string { return "" }) // VAULT_WRAP_TTL would hide every answer
	if cfg.Namespace != "" {
		sdk.SetNamespace(cfg.Namespace)
	}
	conf.HttpClient.Transport = bounded{transport}
	return &client{
		api: sdk, http: transport, timeout: timeout, log: log,
		slots:   make(chan struct{}, maxInFlight),
		breaker: &breaker{threshold: awayAfter, least: leastPause, most: mostPause},
	}, nil
}

func sameHostOnly(next *http.Request, before []*http.Request) error {
	first := before[0].URL
	if len(before) > 3 || next.URL.Scheme != first.Scheme || next.URL.Host != first.Host {
		return http.ErrUseLastResponse
	}
	return nil
}

// apply puts the settings over what the environment gave.
func (t TLS) apply(conf *tls.Config) error {
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return fmt.Errorf("vault.tls.ca_file: %s cannot be read", printable(t.CAFile))
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("vault.tls.ca_file: there is no PEM certificate in %s", printable(t.CAFile))
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
			return fmt.Errorf("vault.tls.cert_file: %s and %s are not a PEM certificate and its key", printable(t.CertFile), printable(t.KeyFile))
		}
		// Read again for each connection: such certificates live for hours.
		conf.GetClientCertificate = load
	}
	if t.ServerName != "" {
		conf.ServerName = t.ServerName
	}
	return nil
}

// send makes the request. Its error is an *Error of kind ErrUnavailable, or the
// context's when that ended.
func (c *client) send(ctx context.Context, r request) (answer, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	permit, last, wait := c.breaker.admit()
	if last != nil {
		return answer{}, &Error{Kind: ErrUnavailable, What: last.What, Hint: fmt.Sprintf("asked again in %v", wait.Round(time.Second/10))}
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
		c.log.Warn().Str("reason", failure.What).Msg("Vault is taken to be away; secrets wait for it")
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
	// The SDK's error for a status is its body once more: all we need of it is the
	// status, which we have. Any other error is the connection's.
	var refused *api.ResponseError
	if err != nil && !errors.As(err, &refused) {
		return answer{}, unreachable(err)
	}
	// Room for all of it at once: growing would leave copies behind.
	room := max(0, min(response.ContentLength, maxSecret)) + bytes.MinRead
	body := bytes.NewBuffer(make([]byte, 0, room))
	if _, err := body.ReadFrom(response.Body); err != nil {
		clear(body.Bytes())
		return answer{}, unreachable(err)
	}
	return judge(response.StatusCode, body.Bytes())
}

// judge sorts out the answers that say nothing about the secret.
func judge(status int, body []byte) (answer, *Error) {
	unavailable := func(hint, format string, args ...any) (answer, *Error) {
		clear(body)
		return answer{}, &Error{Kind: ErrUnavailable, What: fmt.Sprintf(format, args...), Hint: hint}
	}
	switch {
	case status >= 300 && status < 400:
		return unavailable("put the address of the active node, or of a load balancer, into vault.address",
			"Vault redirects to another host, and its token goes to no other host")
	case status == http.StatusTooManyRequests:
		return unavailable("", "Vault says that we ask too often (429)")
	case status == http.StatusServiceUnavailable && bytes.Contains(body, []byte("sealed")):
		return unavailable("unseal it", "Vault is sealed")
	case status == http.StatusPreconditionFailed || status == 472 || status == 473:
		return unavailable("", "this Vault node is a standby that cannot answer (%d)", status)
	case status >= 500:
		return unavailable("", "Vault answers with status %d", status)
	}
	return answer{status: status, body: body}, nil
}

var (
	errTooLarge          = errors.New("answer too large")
	errClientCertificate = errors.New("client certificate cannot be read")
)

// bounded refuses answers larger than a secret can be.
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
