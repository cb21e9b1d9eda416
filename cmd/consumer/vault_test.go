package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// vaultBench is the program in this process, with a real Vault and the demo relay, whose
// password is stored in that Vault.
type vaultBench struct {
	t        *testing.T
	vault    *lab.VaultServer
	relay    *devrelay.Relay
	dir      string
	cert     string
	services []*instance
}

const vaultUser = "certs"

func newVaultBench(t *testing.T) *vaultBench {
	t.Helper()
	v := &vaultBench{t: t, vault: lab.Vault(t), dir: t.TempDir(), cert: issued(t, "www.example.com")}
	var err error
	if v.relay, err = devrelay.Start(devrelay.Config{Users: map[string]string{vaultUser: "first-password"}, MaxMails: 100_000}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.relay.Close() })
	v.vault.Put(t, "secret/smtp-auth/localhost", map[string]any{"password": "first-password"})
	v.vault.Policy(t, "certpost", `path "secret/data/smtp-auth/*" { capabilities = ["read"] }`)
	return v
}

// start adds a replica; the first one runs the NATS server.
func (v *vaultBench) start(tokenTTL, cacheTTL string) *instance {
	v.t.Helper()
	role, secret := v.vault.AppRole(v.t, tokenTTL, "certpost")
	ca, err := v.relay.CAFile(v.dir)
	if err != nil {
		v.t.Fatal(err)
	}
	nats := fmt.Sprintf("{listen: %q, sync_interval: 2m}", lab.FreeAddress(v.t))
	if len(v.services) > 0 {
		nats = fmt.Sprintf("{url: %q, nkey_file: %q}", v.services[0].broker.URL(), lab.Seed(filepath.Join(v.dir, "data"), "admin"))
	}
	file := filepath.Join(v.dir, fmt.Sprintf("certpost%d.yaml", len(v.services)))
	text := fmt.Sprintf(`data_dir: %s/data
nats: %s
http: {listen: "127.0.0.1:0"}
vault: {address: %q, cache_ttl: %s, auth: {method: approle, role_id: {value: %q}, secret_id: {value: %q}}}
delivery: {retry: {initial: 200ms, max: 2s}}
targets:
  - id: ops
    host: localhost
    port: %s
    ca_file: %s
    username: %s
    password: {vault: {mount: secret, path: "smtp-auth/{host}", key: password}}
    from_address: certs@example.com
    to: [ops@example.com]
`, v.dir, nats, v.vault.Address, cacheTTL, role, secret, port(v.relay.Submission()), ca, vaultUser)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		v.t.Fatal(err)
	}
	cfg, _, problems := loadConfig(file, nil)
	if config.Failed(problems) {
		v.t.Fatal(problems)
	}
	s, err := newService(context.Background(), cfg, zerolog.New(zerolog.NewTestWriter(v.t)).Level(zerolog.ErrorLevel))
	if err != nil {
		v.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	v.services = append(v.services, s)
	v.t.Cleanup(func() { // the last one first: the first one runs the server
		cancel()
		if err := <-done; err != nil {
			v.t.Error(err)
		}
		s.close()
	})
	v.until("ready", func() bool { return s.runner.Ready(context.Background()) == nil })
	return s
}

func (v *vaultBench) publish(id string) {
	v.t.Helper()
	ev := &events.Event{ID: id, Certificate: events.Certificate{PEM: v.cert}, Targets: []string{"ops"}}
	if _, _, err := v.services[0].broker.Publish(context.Background(), ev); err != nil {
		v.t.Fatal(err)
	}
}

func (v *vaultBench) until(what string, ok func() bool) {
	v.t.Helper()
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	v.t.Fatalf("timed out waiting for: %s", what)
}

// deliveredOnce waits until nothing is pending, then requires one mail for each event and
// no dead letter.
func (v *vaultBench) deliveredOnce(n int) {
	v.t.Helper()
	b := v.services[0].broker
	v.until("nothing pending", func() bool {
		backlog, err := b.Backlog(context.Background())
		return err == nil && backlog.Events == 0 && backlog.Deliveries == 0
	})
	for d, err := range b.DeadLetters(context.Background(), "") {
		v.t.Errorf("dead letter: %v %s %s %s", err, d.Event, d.Code, d.Reason)
	}
	mails := map[string]int{}
	for _, m := range v.relay.Mails() {
		msg, err := m.Message()
		if err != nil {
			v.t.Fatal(err)
		}
		mails[msg.Header.Get("X-Certpost-Event-Id")]++
	}
	if len(mails) != n || v.relay.Count() != n {
		v.t.Errorf("%d events were delivered in %d mails, want each of %d once", len(mails), v.relay.Count(), n)
	}
}

