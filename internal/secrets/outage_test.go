package secrets

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// imitation is an in-process server for answers that a real Vault does not give on
// demand. It accepts any token and has KV version 2 at secret/; the handler answers
// all other requests.
type imitation struct {
	*httptest.Server
	asked  atomic.Int64 // requests to the handler
	tokens sync.Map     // every token that it received
}

func imitate(t testing.TB, answer http.HandlerFunc) *imitation {
	t.Helper()
	im := &imitation{}
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/auth/token/lookup-self", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":{"ttl":0}}`) })
	mux.HandleFunc("/v1/sys/internal/ui/mounts/secret", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"data":{"path":"secret/","type":"kv","options":{"version":"2"}}}`)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		im.asked.Add(1)
		im.tokens.Store(r.Header.Get("X-Vault-Token"), true)
		answer(w, r)
	})
	im.Server = httptest.NewServer(mux)
	t.Cleanup(im.Server.Close)
	return im
}

func kv2Answer(value string) string {
	return fmt.Sprintf(`{"data":{"data":{"k":%q},"metadata":{"version":1}}}`, value)
}

func (o *observer) openAt(t testing.TB, address string, timeout time.Duration) *Store {
	t.Helper()
	return o.openWith(t, Config{Address: address, Timeout: timeout, Auth: asToken(o.secret("token"))})
}

// Every failure of Vault as a whole is ErrUnavailable, in Certpost's own words.
//
// Fault: Vault sealed, in standby, busy, slow, unavailable. Result: retried
// (SECRET_UNAVAILABLE).
// Fault: huge and slow answers. Result: SECRET_UNAVAILABLE, after limits of size and time.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code); fmt.Fprint(w, body) }
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"sealed":            {status(503, `{"errors":["Vault is sealed"]}`), "Vault is sealed"},
		"standby":           {status(503, `{"errors":["standby"]}`), "status 503"},
		"error":             {status(500, `{"errors":["internal error"]}`), "status 500"},
		"gateway":           {status(502, `<html>nginx</html>`), "status 502"},
		"rate":              {status(429, `{"errors":["rate limit"]}`), "rate limit"},
		"behind":            {status(412, `{"errors":["not yet"]}`), "standby"},
		"performance":       {status(473, ``), "standby"},
		"huge":              {status(200, kv2Answer(strings.Repeat("x", 2<<20))), "larger than 1 MiB"},
		"huge refusal":      {status(404, strings.Repeat("x", 2<<20)), "larger than 1 MiB"},
		"announced as huge": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "2000000000") }, "larger than 1 MiB"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"data":{"data":{"k":"`)
		}, "cut off"},
		"dropped": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "cut off"},
		"slow":    {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within the time-out"},
		"slow body": {func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, `{"data":`)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, "no answer within the time-out"},
		"redirected in circles": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, "redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := observe(t)
			server := imitate(t, test.answer)
			timeout := time.Minute // long enough for 2 MiB on a busy machine
			if strings.HasPrefix(name, "slow") {
				timeout = time.Second
			}
			store := o.openAt(t, server.URL, timeout)
			wantError(t, o, store.Get, mustRef(t, "vault:secret/x#k"), ErrUnavailable, "vault:secret/x#k: ", test.says)
		})
	}
}

