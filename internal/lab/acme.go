package lab

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// ACME is a running Pebble, a certificate authority that speaks ACME (RFC 8555), with a
// DNS server that answers 127.0.0.1 for every name. It really validates, by HTTP at
// HTTPPort.
type ACME struct {
	// Directory is the URL to configure in ACME clients.
	Directory string
	// CAFile holds the CA of the server at Directory, not the CA of issued certificates.
	CAFile string
	// HTTPPort is the port from which the answer to an http-01 challenge is fetched.
	HTTPPort int
	// TLSPort is the port that tls-alpn-01 challenges are sent to.
	TLSPort int

	management string // URL
	client     *http.Client
}

// Pebble starts a Pebble. The test is skipped, or fails with CI=true, if it is not built.
func Pebble(t testing.TB) *ACME {
	t.Helper()
	pebble, dns := Need(t, "pebble"), Need(t, "pebble-challtestsrv")
	dir := t.TempDir()
	ca := NewCA(t, dir)
	certFile, keyFile := ca.Issue(t, "localhost", "127.0.0.1")
	acmeAddr, managementAddr := loopback(freePort(t)), loopback(freePort(t))
	dnsAddr, dnsManagement := loopback(freePort(t)), loopback(freePort(t))
	a := &ACME{
		Directory:  "https://" + acmeAddr + "/dir",
		CAFile:     ca.File,
		HTTPPort:   freePort(t),
		TLSPort:    freePort(t),
		management: "https://" + managementAddr,
		client: &http.Client{
			Timeout:   30 * time.Second,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool}},
		},
	}
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress":           acmeAddr,
		"managementListenAddress": managementAddr,
		"certificate":             certFile,
		"privateKey":              keyFile,
		"httpPort":                a.HTTPPort,
		"tlsPort":                 a.TLSPort,
	}})
	if err != nil {
		t.Fatal(err)
	}
	// Empty addresses disable its challenge servers: ACME clients have their own.
	names := startProcess(t, "pebble-challtestsrv", filepath.Join(dir, "dns.log"), exec.Command(dns,
		"-dnsserver", dnsAddr, "-management", dnsManagement, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""))
	names.await(t, "waiting for its DNS", func() error { return answers(dnsAddr) })

	cmd := exec.Command(pebble, "-dnsserver", dnsAddr, "-config",
		writeFile(t, filepath.Join(dir, "pebble.json"), string(config), 0o644))
	// By default Pebble sleeps before validating, and sometimes refuses valid nonces.
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	log := filepath.Join(dir, "pebble.log")
	server := startProcess(t, "pebble", log, cmd)
	logOnFailure(t, log)
	server.await(t, "waiting for its directory", func() error {
		_, err := a.get(a.Directory)
		return err
	})
	return a
}

// Root is the self-signed certificate at the end of every chain from this Pebble.
func (a *ACME) Root(t testing.TB) *x509.Certificate { return a.issuer(t, "/roots/0") }

// Intermediate is the certificate that signs what this Pebble issues.
func (a *ACME) Intermediate(t testing.TB) *x509.Certificate { return a.issuer(t, "/intermediates/0") }

