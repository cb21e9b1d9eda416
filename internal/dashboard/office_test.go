package dashboard

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/queue"
	"github.com/certpost/certpost/internal/secrets"
)

// office runs all real parts in one process: an embedded NATS, a relay with
// configurable refusals, courier, desk, guard and pages.
type office struct {
	t      testing.TB
	url    string
	relay  *devrelay.Relay
	broker *broker.Broker
	desk   *desk.Desk
	guard  *access.Access
	// handler is what the server at url serves.
	handler http.Handler
	dataDir string // of the embedded NATS
}

// officeConfig overrides the defaults of an office.
type officeConfig struct {
	access access.Config
	edit   desk.EditRules
	listen string // address of NATS, for tests that publish without the broker
	// targets are more of them, made by officeTarget.
	targets string
	// asks makes a mail of unknown outcome a dead letter.
	asks bool
}

// officeTarget is a target at the office's relay.
func officeTarget(id string, to ...string) string {
	return "  - {id: " + id + ", type: smtp, host: 127.0.0.1, port: %[1]s, tls_mode: plaintext, auth_method: none, from_address: certs@example.com, to: [" + strings.Join(to, ", ") + "]}\n"
}

const officeTargets = `targets:
  - {id: ops, type: smtp, host: 127.0.0.1, port: %[1]s, tls_mode: plaintext, auth_method: none, from_address: certs@example.com, to: [ops@example.com]}
  - {id: java, type: smtp, host: 127.0.0.1, port: %[1]s, tls_mode: plaintext, auth_method: none, from_address: certs@example.com, to: [java@example.com]}
`

func openOffice(t testing.TB, c officeConfig) *office {
	t.Helper()
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel)
	relay, err := devrelay.Start(devrelay.Config{})
	must(t, err)
	t.Cleanup(func() { _ = relay.Close() })
	path := filepath.Join(t.TempDir(), "c.yaml")
	must(t, os.WriteFile(path, fmt.Appendf(nil, officeTargets+c.targets, relay.Plain()[strings.LastIndexByte(relay.Plain(), ':')+1:]), 0o600))
	source := delivery.Source{Config: path, Relays: path}
	definitions, problems := source.Load()
	if definitions == nil {
		t.Fatal(problems)
	}
	store, err := secrets.Open(secrets.Config{}, log)
	must(t, err)
	t.Cleanup(store.Close)
	courier := delivery.NewCourier(delivery.NewBook(definitions, source), store, delivery.Options{})
	t.Cleanup(courier.Close)
	o := &office{t: t, relay: relay, dataDir: t.TempDir()}
	if c.listen == "" {
		c.listen = "none"
	}
	o.broker, err = broker.Open(broker.Config{DataDir: o.dataDir, Listen: c.listen, SyncInterval: "2m"}, log)
	must(t, err)
	runner := queue.NewRunner(o.broker, courier, queue.Settings{Concurrency: 4, RetryInitial: 20 * time.Millisecond, RetryMax: 100 * time.Millisecond, RetryMultiplier: 2,
		GiveUpAfter: time.Hour, Grace: 5 * time.Second, DeadLetterUnknown: c.asks}, queue.NewMetrics(prometheus.NewRegistry()))

	o.desk = desk.New(o.broker, courier.Inspector(), log)
	o.desk.AllowEdits(c.edit)
	o.desk.CancelWith(runner)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() { _ = runner.Run(ctx); ended <- struct{}{} }()
	go func() { _ = o.desk.Run(ctx); ended <- struct{}{} }()
	look := NewLook("test", log)
	c.access.Pages, c.access.Log = look.Access(), log
	if c.access.Listen == "" {
		c.access.Listen = "127.0.0.1:0"
	}
	o.guard, err = access.New(c.access)
	must(t, err)
	o.handler = New(o.desk, o.guard, Options{Look: look, Log: log})
	server := httptest.NewServer(o.handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		cancel()
		<-ended
		<-ended
		o.broker.Close()
	})
	o.url = server.URL
	within10s, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	o.until("the streams are there", func() bool { _, err := o.broker.Backlog(within10s); return err == nil })
	must(t, o.desk.Ready(within10s))
	return o
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until polls until a condition holds.
func (o *office) until(what string, is func() bool) {
	o.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			o.t.Fatalf("timeout while waiting until %s", what)
		}
	}
}

// refuses makes the relay permanently refuse a recipient; "" accepts all recipients.
func (o *office) refuses(recipient string) {
	o.t.Helper()
	var rules []devrelay.Rule
	if recipient != "" {
		rules = []devrelay.Rule{{Stage: devrelay.StageRcpt, Recipient: recipient, Code: 550, Enhanced: "5.1.1", Text: "no such user"}}
	}
	must(o.t, o.relay.SetRules(rules))
}

// publish sends an event with a certificate for the name, for one target.
func (o *office) publish(id, name, target string) {
	o.t.Helper()
	text, err := json.Marshal(map[string]any{"id": id, "certificate": selfSigned(o.t, name), "targets": []string{target}, "labels": map[string]string{"for": strings.ReplaceAll(name, "\x1b", "")}})
	must(o.t, err)
	ev, err := events.Decode(nil, text)
	must(o.t, err)
	_, _, err = o.broker.Publish(context.Background(), ev)
	must(o.t, err)
}

// dies publishes events that become dead letters, one after the other, so that their
// numbers follow the order of the names, and waits until the desk has them.
func (o *office) dies(names ...string) {
	o.t.Helper()
	o.refuses("*")
	for _, name := range names {
		before := o.desk.Balance().Total
		o.publish(fmt.Sprintf("event-%d-%s", before, strings.ReplaceAll(name, "\x1b", "")), name, "ops")
		o.until(fmt.Sprintf("there is dead letter %d", before+1), func() bool { return o.desk.Balance().Total == before+1 })
	}
}

func selfSigned(t testing.TB, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"web1.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