// An object without the fields of a secret is the answer of another engine. Such an answer
// about one secret does not make Vault unavailable.
//
// Fault: an answer without the fields of a secret, as of another engine. Result: dead
// (SECRET_NOT_FOUND).
func TestNonsense(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"no data": `{}`, "null": `{"data":{"data":null,"metadata":{"version":1}}}`, "other types": `{"data":{"data":[1],"metadata":"x"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := observe(t)
			server := imitate(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
			wantError(t, o, o.openAt(t, server.URL, time.Second).Get, mustRef(t, "vault:secret/x#k"), ErrNotFound, "not a KV version 2 secret")
		})
	}
}

// A maintenance page or the sign-in form of a proxy says nothing about the secret,
// whatever its status is. When Vault answers again, the same store reads the secret.
//
// Fault: an answer that is not Vault's, such as the HTML page of a proxy, with 200 or
// another status. Result: retried (SECRET_UNAVAILABLE).
func TestAnswersThatAreNotVaults(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"an HTML page": `<!doctype html><html>Down for maintenance</html>`, "empty": ``, "a list": `[]`, "a number": `1`,
		"text": `404 page not found`, "JSON that is cut off": `{"data":{"data":{"k":"`, "two objects": `{"data":{}}{}`,
	} {
		for _, status := range []int{http.StatusOK, http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound} {
			if status == http.StatusNotFound && body == "" {
				continue // Vault's own answer to a patch
			}
			t.Run(fmt.Sprint(name, " ", status), func(t *testing.T) {
				t.Parallel()
				o := observe(t)
				secret := o.secret("behind the page")
				var back atomic.Bool
				server := imitate(t, func(w http.ResponseWriter, _ *http.Request) {
					if back.Load() {
						fmt.Fprint(w, kv2Answer(secret))
						return
					}
					w.WriteHeader(status)
					fmt.Fprint(w, body)
				})
				store, ref := o.openAt(t, server.URL, time.Second), mustRef(t, "vault:secret/x#k")
				wantError(t, o, store.Get, ref, ErrUnavailable, "not Vault's JSON", "check vault.address")
				back.Store(true)
				wantSecret(t, o, store.Fresh, ref, secret, "1")
			})
		}
	}
}

// Fault: redirects to another host. Result: SECRET_UNAVAILABLE; the token is not sent
// anywhere else.
func TestRedirects(t *testing.T) {
	t.Parallel()
	o := observe(t)
	secret := o.secret("redirected")
	elsewhere := imitate(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, kv2Answer(secret)) })
	var target atomic.Value
	server := imitate(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/secret/data/moved" {
			fmt.Fprint(w, kv2Answer(secret))
			return
		}
		http.Redirect(w, r, target.Load().(string), http.StatusTemporaryRedirect)
	})
	store := o.openAt(t, server.URL, time.Second)
	ref := mustRef(t, "vault:secret/x#k")
	port := elsewhere.URL[strings.LastIndexByte(elsewhere.URL, ':'):]
	for _, to := range []string{elsewhere.URL + "/v1/secret/data/x", "http://localhost" + port + "/v1/secret/data/x", "//127.0.0.1" + port + "/x"} {
		target.Store(to)
		wantError(t, o, store.Fresh, ref, ErrUnavailable, "redirects to another host", "sends its token to no other host")
	}
	if n := elsewhere.asked.Load(); n != 0 {
		t.Errorf("the other host got %d requests", n)
	}
	target.Store("/v1/secret/data/moved")
	wantSecret(t, o, store.Fresh, ref, secret, "1")
}

// Fault: unavailable. Result: retried (SECRET_UNAVAILABLE).
func TestUnreachable(t *testing.T) {
	t.Parallel()
	o := observe(t)
	ref := mustRef(t, "vault:secret/x#k")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := closed.Addr().String()
	closed.Close()
	wantError(t, o, o.openAt(t, "http://"+refusing, time.Second).Get, ref, ErrUnavailable, "connection is refused")
	wantError(t, o, o.openAt(t, "http://vault.invalid:8200", 5*time.Second).Get, ref, ErrUnavailable, "name cannot be resolved")
	isError(t, o, o.openAt(t, "http://"+refusing, time.Second).Health(t.Context()), ErrUnavailable, "connection is refused")
}