func (a *ACME) issuer(t testing.TB, path string) *x509.Certificate {
	t.Helper()
	body, err := a.get(a.management + path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(body)
	if block == nil {
		t.Fatalf("pebble: %s is not PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (a *ACME) get(url string) ([]byte, error) {
	resp, err := a.client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// Certbot runs Debian's certbot to get a first certificate for domains, with deployHook, a
// shell command line, which gets RENEWED_LINEAGE and RENEWED_DOMAINS in its environment.
// keyType is "ecdsa" or "rsa"; "" means certbot's default. Its files are in dir. It returns
// RENEWED_LINEAGE: the directory of fullchain.pem and privkey.pem.
func Certbot(t testing.TB, a *ACME, dir string, domains []string, deployHook, keyType string) (lineage string) {
	t.Helper()
	args := []string{"certonly", "--standalone", "--agree-tos", "--register-unsafely-without-email",
		"--server", a.Directory, "--http-01-address", "127.0.0.1", "--http-01-port", strconv.Itoa(a.HTTPPort)}
	for _, domain := range domains {
		args = append(args, "--domain", domain)
	}
	if deployHook != "" {
		args = append(args, "--deploy-hook", deployHook)
	}
	if keyType != "" {
		args = append(args, "--key-type", keyType)
	}
	a.certbot(t, dir, args)
	return filepath.Join(dir, "config", "live", domains[0])
}

// CertbotRenew renews what Certbot has got, with the hook that it was given then.
func CertbotRenew(t testing.TB, a *ACME, dir string) {
	t.Helper()
	a.certbot(t, dir, []string{"renew", "--force-renewal", "--no-random-sleep-on-renew"})
}

func (a *ACME) certbot(t testing.TB, dir string, args []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Need(t, "certbot"), append(args, "--non-interactive",
		"--config-dir", filepath.Join(dir, "config"), "--work-dir", filepath.Join(dir, "work"), "--logs-dir", filepath.Join(dir, "logs"))...)
	// certbot uses Python's requests for HTTPS, which takes its roots from here.
	cmd.Env = append(os.Environ(), "REQUESTS_CA_BUNDLE="+a.CAFile)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("certbot: %v\n%s", err, out)
	}
	t.Logf("certbot: %s", out)
}

// Lego runs Debian's lego to get a first certificate for a domain, with a hook. Its files are
// in dir/certificates. It uses TLSPort, so another client may run at the same time.
func Lego(t testing.TB, a *ACME, dir, domain, hook string) {
	t.Helper()
	a.lego(t, dir, domain, "run", "--run-hook", hook)
}

// LegoRenew renews what Lego has got.
func LegoRenew(t testing.TB, a *ACME, dir, domain, hook string) {
	t.Helper()
	a.lego(t, dir, domain, "renew", "--days", "10000", "--no-random-sleep", "--renew-hook", hook)
}

func (a *ACME) lego(t testing.TB, dir, domain string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Need(t, "lego"), append([]string{"--server", a.Directory, "--accept-tos", "--email", "ops@lab.test", "--path", dir,
		"--domains", domain, "--tls", "--tls.port", loopback(a.TLSPort)}, args...)...)
	cmd.Env = append(os.Environ(), "LEGO_CA_CERTIFICATES="+a.CAFile)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("lego: %v\n%s", err, out)
	}
	t.Logf("lego: %s", out)
}

// Dehydrated runs Debian's dehydrated for a domain, with a hook. Its files are in dir/certs. Run
// again, it finds that the certificate is still good; with --force it renews it.
func Dehydrated(t testing.TB, a *ACME, dir, domain, hook string, more ...string) {
	t.Helper()
	dehydrated := Need(t, "dehydrated")
	challenges := mkdir(t, dir, "challenges")
	config := writeFile(t, filepath.Join(dir, "config"), fmt.Sprintf("CA=%q\nBASEDIR=%q\nWELLKNOWN=%q\nCURL_OPTS=\"--cacert %s\"\nHOOK=%q\nKEY_ALGO=prime256v1\nCONTACT_EMAIL=ops@lab.test\n",
		a.Directory, dir, challenges, a.CAFile, hook), 0o600)
	l, err := net.Listen("tcp", loopback(a.HTTPPort))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.StripPrefix("/.well-known/acme-challenge/", http.FileServer(http.Dir(challenges)))}
	go server.Serve(l)
	defer server.Close()
	steps := [][]string{{"--register", "--accept-terms"}, append([]string{"--cron", "--domain", domain}, more...)}
	if _, err := os.Stat(filepath.Join(dir, "accounts")); err == nil {
		steps = steps[1:]
	}
	for _, args := range steps {
		out, err := exec.CommandContext(t.Context(), dehydrated, append([]string{"--config", config}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("dehydrated: %v\n%s", err, out)
		}
		t.Logf("dehydrated: %s", out)
	}
}
