package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/ingest"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
)

const ingestToken = "canary-ingest-token"

// ingestFixture runs the program with POST /v1/events.
func ingestFixture(t *testing.T, more string) *fixture {
	t.Helper()
	o := bareFixture(t)
	o.write("token", ingestToken)
	o.write("hook", "whsec_"+base64.StdEncoding.EncodeToString([]byte("canary-hook-secret")))
	o.http = ", ingest: {enabled: true, tokens: [{name: ci, token: {file: " + o.path("token") + "}, rate: 100000}], hmac: [{name: hook, secret: {file: " + o.path("hook") + "}}]" + more + "}"
	o.events = ", sources: {ci: {targets: [ops, prod]}, hook: {targets: [ops]}}, unmatched: ignore"
	o.furnish("")
	return o
}

func (o *fixture) post(client *http.Client, body string, header ...string) (int, string) {
	o.t.Helper()
	r, err := http.NewRequest(http.MethodPost, o.service.http.address()+"/v1/events", strings.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	resp, err := client.Do(r)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(text))
}

func posted(id, chain, more string) string {
	return fmt.Sprintf(`{"id": %q, "certificate": %q%s}`, id, chain, more)
}

// An event that was posted is mailed, within the limits of its source; pages of other sites, and
// sessions, have no part in it.
func TestPostedEvents(t *testing.T) {
	t.Parallel()
	o := ingestFixture(t, "")
	_, _, chain := o.issue("www.example.com")
	token := "Authorization: Bearer " + ingestToken
	if status, text := o.post(http.DefaultClient, posted("one", chain, ""), token); status != http.StatusAccepted || text != `{"id":"one","duplicate":false}` {
		t.Fatalf("%d %s", status, text)
	}
	if status, text := o.post(http.DefaultClient, posted("one", chain, ""), token); status != http.StatusAccepted || text != `{"id":"one","duplicate":true}` {
		t.Errorf("again: %d %s", status, text)
	}
	o.mailTo("ops@demo.example", 1)
	body := posted("two", chain, `, "targets": ["ops"]`)
	now := fmt.Sprint(time.Now().Unix())
	m := hmac.New(sha256.New, []byte("canary-hook-secret"))
	m.Write([]byte("msg." + now + "." + body))
	if status, text := o.post(http.DefaultClient, body, "webhook-id: msg", "webhook-timestamp: "+now, "webhook-signature: v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil))); status != http.StatusAccepted {
		t.Errorf("signed: %d %s", status, text)
	}
	o.mailTo("ops@demo.example", 2)
	for _, c := range []struct {
		body   string
		header []string
		status int
		want   string
	}{
		{posted("x", chain, `, "targets": ["keys"]`), []string{token}, 400, `may not send to target \"keys\": add it to events.sources.ci.targets if it should`},
		{posted("x", chain, `, "private_key": {"vault": {"mount": "secret", "path": "x", "key": "k"}}`), []string{token}, 400, "secret_paths"},
		{posted("x", chain, ""), nil, 401, ""},
		{"id=x", []string{"Content-Type: application/x-www-form-urlencoded", "Origin: https://evil.example"}, 415, ""},
		{posted("x", chain, ""), []string{token, "Sec-Fetch-Site: cross-site", "Origin: https://evil.example"}, 403, ""},
		{strings.Repeat(" ", 5<<20), []string{token}, 413, ""},
	} {
		status, text := o.post(http.DefaultClient, c.body, c.header...)
		if status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%d %s, want %d %s", status, text, c.status, c.want)
		}
	}
	if backlog, err := o.service.broker.Backlog(t.Context()); err != nil || backlog.Dead != 0 {
		t.Errorf("%+v, %v", backlog, err)
	}
	resp, err := http.Get(o.service.http.address() + "/v1/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(text, ingest.OpenAPI) {
		t.Errorf("openapi.yaml: %v", err)
	}
	if log := o.log.String(); strings.Contains(log, "canary") || !strings.Contains(log, `"subject":"certificate.issued.ci"`) {
		t.Errorf("the log: %s", log)
	}
}