func TestTLS(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o, lab.VaultTLS())
	with := func(address string, conf TLS) *Store {
		return o.openWith(t, Config{Address: address, TLS: conf, Auth: asToken(o.keep(v.Token(t, "1h", "reader")))})
	}
	wantSecret(t, o, with(v.Address, TLS{CAFile: v.CAFile}).Get, ref, secret, "1")
	wantError(t, o, with(v.Address, TLS{}).Get, ref, ErrUnavailable, "from a CA that Certpost does not trust", "vault.tls.ca_file")
	wantError(t, o, with(v.Address, TLS{CAFile: v.CAFile, ServerName: "vault.example.com"}).Get, ref, ErrUnavailable, "not valid for that name")
	wantSecret(t, o, with(v.Address, TLS{CAFile: v.CAFile, ServerName: "localhost"}).Get, ref, secret, "1")
	wantError(t, o, with(strings.Replace(v.Address, "https:", "http:", 1), TLS{}).Get, ref, ErrUnavailable)

	plain := imitate(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, kv2Answer(secret)) })
	wantError(t, o, with(strings.Replace(plain.URL, "http:", "https:", 1), TLS{}).Get, ref, ErrUnavailable, "http: or https:")

	// A server that requires a client certificate ends the handshake with an alert.
	demanding := httptest.NewUnstartedServer(http.NotFoundHandler())
	demanding.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}
	demanding.Config.ErrorLog = nil
	demanding.StartTLS()
	t.Cleanup(demanding.Close)
	ca := inFile(t, pemOf(demanding.Certificate().Raw)).File
	wantError(t, o, with(demanding.URL, TLS{CAFile: ca}).Get, ref, ErrUnavailable, "Vault cannot be reached")
}

// Vault is sealed under load: no secret is reported as denied or not found because of
// it, the number of requests is bounded, and after the unsealing reads succeed without a
// new login.
//
// Fault: Vault sealed. Result: retried (SECRET_UNAVAILABLE).
func TestSealAndUnseal(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v := lab.Vault(t)
	upstream, err := url.Parse(v.Address)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(upstream)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	const refs = 100
	var all []Ref
	var want []string // the values of all
	for i := range refs {
		secret := o.secret("sealed")
		v.Put(t, fmt.Sprintf("secret/s%d", i), map[string]any{"k": secret})
		ref := Ref{Vault: &VaultRef{Mount: "secret", Path: fmt.Sprintf("s%d", i), Key: "k"}}
		all, want = append(all, ref), append(want, secret)
	}
	auth := o.asAppRole(t, v, "1h", readSecret)
	store := o.openWith(t, Config{Address: front.URL, Auth: auth})
	wantSecret(t, o, store.Get, all[0], want[0], "1")

	v.Seal(t)
	before := asked.Load()
	var workers sync.WaitGroup
	for _, ref := range all {
		for range 10 {
			workers.Go(func() { wantError(t, o, store.Fresh, ref, ErrUnavailable, "Vault is sealed") })
		}
	}
	workers.Wait()
	if n := asked.Load() - before; n > maxInFlight+awayAfter {
		t.Errorf("the sealed Vault got %d requests", n)
	}
	isError(t, o, store.Health(t.Context()), ErrUnavailable, "Vault is sealed")

	v.Unseal(t)
	if err := store.Health(t.Context()); o.said(err) != nil {
		t.Errorf("unsealed: %v", err)
	}
	for i, ref := range all {
		workers.Go(func() {
			eventually(t, "reading after the unsealing", func() bool {
				secret, err := store.Get(t.Context(), ref, nil)
				if err != nil && !errors.Is(o.said(err), ErrUnavailable) {
					t.Errorf("%s: %v", ref, err)
				}
				return err == nil && string(secret.Value.Reveal()) == want[i]
			})
		})
	}
	workers.Wait()
	if n := v.Requests(t)["update auth/approle/login"]; n != 1 {
		t.Errorf("%d logins", n)
	}
	if !o.logged("Vault is unavailable") || !o.logged("Vault answers again") {
		t.Error("the log does not say that Vault was unavailable and answers again")
	}
}

// The store starts while Vault is sealed: it logs in as soon as Vault answers.
func TestLoginWhenVaultComesBack(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	store := o.open(t, v, o.asAppRole(t, v, "1h", readSecret))
	v.Seal(t)
	for range 20 {
		wantError(t, o, store.Get, ref, ErrUnavailable, "Vault is sealed")
	}
	v.Unseal(t)
	eventually(t, "reading after the unsealing", func() bool {
		got, err := store.Get(t.Context(), ref, nil)
		return o.said(err) == nil && string(got.Value.Reveal()) == secret
	})
}