// Vault is sealed while a thousand deliveries wait: no dead letter, the program is
// degraded but ready, and afterwards every mail arrives once.
//
// Fault: Vault sealed. Result: retried (SECRET_UNAVAILABLE).
func TestVaultSealedUnderLoad(t *testing.T) {
	t.Parallel()
	v := newVaultBench(t)
	s := v.start("1h", "1s")
	v.publish("before")
	v.deliveredOnce(1)
	v.vault.Seal(t)
	n := 1
	publish := func() {
		v.publish(fmt.Sprintf("e%d", n))
		n++
	}
	v.until("a delivery that waits for Vault", func() bool { // once the cached password has expired
		publish()
		list, err := s.broker.Deliveries(context.Background(), "ops", fmt.Sprintf("e%d", n-2))
		return err == nil && len(list) == 1 && list[0].State == broker.StateWaiting && list[0].Failure.Code == "SECRET_UNAVAILABLE"
	})
	for range 1000 {
		publish()
	}
	v.until("healthz says degraded", func() bool {
		_, body := get(s, "/healthz")
		return strings.Contains(body, `"status":"degraded"`)
	})
	if status, body := get(s, "/readyz"); status != http.StatusOK {
		t.Errorf("readyz while Vault is sealed: %d %s", status, body)
	}
	v.vault.Unseal(t)
	v.deliveredOnce(n)
}

func get(s *instance, path string) (int, string) {
	w := httptest.NewRecorder()
	s.http.server.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost"+path, nil))
	return w.Code, w.Body.String()
}

// A token that lives five seconds, with a request to Vault every second: it is renewed, or
// replaced by a new login when it cannot be renewed, again and again, and no mail waits
// for ever.
//
// Fault: a token that has expired or was revoked. Result: renewed in time, or one new
// login.
func TestShortLivedToken(t *testing.T) {
	t.Parallel()
	v := newVaultBench(t)
	v.start("5s", "1s")
	n, want := 0, 10
	if testing.Short() {
		want = 5
	}
	v.until("the token was renewed or replaced again and again", func() bool {
		v.publish(fmt.Sprintf("e%d", n))
		n++
		asked := v.vault.Requests(t)
		return asked["update auth/token/renew-self"]+asked["update auth/approle/login"] > want
	})
	v.deliveredOnce(n)
}

// The password changes in Vault and then at the relay, under load and on two
// replicas: no mail is lost, none is sent twice, nothing is restarted.
//
// Fault: 5yz during AUTH. Result: after one retry with the secret fetched again.
// Fault: a password rotated between reading and use. Result: read again, retried once.
func TestPasswordRotationUnderLoad(t *testing.T) {
	t.Parallel()
	v := newVaultBench(t)
	v.start("1h", "1h")
	v.start("1h", "1h")
	n := 0
	publish := func() {
		v.publish(fmt.Sprintf("e%d", n))
		n++
	}
	// Both have read the first password before it changes: a replica that reads the
	// new one before the relay knows it fails with SMTP_AUTH, as it must.
	v.until("both replicas have read the password", func() bool {
		publish()
		return v.vault.Requests(t)["read secret/data/smtp-auth/localhost"] >= 2
	})
	for rotation := range 3 {
		for range 100 {
			publish()
		}
		next := fmt.Sprintf("password-%d", rotation)
		v.vault.Put(t, "secret/smtp-auth/localhost", map[string]any{"password": next})
		v.relay.SetPassword(vaultUser, next)
		for range 100 {
			publish()
		}
		v.deliveredOnce(n)
	}
}

// Vault gets one request per reference and cache period, regardless of the number of
// workers and deliveries.
func TestOneRequestPerPeriod(t *testing.T) {
	t.Parallel()
	v := newVaultBench(t)
	v.start("1h", "1h")
	for i := range 300 {
		v.publish(fmt.Sprintf("e%d", i))
	}
	v.deliveredOnce(300)
	if got := v.vault.Requests(t)["read secret/data/smtp-auth/localhost"]; got != 1 {
		t.Errorf("Vault was asked %d times for one reference, want 1: %v", got, v.vault.Requests(t))
	}
}
