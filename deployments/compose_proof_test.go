//go:build proof

package deployments

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
)

// proof is compose.yaml at work on loopback, every service a process of its own but the relay.
type proof struct {
	*testing.T
	composed
	urls  []string                   // of the NATS servers
	kill  map[string]func()          // SIGKILL by service
	pages map[string]string          // host:port by Certpost
	env   []string                   // of commands
	ca    *lab.CA                    // of the certificates that are delivered
	until func(string, func() error) // waits for what must come to be
}

// relayPassword is what the second target's relay asks for; Vault has it.
const relayPassword = "canary password of the relay"

// TestComposeProof runs what compose.yaml describes, with real NATS servers, Vault and Prometheus, and the repository's own alerts,
// whose "for" is cut to seconds. The relay dies: CertpostRelayAway fires, and resolves when it is back. Meanwhile a machine is killed, one NATS server
// and one Certpost: CertpostDown fires. Every certificate that was accepted arrives at both targets.
func TestComposeProof(t *testing.T) {
	p := startProof(t)
	relays := p.startRelays("127.0.0.1:0", "127.0.0.1:0")
	plain, submission := relays[0].Plain(), relays[1].Submission()
	p.startCertposts(plain, submission)
	prometheus := p.startPrometheus()

	var published []string
	publish := func(n int) {
		t.Helper()
		for range n {
			id := fmt.Sprintf("www%d.example.com", len(published))
			p.publish(id)
			published = append(published, id)
		}
	}
	var before []devrelay.Mail // the mails of relays that have ended
	mails := func() []devrelay.Mail { return slices.Concat(before, relays[0].Mails(), relays[1].Mails()) }
	publish(2)
	p.until("the first mails arrive", func() error { return arrived(mails(), published) })
	p.until("Prometheus scrapes both", func() error {
		if n := prometheus.query(t, `sum(up{job="certpost"})`); n != 2 {
			return fmt.Errorf("%v are up", n)
		}
		return nil
	})
	if firing := prometheus.firing(t); len(firing) > 0 {
		t.Errorf("while all is well these alerts fire: %v", firing)
	}

	for _, r := range relays {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	publish(4)
	p.until("CertpostRelayAway fires", func() error { return prometheus.fires(t, "CertpostRelayAway", true) })

	p.kill["nats-2"]()
	p.kill["certpost-1"]()
	publish(2)
	p.until("CertpostDown fires", func() error { return prometheus.fires(t, "CertpostDown", true) })

	before = mails()
	relays = p.startRelays(plain, submission)
	publish(1)
	p.until("every certificate arrives", func() error { return arrived(mails(), published) })
	p.until("CertpostRelayAway is resolved", func() error { return prometheus.fires(t, "CertpostRelayAway", false) })
	if n := prometheus.query(t, `sum(max by (code, lane) (certpost_dead_letters)) or vector(0)`); n != 0 {
		t.Errorf("%v dead letters", n)
	}
	logs, err := filepath.Glob(filepath.Join(p.dir, "*.log"))
	if err != nil || len(logs) < 6 {
		t.Fatalf("%q, %v", logs, err)
	}
	for _, log := range logs {
		if strings.Contains(read(t, log), "canary") {
			t.Errorf("%s has the password of the relay", log)
		}
	}
}

// arrived says what of the published certificates is missing at which of the two recipients.
func arrived(mails []devrelay.Mail, published []string) error {
	has := map[string]bool{}
	for _, m := range mails {
		for _, to := range m.Recipients {
			for _, id := range published {
				if strings.Contains(string(m.Raw), id) {
					has[id+" to "+to] = true
				}
			}
		}
	}
	for _, id := range published {
		for _, to := range []string{"ops@example.com", "vaulted@example.com"} {
			if !has[id+" to "+to] {
				return fmt.Errorf("%d of %d are there, %s to %s is not", len(has), 2*len(published), id, to)
			}
		}
	}
	return nil
}

func startProof(t *testing.T) *proof {
	t.Helper()
	p := &proof{T: t, composed: setUp(t), kill: map[string]func(){}, pages: map[string]string{}, ca: lab.NewCA(t, t.TempDir())}
	p.until = func(what string, done func() error) {
		t.Helper()
		end := time.Now().Add(2 * time.Minute)
		for {
			err := done()
			if err == nil {
				t.Logf("%s: %s", time.Now().Format(time.TimeOnly), what)
				return
			}
			if time.Now().After(end) {
				t.Fatalf("timed out waiting until %s: %v", what, err)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	p.startNATS()
	return p
}

// start runs a program until the test ends or it is killed.
func (p *proof) start(name string, env []string, program string, args ...string) {
	p.Helper()
	log, err := os.Create(filepath.Join(p.dir, name+".log"))
	if err != nil {
		p.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	kill := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
	})
	p.kill[name] = kill
	p.Cleanup(func() {
		kill()
		if text := read(p.T, log.Name()); p.Failed() {
			p.Logf("%s:\n%s", name, text[max(0, len(text)-3000):])
		}
	})
}

// startNATS builds the server of the version that certpost embeds, and starts three with compose's own
// configuration, in which only addresses and the directory are others.
func (p *proof) startNATS() {
	p.Helper()
	program := filepath.Join(p.TempDir(), "nats-server")
	lab.Output(p.T, "go", "build", "-o", program, "github.com/nats-io/nats-server/v2")
	config, m := read(p.T, filepath.Join(p.dir, "nats.conf")), p.model(p.T)
	var routes, clients []string
	for range 3 {
		routes, clients = append(routes, lab.FreeAddress(p.T)), append(clients, lab.FreeAddress(p.T))
	}
	for i := range 3 {
		name := fmt.Sprintf("nats-%d", i)
		file := filepath.Join(p.dir, name+".conf")
		lab.Write(p.T, file, []byte(replace(p.T, config,
			"0.0.0.0:4222", clients[i], "http: 0.0.0.0:8222\n", "", "/data", p.TempDir(), "0.0.0.0:6222", routes[i],
			"nats-0:6222", routes[0], "nats-1:6222", routes[1], "nats-2:6222", routes[2])))
		env := os.Environ()
		for key, value := range m.Services[name].Environment {
			env = append(env, key+"="+value)
		}
		p.start(name, env, program, "--config", file)
		p.urls = append(p.urls, "nats://"+clients[i])
	}
	p.until("all NATS servers listen", func() error {
		for _, address := range clients {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				return err
			}
			_ = conn.Close()
		}
		return nil
	})
}

// replace replaces pairs of texts, each of which must be there.
func replace(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("%q is not in\n%s", pairs[i], text)
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// startRelays starts the relay of compose's target and that of the second one, which asks for a login.
func (p *proof) startRelays(plain, submission string) (relays []*devrelay.Relay) {
	p.Helper()
	for _, config := range []devrelay.Config{{Plain: plain}, {Submission: submission, Users: map[string]string{"certpost": relayPassword}}} {
		relay, err := devrelay.Start(config)
		if err != nil {
			p.Fatal(err)
		}
		p.Cleanup(func() { _ = relay.Close() })
		relays = append(relays, relay)
	}
	if _, err := relays[1].CAFile(p.dir); err != nil {
		p.Fatal(err)
	}
	return relays
}

// startCertposts starts both, with compose's own configuration and a second target, whose login is in Vault.
func (p *proof) startCertposts(plain, submission string) {
	p.Helper()
	vault := lab.Vault(p.T)
	vault.Put(p.T, "secret/relay", map[string]any{"password": relayPassword})
	host, port, _ := net.SplitHostPort(plain)
	_, secured, _ := net.SplitHostPort(submission)
	file := filepath.Join(p.dir, "certpost.yaml")
	lab.Write(p.T, file, []byte(replace(p.T, read(p.T, file), "http://vault:8200", vault.Address, "targets: [demo]", "targets: [demo, vaulted]")+`  - id: vaulted
    match: {issuers: ["*"]}
    host: localhost
    port: `+secured+`
    ca_file: `+p.dir+`/devrelay-ca.pem
    username: certpost
    password: {vault: {mount: secret, path: relay, key: password}}
    from_address: certpost@example.com
    to: [vaulted@example.com]
delivery: {retry: {initial: 1s, max: 2s}}
`))
	p.env = append(os.Environ(), p.composed.env...)
	p.env = append(p.env, "CERTPOST_NATS_URL="+strings.Join(p.urls, ","), "RELAY_HOST="+host, "RELAY_PORT="+port,
		"CERTPOST_HTTP_TLS_CERT_FILE="+p.dir+"/secrets/dashboard.pem", "CERTPOST_HTTP_TLS_KEY_FILE="+p.dir+"/secrets/dashboard-key.pem")
	for name, value := range p.model(p.T).Services["certpost-0"].Environment {
		p.env = append(p.env, name+"="+value)
	}
	p.env = append(p.env, "VAULT_TOKEN="+vault.RootToken)
	for _, name := range []string{"certpost-0", "certpost-1"} {
		p.pages[name] = lab.FreeAddress(p.T)
		p.start(name, append(p.env, "CERTPOST_HTTP_LISTEN="+p.pages[name]), p.program, "run", "--config", file)
	}
	lab.Write(p.T, filepath.Join(p.dir, "publisher.yaml"), fmt.Appendf(nil, "data_dir: %s\nnats: {url: %q, user: publisher-demo, password: {env: NATS_PUBLISHER_DEMO_PASSWORD}, inbox_prefix: _INBOX_publisher-demo}\n",
		p.dir, strings.Join(p.urls, ",")))
}

// publish publishes a certificate, again until NATS has stored it; a second copy has the same id.
func (p *proof) publish(name string) {
	p.Helper()
	cert, _ := p.ca.Issue(p.T, name)
	p.until(name+" is published", func() error {
		ctx, cancel := context.WithTimeout(p.Context(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, p.program, "publish", "--config", filepath.Join(p.dir, "publisher.yaml"), "--as", "demo", "--cert", cert, "--id", name)
		cmd.Env = p.env
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// prometheusServer is a real one, with the repository's configuration and alerts.
type prometheusServer string

func (p *proof) startPrometheus() prometheusServer {
	p.Helper()
	program := lab.Need(p.T, "prometheus")
	rules := read(p.T, "prometheus/certpost.rules.yml")
	lab.Write(p.T, filepath.Join(p.dir, "certpost.rules.yml"), regexp.MustCompile(`(?m)^( +for: )\d+[mh]$`).ReplaceAll([]byte(rules), []byte("${1}2s")))
	lab.Write(p.T, filepath.Join(p.dir, "prometheus.yml"), []byte(replace(p.T, read(p.T, filepath.Join(p.dir, "prometheus.yml")),
		"scrape_interval: 15s, evaluation_interval: 15s", "scrape_interval: 1s, evaluation_interval: 1s", "/run/secrets", p.dir+"/secrets",
		"certpost-0:8443", p.pages["certpost-0"], "certpost-1:8443", p.pages["certpost-1"])))
	listen := lab.FreeAddress(p.T)
	p.start("prometheus", os.Environ(), program, "--config.file", filepath.Join(p.dir, "prometheus.yml"), "--storage.tsdb.path", p.TempDir(), "--web.listen-address", listen)
	return prometheusServer(listen)
}

// ask asks the API; nil while Prometheus starts.
func (s prometheusServer) ask(t *testing.T, path string, into any) error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+string(s)+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(into)
}

// query is the value of an expression with one result; 0 while there is none.
func (s prometheusServer) query(t *testing.T, expression string) (value float64) {
	t.Helper()
	var answer struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if s.ask(t, "/api/v1/query?query="+url.QueryEscape(expression), &answer) == nil && len(answer.Data.Result) == 1 {
		_, _ = fmt.Sscan(fmt.Sprint(answer.Data.Result[0].Value[1]), &value)
	}
	return value
}

// firing are the alerts that fire.
func (s prometheusServer) firing(t *testing.T) (names map[string]bool) {
	t.Helper()
	var answer struct {
		Data struct {
			Alerts []struct {
				Labels map[string]string
				State  string
			}
		}
	}
	if err := s.ask(t, "/api/v1/alerts", &answer); err != nil {
		t.Fatal(err)
	}
	names = map[string]bool{}
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" {
			names[a.Labels["alertname"]] = true
		}
	}
	return names
}

func (s prometheusServer) fires(t *testing.T, alert string, want bool) error {
	t.Helper()
	if firing := s.firing(t); firing[alert] != want {
		return fmt.Errorf("these fire: %v", firing)
	}
	return nil
}