func TestHealth(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ body, says string }{
		"well":          {`{"initialized":true}`, ""},
		"performance":   {`{"initialized":true,"standby":true,"performance_standby":true}`, ""},
		"standby":       {`{"initialized":true,"standby":true}`, "standby"},
		"sealed":        {`{"initialized":true,"sealed":true}`, "sealed"},
		"uninitialized": {`{}`, "not initialized"},
		"something":     {`<html>`, "not Vault's JSON"},
		"another API":   {`{"sealed":"no"}`, "not a Vault server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := observe(t)
			server := imitate(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/sys/health" || r.Header.Get("X-Vault-Token") != "" || r.URL.Query().Get("sealedcode") != "200" {
					w.WriteHeader(http.StatusTeapot)
				}
				fmt.Fprint(w, test.body)
			})
			err := o.openAt(t, server.URL, time.Second).Health(t.Context())
			if test.says == "" {
				if o.said(err) != nil {
					t.Error(err)
				}
				return
			}
			isError(t, o, err, ErrUnavailable, test.says)
		})
	}
	t.Run("none configured", func(t *testing.T) {
		t.Parallel()
		o := observe(t)
		store := o.openWith(t, Config{})
		if err := store.Health(t.Context()); err != nil {
			t.Error(err)
		}
		wantError(t, o, store.Get, mustRef(t, "vault:secret/x#k"), ErrNotFound, "Vault is not configured", "vault.address")
		isError(t, o, putError(t, store, mustRef(t, "vault:secret/x#k"), New([]byte("x"))), ErrNotFound, "Vault is not configured")
	})
}

// A caller that starts a read and stops waiting does not end the read for the others.
func TestFirstCallerGivesUp(t *testing.T) {
	t.Parallel()
	o := observe(t)
	secret := o.secret("patience")
	arrived, proceed := make(chan struct{}), make(chan struct{})
	server := imitate(t, func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-proceed
		fmt.Fprint(w, kv2Answer(secret))
	})
	store := o.openAt(t, server.URL, 30*time.Second)
	ref := mustRef(t, "vault:secret/x#k")
	ctx, giveUp := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { _, err := store.Get(ctx, ref, nil); first <- err }()
	<-arrived
	var others sync.WaitGroup
	for range 20 {
		others.Go(func() { wantSecret(t, o, store.Get, ref, secret, "1") })
	}
	giveUp()
	err := <-first
	isError(t, o, err, ErrUnavailable)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error %v is not context.Canceled", err)
	}
	close(proceed)
	others.Wait()
	if n := server.asked.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
	if last := store.vault.client.breaker.failure(); last != nil {
		t.Errorf("the breaker counts a caller that stopped waiting as a failure: %v", last)
	}
}

// An agent on a socket adds its own token to Certpost's requests.
func TestAgent(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	t.Setenv("HOME", t.TempDir())
	o := observe(t)
	secret := o.secret("agent")
	agent := imitate(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, kv2Answer(secret)) })
	dir, err := os.MkdirTemp("/tmp", "agent") // a socket's path has at most 107 bytes
	if err != nil {
		t.Skip("no /tmp here")
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Skipf("no Unix sockets here: %v", err)
	}
	server := &http.Server{Handler: agent.Config.Handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(socket) }()
	t.Cleanup(func() { _ = server.Close() })
	store := o.openWith(t, Config{Address: "unix://" + filepath.Join(dir, "sock")})
	for range 3 {
		wantSecret(t, o, store.Fresh, mustRef(t, "vault:secret/x#k"), secret, "1")
	}
	agent.tokens.Range(func(token, _ any) bool {
		if token != "" {
			t.Error("a token was sent")
		}
		return true
	})
	if n := o.count("logged in to Vault"); n != 1 {
		t.Errorf("logged in %d times", n)
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	t.Parallel()
	o := observe(t)
	arrived := make(chan struct{})
	server := imitate(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	})
	store := o.openAt(t, server.URL, 30*time.Second)
	waiting := make(chan error, 1)
	go func() { _, err := store.Get(t.Context(), mustRef(t, "vault:secret/x#k"), nil); waiting <- err }()
	<-arrived
	store.Close()
	isError(t, o, <-waiting, ErrUnavailable)
}
