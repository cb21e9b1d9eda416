package deployments

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
)

// composed is a copy of compose/ after setup.
type composed struct {
	dir     string
	program string
	env     []string // of .env
}

func setUp(t *testing.T) composed {
	t.Helper()
	lab.Need(t, "openssl")
	c := composed{dir: filepath.Join(t.TempDir(), "compose"), program: lab.Build(t)}
	if err := os.CopyFS(c.dir, os.DirFS("compose")); err != nil {
		t.Fatal(err)
	}
	// A checkout in which somebody has tried it has these.
	for _, name := range []string{".env", "secrets"} {
		if err := os.RemoveAll(filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	setup := exec.CommandContext(t.Context(), "sh", filepath.Join(c.dir, "setup"))
	setup.Env = append(os.Environ(), "CERTPOST="+c.program, "DASHBOARD_PASSWORD=a password of the test")
	if out, err := setup.CombinedOutput(); err != nil || !strings.Contains(string(out), "user admin, password a password of the test\n") {
		t.Fatalf("setup: %v\n%s", err, out)
	}
	for line := range strings.Lines(read(t, filepath.Join(c.dir, ".env"))) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		c.env = append(c.env, name+"="+strings.Trim(value, "'"))
	}
	return c
}

// model is what Compose makes of the file.
type model struct {
	Services map[string]struct {
		ReadOnly    bool `json:"read_only"`
		Image       string
		CapDrop     []string `json:"cap_drop"`
		Environment map[string]string
		Volumes     []struct{ Type, Source, Target string }
		Ports       []struct {
			HostIP string `json:"host_ip"`
		}
	}
}

func (c composed) model(t *testing.T) (m model) {
	t.Helper()
	check := exec.CommandContext(t.Context(), lab.Need(t, "containers-check"), "compose", filepath.Join(c.dir, "compose.yaml"))
	check.Stderr = t.Output()
	out, err := check.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestCompose has Compose's own code read the file: the files that it mounts exist, its ports are
// those of this machine only, and our containers can write nothing but their volumes.
func TestCompose(t *testing.T) {
	t.Parallel()
	c := setUp(t)
	m := c.model(t)
	if len(m.Services) != 9 {
		t.Errorf("%d services", len(m.Services))
	}
	for name, s := range m.Services {
		for _, v := range s.Volumes {
			source := strings.Replace(v.Source, filepath.Dir(c.dir)+"/", "", 1)
			if _, err := os.Stat(filepath.Join(filepath.Dir(c.dir), source)); v.Type == "bind" && err != nil {
				if _, err := os.Stat(source); err != nil { // beside compose/
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s has a port on %q", name, p.HostIP)
			}
		}
		if strings.HasPrefix(name, "certpost-") || strings.HasPrefix(name, "nats-") {
			if !s.ReadOnly || len(s.CapDrop) != 1 || s.CapDrop[0] != "ALL" {
				t.Errorf("%s: read_only %v, cap_drop %v", name, s.ReadOnly, s.CapDrop)
			}
		}
	}
	current := lab.Output(t, c.program, "nats-account", "--source", "demo")
	if file := "compose/accounts.conf"; os.Getenv("UPDATE_DOCS") == "true" {
		lab.Write(t, file, []byte(current))
	} else if read(t, file) != current {
		t.Errorf("%s is out of date: UPDATE_DOCS=true go test -run TestCompose ./deployments", file)
	}
	check := exec.CommandContext(t.Context(), lab.Need(t, "promtool"), "check", "config", "--syntax-only", "compose/prometheus.yml")
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// TestComposeRuns runs what compose.yaml describes without containers: three NATS servers and two
// Certposts with the files' own configuration, on loopback. One NATS server dies; nothing is lost.
func TestComposeRuns(t *testing.T) {
	c := setUp(t)
	m := c.model(t)
	var servers []*server.Server
	var urls, routes []string
	for range 3 {
		routes = append(routes, lab.FreeAddress(t))
	}
	for i := range 3 {
		for name, value := range m.Services[fmt.Sprintf("nats-%d", i)].Environment {
			t.Setenv(name, value)
		}
		opts, err := server.ProcessConfigFile(filepath.Join(c.dir, "nats.conf"))
		if err != nil {
			t.Fatal(err)
		}
		address, err := net.ResolveTCPAddr("tcp", routes[i])
		if err != nil {
			t.Fatal(err)
		}
		opts.Host, opts.Port, opts.HTTPPort, opts.StoreDir = "127.0.0.1", -1, 0, t.TempDir()
		opts.Cluster.Host, opts.Cluster.Port = "127.0.0.1", address.Port
		opts.Routes = server.RoutesFromStr("nats-route://" + strings.Join(routes, ",nats-route://"))
		opts.NoSigs, opts.NoLog = true, true
		servers = append(servers, lab.RunNATS(t, opts))
		urls = append(urls, servers[i].ClientURL())
	}
	relay, err := devrelay.Start(devrelay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	host, port, _ := net.SplitHostPort(relay.Plain())

	env := append(os.Environ(), c.env...)
	env = append(env, "CERTPOST_NATS_URL="+strings.Join(urls, ","), "RELAY_HOST="+host, "RELAY_PORT="+port,
		"CERTPOST_HTTP_TLS_CERT_FILE="+c.dir+"/secrets/dashboard.pem", "CERTPOST_HTTP_TLS_KEY_FILE="+c.dir+"/secrets/dashboard-key.pem")
	for name, value := range m.Services["certpost-0"].Environment {
		env = append(env, name+"="+value)
	}
	pages := lab.FreeAddress(t)
	for i, listen := range []string{pages, lab.FreeAddress(t)} {
		certpost := exec.CommandContext(t.Context(), c.program, "run", "--config", c.dir+"/certpost.yaml")
		certpost.Env = append(env, "CERTPOST_HTTP_LISTEN="+listen)
		log, err := os.Create(filepath.Join(c.dir, fmt.Sprintf("log-%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		certpost.Stdout, certpost.Stderr = log, log
		if err := certpost.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = certpost.Process.Kill()
			_ = certpost.Wait()
			_ = log.Close()
			if t.Failed() {
				t.Log(read(t, log.Name()))
			}
		})
	}

	publisher := filepath.Join(c.dir, "publisher.yaml")
	lab.Write(t, publisher, fmt.Appendf(nil, "data_dir: %s\nnats: {url: %q, user: publisher-demo, password: {env: NATS_PUBLISHER_DEMO_PASSWORD}, inbox_prefix: _INBOX_publisher-demo}\n", c.dir, strings.Join(urls, ",")))
	ca := lab.NewCA(t, t.TempDir())
	publish := func(name string, mails int) {
		t.Helper()
		cert, _ := ca.Issue(t, name)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for { // until Certpost has made its streams, and after a server's end until they have leaders
			cmd := exec.CommandContext(ctx, c.program, "publish", "--config", publisher, "--as", "demo", "--cert", cert, "--id", name)
			cmd.Env = env
			out, err := cmd.CombinedOutput()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("publish: %v\n%s", err, out)
			}
		}
		if _, err := relay.WaitFor(ctx, func(all []devrelay.Mail) bool { return len(all) == mails }); err != nil {
			t.Fatalf("%d mails, want %d", relay.Count(), mails)
		}
	}
	publish("one.example.com", 1)
	servers[2].Shutdown()
	publish("two.example.com", 2)

	// Prometheus knows the pages by their certificate, and shows its token.
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(read(t, filepath.Join(c.dir, "secrets/dashboard.pem"))))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"}}}
	defer client.CloseIdleConnections()
	for token, want := range map[string]int{read(t, filepath.Join(c.dir, "secrets/metrics-token")): http.StatusOK, "another": http.StatusForbidden} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+pages+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "certpost-0:8443" // as Prometheus calls it
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != want || strings.Contains(string(text), "\ncertpost_") != (want == http.StatusOK) {
			t.Errorf("/metrics: %v, %s, %.200s", err, answer.Status, text)
		}
	}
}