// Each of 1,000 events that many clients post at the same time, some of them twice, is in the stream
// once it was accepted.
func TestThousandPosts(t *testing.T) {
	t.Parallel()
	o := ingestFixture(t, "")
	_, _, chain := o.issue("www.example.org") // matches no target, so that nothing is mailed
	const posts, clients = 1000, 16
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	var accepted, duplicates atomic.Int64
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for n := c; n < posts; n += clients {
				for range 1 + n%100/99 { // one in a hundred is sent again
					status, text := o.post(client, posted(fmt.Sprint("post-", n), chain, ""), "Authorization: Bearer "+ingestToken)
					if status == http.StatusAccepted {
						accepted.Add(1)
					}
					if strings.HasSuffix(text, `"duplicate":true}`) {
						duplicates.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	stream, err := o.service.broker.JetStream().Stream(t.Context(), broker.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if accepted.Load() != posts+posts/100 || duplicates.Load() != posts/100 || stream.CachedInfo().State.Msgs != posts {
		t.Errorf("%d accepted, %d duplicates, the stream has %d", accepted.Load(), duplicates.Load(), stream.CachedInfo().State.Msgs)
	}
}

// A client certificate proves who posts; a browser without one sees the dashboard.
func TestPostWithCertificate(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	ca := lab.NewCA(t, o.dir)
	server, serverKey := ca.Issue(t, "localhost", "127.0.0.1")
	clients := lab.Issue(t, nil, lab.NewKey(t, "p256"), "CA of clients", lab.AsCA, today)
	o.write("clients.pem", string(lab.PEM(clients)))
	o.http = ", tls: {cert_file: " + server + ", key_file: " + serverKey + "}, ingest: {enabled: true, client_ca_file: " + o.path("clients.pem") + ", certificates: [{name: web1, san: web1.example.com}]}"
	o.furnish("")
	_, _, chain := o.issue("www.example.com")
	client := func(hosts ...string) *http.Client {
		config := &tls.Config{RootCAs: ca.Pool}
		if hosts != nil {
			c := lab.Issue(t, clients, lab.NewKey(t, "p256"), "client", lab.DNSNames(hosts...), today, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
			config.Certificates = []tls.Certificate{{Certificate: [][]byte{c.Raw}, PrivateKey: c.Key}}
		}
		transport := &http.Transport{TLSClientConfig: config}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	for name, c := range map[string]struct {
		client *http.Client
		status int
	}{"its own": {client("web1.example.com"), 202}, "another": {client("web2.example.com"), 401}, "none": {client(), 401}} {
		if status, text := o.post(c.client, posted("tls-"+name, chain, ""), "X: y"); status != c.status {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	known, err := client("web1.example.com").Get(o.service.http.address() + "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	known.Body.Close()
	if known.StatusCode != http.StatusOK {
		t.Errorf("a test of the connection: %d", known.StatusCode)
	}
	resp, err := client().Get(o.service.http.address() + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the dashboard: %d", resp.StatusCode)
	}
}

func TestIngestConfig(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{enabled: true}":                         "http.ingest: is enabled, and nobody may send: give tokens, hmac or certificates",
		"{tokens: [{name: a, token: {file: x}}]}": "http.ingest: has senders, but is not enabled",
		"{enabled: true, tokens: [{name: a}]}":    "http.ingest.tokens[0].token: is required",
		"{enabled: true, tokens: [{name: a, token: {file: x}}, {name: a, token: {file: x}}]}":               "http.ingest.tokens[1].name: is the name of another sender: names must be unique",
		"{enabled: true, tokens: [{name: a b, token: {file: x}}]}":                                          "http.ingest.tokens[0].name: want 1 to 64 of",
		"{enabled: true, tokens: [{name: a., token: {file: x}}]}":                                           "http.ingest.tokens[0].name: want 1 to 64 of",
		"{enabled: true, hmac: [{name: a, secret: {file: x}, scheme: md5}]}":                                "http.ingest.hmac[0].scheme: ",
		"{enabled: true, hmac: [{name: a, secret: {file: x}, format: ejbca, targets: [a]}]}":                "http.ingest.hmac[0].targets: cannot be set for this format",
		"{enabled: true, tokens: [{name: a, token: {file: x}, max_body: 5MiB}]}":                            "http.ingest.tokens[0].max_body: is larger than 4MiB",
		"{enabled: true, certificates: [{name: a}]}":                                                        "http.ingest.client_ca_file: is required",
		"{enabled: true, client_ca_file: x, certificates: [{name: a}]}":                                     "http.ingest.certificates: requires http.tls",
		"{enabled: true, tokens: [{name: a, token: {file: x}, sources: [\"\"], targets: [\"\"], rate: 0}]}": "http.ingest.tokens[0].sources[0]: is empty",
	} {
		_, problems := load(t, "http: {ingest: "+text+"}\n")
		found := false
		for _, p := range problems {
			found = found || strings.Contains(p, want)
		}
		if !found {
			t.Errorf("%s: %v, want %s", text, problems, want)
		}
	}
	// Targets that senders are limited to must be there.
	_, problems := load(t, "http: {ingest: {enabled: true, tokens: [{name: a, token: {file: x}, targets: [ops, opps, \"o*\", \"x*\"]}]}}\n"+
		"targets: [{id: ops, host: smtp.example.com, auth_method: none, from_address: a@example.com, to: [b@example.com]}]\n")
	if len(problems) != 2 || !strings.Contains(problems[0], `http.ingest.tokens[0].targets[1]: target "opps" is not defined: did you mean "ops"?`) || !strings.Contains(problems[1], "http.ingest.tokens[0].targets[3]: matches no target") {
		t.Errorf("%v", problems)
	}
	cfg, problems := load(t, "http: {ingest: {enabled: true, hmac: [{name: a, secret: {file: x}}]}}\n")
	if h := cfg.HTTP.Ingest.HMAC[0]; len(problems) != 0 || h.Scheme != "standard" || h.Format != "events" || h.Rate != defaultIngestRate || h.MaxBody != ingest.MaxBody {
		t.Errorf("%+v, %v", h, problems)
	}
}

// A secret that the server would refuse at each request is an error of check --live, by the same rule.
func TestCheckLiveSecretsOfSenders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		lab.Write(t, file, []byte(text))
		return file
	}
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	const fifteen, sixteen = "canary-fifteen-", "canary-sixteen--"
	for i, c := range []struct{ sender, secret, want string }{
		{"tokens: [{name: a, token: {file: FILE}}]", sixteen, ""},
		{"tokens: [{name: a, token: {file: FILE}}]", fifteen, "its key has 15 bytes, want at least 16"},
		{"hmac: [{name: a, secret: {file: FILE}}]", "whsec_" + encode(sixteen), ""},
		{"hmac: [{name: a, secret: {file: FILE}}]", "whsec_" + encode(fifteen), "its key has 15 bytes"},
		{"hmac: [{name: a, secret: {file: FILE}}]", "whsec_" + sixteen + "!", "what follows is not base64"},
		{"hmac: [{name: a, secret: {file: FILE}}]", fifteen, "its key has 15 bytes"},
		{"hmac: [{name: a, secret: {file: FILE}, scheme: step}]", encode(sixteen), ""},
		{"hmac: [{name: a, secret: {file: FILE}, scheme: step}]", encode(fifteen), "its key has 15 bytes"},
		{"hmac: [{name: a, secret: {file: FILE}, scheme: step}]", sixteen + "!", "is not base64"},
		{"hmac: [{name: a, secret: {file: FILE}, scheme: github}]", fifteen, "its key has 15 bytes"},
		{"hmac: [{name: a, secret: {file: /nowhere}}]", "", "/nowhere"},
	} {
		file := write(fmt.Sprint("secret", i), c.secret)
		cfg, problems := load(t, "http: {ingest: {enabled: true, "+strings.ReplaceAll(c.sender, "FILE", file)+"}}\n")
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		store, err := secrets.Open(cfg.Vault, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		found := cfg.HTTP.probe(t.Context(), store)
		store.Close()
		if len(found) != 1 || found[0].What != "ingest a" || (found[0].Status == "ok") != (c.want == "") || !strings.Contains(found[0].Message, c.want) || strings.Contains(found[0].Message, "canary") {
			t.Errorf("%s, %q: %+v, want %s", c.sender, c.secret, found, c.want)
		}
	}
	cfg, _ := load(t, "http: {metrics_token: {file: "+write("short", fifteen)+"}}\n")
	store, err := secrets.Open(cfg.Vault, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if found := cfg.HTTP.probe(t.Context(), store); len(found) != 1 || found[0].Status != "error" || !strings.Contains(found[0].Message, "it has 15 characters, want at least 16") {
		t.Errorf("%+v", found)
	}
}

// The curl line of the README is run.
func TestCurlOnThePage(t *testing.T) {
	t.Parallel()
	lab.Need(t, "curl")
	o := ingestFixture(t, "")
	_, _, chain := o.issue("www.example.com")
	event, err := json.Marshal(map[string]any{"id": "curl", "certificate": chain})
	if err != nil {
		t.Fatal(err)
	}
	o.write("event.json", string(event))
	line := strings.ReplaceAll(readmeBlock(t, "<!-- this curl line is run by a test -->"), "https://certpost.example.com", o.service.http.address())
	cmd := exec.Command("bash", "-euc", line)
	cmd.Dir, cmd.Env = o.dir, append(os.Environ(), "TOKEN="+ingestToken)
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != `{"id":"curl","duplicate":false}` {
		t.Errorf("%v: %s", err, out)
	}
}

// Fault: the stream of events is gone while events are posted. Result: 503, never 202; once the stream
// is there again the repeated event is stored, once.
func TestPostWithoutAStream(t *testing.T) {
	t.Parallel()
	o := ingestFixture(t, "")
	_, _, chain := o.issue("www.example.org")
	js := o.service.broker.JetStream()
	before, err := js.Stream(t.Context(), broker.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	config := before.CachedInfo().Config
	if err := js.DeleteStream(t.Context(), broker.EventsStream); err != nil {
		t.Fatal(err)
	}
	token := "Authorization: Bearer " + ingestToken
	if status, text := o.post(http.DefaultClient, posted("one", chain, ""), token); status != http.StatusServiceUnavailable {
		t.Errorf("%d %s", status, text)
	}
	stream, err := js.CreateOrUpdateStream(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if status, text := o.post(http.DefaultClient, posted("one", chain, ""), token); status != http.StatusAccepted {
			t.Errorf("%d %s", status, text)
		}
	}
	if got := ids(t, stream); len(got) != 1 {
		t.Errorf("the stream has %q", got)
	}
}
