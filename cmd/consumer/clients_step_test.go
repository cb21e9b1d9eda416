package main

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// step gets a certificate from a real step-ca and renews it while NATS is away, with the --exec of
// docs/publishing.md.
//
// Fault: NATS is away while step renews. Result: step succeeds; each renewal is published
// afterwards, once, by the next one; a watcher has nothing to add.
func TestStepWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	program, addr := lab.Build(t), lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "")
	ca := lab.NewStepCA(t)
	ca.Start(t, "")
	if err := os.MkdirAll(p.path("step"), 0o700); err != nil {
		t.Fatal(err)
	}
	cert, key := p.path("step/www.crt"), p.path("step/www.key")
	ca.Certificate(t, "step.lab.test", cert, key)
	if s := p.publish(nil, "--from", "step", "--", cert, key); s.code != exitDone || !strings.Contains(s.stderr, "it is kept in") {
		t.Fatalf("%+v", s)
	}
	hook := strings.Join([]string{program, "-c", p.path("certpost.yaml"), "publish", "--from", "step", "--", cert, key}, " ")
	ca.Renew(t, cert, key, hook)
	if state := p.state(); state.Waiting != 2 || len(state.Refused) != 0 {
		t.Fatalf("%+v", state)
	}
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	ca.Renew(t, cert, key, hook)
	p.write("other.yaml", "data_dir: "+p.path("other")+"\nnats: {url: \"nats://"+addr+"\"}\n")
	for config, want := range map[string]string{"certpost.yaml": "", "other.yaml": "a new certificate"} { // without that memory, the same event
		if s := command(t, nil, "-c", p.path(config), "watch", "--once", p.path("step")); s.code != exitDone || !strings.Contains(s.stderr, want) || want == "" && s.stderr != "" {
			t.Errorf("%s: %+v", config, s)
		}
	}
	got := ids(t, stream)
	if distinct := slices.Compact(slices.Sorted(slices.Values(got))); len(got) != 3 || len(distinct) != 3 {
		t.Fatalf("published %q, want three", got)
	}
	host, _ := os.Hostname()
	for n := range got {
		m, err := stream.GetMsg(t.Context(), uint64(n+1))
		if err != nil {
			t.Fatal(err)
		}
		var ev struct{ Source string }
		if err := json.Unmarshal(m.Data, &ev); err != nil || ev.Source != "file://"+host+cert {
			t.Errorf("%v: source %s", err, ev.Source)
		}
	}
}

// A real step-ca notifies POST /v1/events of a certificate that it has issued by SCEP, proved by its
// signature or by its own certificate; it also tells of one that it has not signed.
func TestStepCANotifies(t *testing.T) {
	t.Parallel()
	step := lab.NewStepCA(t)
	o := bareFixture(t)
	ca := lab.NewCA(t, o.dir)
	server, serverKey := ca.Issue(t, "127.0.0.1")
	secret := base64.StdEncoding.EncodeToString([]byte("canary-secret-of-step"))
	o.write("secret", secret)
	o.http = fmt.Sprintf(", tls: {cert_file: %s, key_file: %s}, ingest: {enabled: true, client_ca_file: %s, certificates: [{name: tls, san: Step Online CA, format: step-ca}], hmac: [{name: signed, secret: {file: %s}, scheme: step, format: step-ca}]}",
		server, serverKey, step.RootFile, o.path("secret"))
	o.events = ", unmatched: ignore"
	o.furnish("")
	url := o.service.http.address() + "/v1/events"
	step.Start(t, ca.File, lab.StepWebhook{Name: "tls", URL: url, Kind: "NOTIFYING"}, lab.StepWebhook{Name: "signed", URL: url, Kind: "NOTIFYING", Secret: secret})

	if err := step.SCEP(t, "scep.lab.test"); err != nil {
		t.Fatal(err)
	}
	stream, err := o.service.broker.JetStream().Stream(t.Context(), broker.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	var sources []string
	for n := range ids(t, stream) {
		m, err := stream.GetMsg(t.Context(), uint64(n+1))
		if err != nil {
			t.Fatal(err)
		}
		ev, err := events.Decode(m.Header, m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if leaf, err := ev.Leaf(); err != nil || !slices.Equal(leaf.DNSNames, []string{"scep.lab.test"}) {
			t.Errorf("%v: %v", err, leaf.DNSNames)
		}
		sources = append(sources, m.Subject+" "+ev.Source)
	}
	if want := []string{"certificate.issued.tls step-ca://tls", "certificate.issued.signed step-ca://signed"}; !slices.Equal(sources, want) {
		t.Errorf("published %q, want %q", sources, want)
	}

	if err := step.SCEP(t, "scep.elsewhere.test"); err == nil {
		t.Error("a certificate outside of the CA's policy was issued")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool}, DisableKeepAlives: true}}
	resp, err := client.Get(o.service.http.address() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	for _, sender := range []string{"tls", "signed"} {
		if line := `certpost_ingest_requests_total{outcome="ignored",sender="` + sender + `"} 1` + "\n"; !strings.Contains(string(metrics), line) {
			t.Errorf("%v, no line %s", err, line)
		}
	}
}
