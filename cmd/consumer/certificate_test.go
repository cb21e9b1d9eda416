package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
)

// selfSigned is a certificate for 127.0.0.1 and localhost, and its key.
type selfSigned struct {
	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
}

func issueSelfSigned(t testing.TB, from, until time.Time) selfSigned {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "localhost"}, NotBefore: from, NotAfter: until, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return selfSigned{leaf, key}
}

func (s selfSigned) write(t testing.TB, certFile, keyFile string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	writeBlock(t, keyFile, "PRIVATE KEY", der)
	writeBlock(t, certFile, "CERTIFICATE", s.leaf.Raw)
}

func writeBlock(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s selfSigned) pkcs12(t testing.TB, passphrase string) []byte {
	t.Helper()
	file, err := pkcs12.Modern.Encode(s.key, s.leaf, nil, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// TestCertificateReload: valid files are used; invalid ones are logged and leave the
// certificate in use; health reports each problem.
func TestCertificateReload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		certFile, keyFile := filepath.Join(dir, "a.pem"), filepath.Join(dir, "a.key")
		day := 24 * time.Hour
		now := time.Now()
		first := issueSelfSigned(t, now.Add(-day), now.Add(90*day))
		first.write(t, certFile, keyFile)
		log := &writings{}
		c, err := openCertificate(t.Context(), dashboardTLS, ServerTLSConfig{CertFile: certFile, KeyFile: keyFile}, nil, zerolog.New(log))
		if err != nil {
			t.Fatal(err)
		}
		go c.watch(t.Context())
		step := func(name string, inUse selfSigned, health string) {
			t.Helper()
			time.Sleep(3 * certificateInterval)
			synctest.Wait()
			got, _ := c.get(nil)
			if !got.Leaf.Equal(inUse.leaf) {
				t.Errorf("%s: another certificate is in use", name)
			}
			err := c.health(time.Now(), 14*day)
			if (err == nil) != (health == "") || err != nil && !strings.Contains(err.Error(), health) {
				t.Errorf("%s: health %v, want %q", name, err, health)
			}
		}
		step("nothing changed", first, "")
		if log.String() != "" {
			t.Errorf("said %s", log)
		}

		second := issueSelfSigned(t, now.Add(-day), now.Add(10*day))
		der, err := x509.MarshalPKCS8PrivateKey(second.key)
		if err != nil {
			t.Fatal(err)
		}
		writeBlock(t, keyFile, "PRIVATE KEY", der)
		step("only the key", first, "cannot be used")
		writeBlock(t, certFile, "CERTIFICATE", second.leaf.Raw)
		step("key and certificate", second, "the certificate expires ")

		for name, text := range map[string]string{"empty": "", "nonsense": "canary-nonsense", "cut short": "-----BEGIN CERTIFICATE-----\nMIIB"} {
			if err := os.WriteFile(certFile, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			step(name, second, "cannot be used")
		}
		if err := os.Remove(certFile); err != nil {
			t.Fatal(err)
		}
		step("gone", second, "does not exist")
		issueSelfSigned(t, now.Add(-2*day), now.Add(-day)).write(t, certFile, keyFile)
		step("expired", second, "the new certificate expired")
		third := issueSelfSigned(t, now.Add(-day), now.Add(14*day+time.Hour))
		third.write(t, certFile, keyFile)
		step("fixed", third, "")
		if said := log.String(); strings.Contains(said, "canary") || strings.Count(said, "was reloaded") != 2 || !strings.Contains(said, "the old one stays in use") {
			t.Errorf("said %s", said)
		}
		time.Sleep(time.Hour)
		step("expires soon", third, "the certificate expires ")
		for at, want := range map[time.Duration]string{0: "expires ", 15 * day: "expired ", -2 * day: "is not valid before "} {
			if err := validity(third.leaf, now.Add(at+2*time.Hour), 14*day); err == nil || !strings.HasPrefix(err.Error(), "the certificate "+want) {
				t.Errorf("%v: %v, want %q", at, err, want)
			}
		}
	})
}

func TestCertificateFromPKCS12(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, passphrase := filepath.Join(dir, "a.p12"), filepath.Join(dir, "passphrase")
	now := time.Now()
	pair := issueSelfSigned(t, now.Add(-time.Hour), now.Add(time.Hour))
	cfg := ServerTLSConfig{PKCS12File: file, PKCS12Passphrase: secrets.Ref{File: passphrase}}
	store, err := secrets.Open(secrets.Config{}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	other := issueSelfSigned(t, now.Add(-time.Hour), now.Add(time.Hour))
	mixed := selfSigned{pair.leaf, other.key}
	for _, test := range []struct {
		name       string
		content    []byte
		passphrase string
		want       string
	}{
		{"good", pair.pkcs12(t, "canary-p"), "canary-p\n", ""},
		{"another passphrase", pair.pkcs12(t, "canary-p"), "canary-q", "cannot be opened with the passphrase of file:" + passphrase},
		{"nonsense", []byte("canary-nonsense"), "canary-p", "is not a PKCS#12 file"},
		{"another key", mixed.pkcs12(t, "canary-p"), "canary-p", "the private key does not match the certificate"},
		{"no passphrase", pair.pkcs12(t, "canary-p"), "", "pkcs12_passphrase"},
	} {
		if err := os.WriteFile(file, test.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(passphrase, []byte(test.passphrase), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := openCertificate(t.Context(), dashboardTLS, cfg, store, zerolog.Nop())
		if (err == nil) != (test.want == "") || err != nil && (!strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		if err == nil && !c.current.Leaf.Equal(pair.leaf) {
			t.Errorf("%s: another certificate", test.name)
		}
	}
}

// serve starts the program with this section http, and stops it when the test ends.
func serve(t *testing.T, o *fixture, section string) *instance {
	t.Helper()
	o.write("service.yaml", "data_dir: "+o.dir+"/data\nnats: {listen: none, sync_interval: 2m}\n"+section)
	cfg, _, problems := loadConfig(o.path("service.yaml"), nil)
	if config.Failed(problems) {
		t.Fatal(problems)
	}
	s, err := newService(t.Context(), cfg, zerolog.New(o.log))
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Errorf("the service ended with %v", err)
		}
		s.close()
	})
	return s
}

// TestDashboardOverTLS runs the program as other machines reach it: with a certificate
// that is replaced while it runs, HTTP/2, sign-in and a token for probes.
func TestDashboardOverTLS(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	ca := lab.NewCA(t, o.dir)
	certFile, keyFile := ca.Issue(t, "localhost", "127.0.0.1")
	o.write("token", "canary-metrics-token")
	service := serve(t, o, fmt.Sprintf(`http:
  listen: 127.0.0.1:0
  url: https://certpost.example.com
  tls: {cert_file: %q, key_file: %q}
  metrics_token: {file: %q}
  sign_in:
    users:
      - {name: ada, password_hash: "%s", role: viewer}
`, certFile, keyFile, o.path("token"), hashFor(t, "canary-password")))
	o.until("ready", func() bool { return service.runner.Ready(t.Context()) == nil }) // or /healthz says 503
	address := strings.Replace(service.http.address(), "127.0.0.1", "localhost", 1)
	if !strings.HasPrefix(address, "https://localhost:") {
		t.Fatal(address)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool}, ForceAttemptHTTP2: true}}
	t.Cleanup(client.CloseIdleConnections)
	ask := func(method, path string, form url.Values, header ...string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, address+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/html")
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Sec-Fetch-Site", "same-origin")
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	resp, page := ask("GET", "/", nil)
	if resp.StatusCode != http.StatusOK || resp.Request.URL.Path != "/sign-in" || resp.ProtoMajor != 2 || resp.TLS.Version < tls.VersionTLS12 {
		t.Fatalf("%d %s %s", resp.StatusCode, resp.Request.URL, resp.Proto)
	}
	token := regexp.MustCompile(`name="token" value="([^"]*)"`).FindStringSubmatch(page)
	if token == nil {
		t.Fatalf("no token in %s", page)
	}
	if resp, _ := ask("POST", "/sign-in", url.Values{"name": {"ada"}, "password": {"canary-password"}, "token": {token[1]}, "return": {"/healthz"}}); resp.StatusCode != http.StatusOK || resp.Request.URL.Path != "/healthz" {
		t.Fatalf("%d %s", resp.StatusCode, resp.Request.URL)
	}

	// The certificate of the lab's CA is valid for a day, so it is reported.
	resp, body := ask("GET", "/healthz", nil)
	answer := read[healthAnswer](t, body)
	if resp.StatusCode != http.StatusOK || len(answer.Checks) != 7 || answer.Checks[6].Name != "tls" || answer.Checks[6].Tags[0] != "tls" || answer.Checks[6].Status != degraded || !strings.HasPrefix(answer.Checks[6].Message, "the certificate expires ") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	client.Jar = nil
	for _, probe := range []struct {
		path, token string
		want        int
	}{
		{"/livez", "", 200}, {"/readyz", "", 200}, {"/healthz", "", 401}, {"/metrics", "", 401}, {"/metrics", "wrong", 401},
		{"/metrics", "canary-metrics-token", 200}, {"/healthz", "canary-metrics-token", 200},
	} {
		if resp, _ := ask("GET", probe.path, nil, "Authorization", "Bearer "+probe.token); resp.StatusCode != probe.want {
			t.Errorf("%s with %q: %d, want %d", probe.path, probe.token, resp.StatusCode, probe.want)
		}
	}

	// New connections get the new certificate.
	day := 24 * time.Hour
	renewed := issueSelfSigned(t, time.Now().Add(-day), time.Now().Add(90*day))
	renewed.write(t, certFile, keyFile)
	trusted := x509.NewCertPool()
	trusted.AddCert(renewed.leaf)
	o.until("the new certificate", func() bool {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(address, "https://"), &tls.Config{RootCAs: trusted})
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	if err := service.http.certificate.health(time.Now(), expiresSoon); err != nil {
		t.Errorf("health: %v", err)
	}
	if said := o.log.String(); strings.Contains(said, "canary") {
		t.Errorf("a secret is in the log: %s", said)
	}
}

// `certpost check` reports the problems that the dashboard would have.
func TestCheckDashboard(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	good := issueSelfSigned(t, now.Add(-time.Hour), now.Add(90*24*time.Hour))
	good.write(t, dir+"/good.pem", dir+"/good.key")
	issueSelfSigned(t, now.Add(-time.Hour), now.Add(time.Hour)).write(t, dir+"/soon.pem", dir+"/soon.key")
	if err := os.WriteFile(dir+"/nonsense.pem", []byte("canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	hash := hashFor(t, "x")
	for _, test := range []struct {
		name, http, want string
		code             int
	}{
		{"good", "url: https://localhost, tls: {cert_file: D/good.pem, key_file: D/good.key}", "the configuration is valid: 0 targets on 0 lanes, 0 warnings", 0},
		{"another key", "tls: {cert_file: D/good.pem, key_file: D/soon.key}", "c.yaml:1:13: http.tls: D/good.pem and D/soon.key cannot be used: tls: private key does not match public key", 2},
		{"no file", "tls: {cert_file: D/absent.pem, key_file: D/good.key}", "c.yaml:1:13: http.tls: D/absent.pem does not exist", 2},
		{"nonsense", "tls: {cert_file: D/nonsense.pem, key_file: D/good.key}", "cannot be used: tls: failed to find any PEM data in certificate input", 2},
		{"expires soon", "tls: {cert_file: D/soon.pem, key_file: D/soon.key}", "warning: http.tls.cert_file: the certificate expires ", 0},
		{"another name", "url: https://certpost.example.com, tls: {cert_file: D/good.pem, key_file: D/good.key}, sign_in: {users: [{name: ada, password_hash: \"" + hash + "\", role: admin}]}", "warning: http.tls.cert_file: the certificate is not for certpost.example.com, the name in http.url", 0},
		{"the provider's CA", "url: https://certpost.example.com, sign_in: {oidc: {issuer: \"https://id.example.com\", client_id: c, ca_file: D/nonsense.pem, roles: {viewer: [x]}}}", "http.sign_in.oidc.ca_file D/nonsense.pem contains no PEM certificate", 2},
	} {
		path := filepath.Join(dir, "c.yaml")
		if err := os.WriteFile(path, []byte("http: {"+strings.ReplaceAll(test.http, "D/", dir+"/")+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs writings
		code := execute(t.Context(), []string{"--config", path, "check"}, nil, &out, &errs)
		if said := out.String() + errs.String(); code != test.code || !strings.Contains(strings.ReplaceAll(said, dir+"/", "D/"), strings.ReplaceAll(test.want, dir+"/", "D/")) || strings.Contains(said, "canary") {
			t.Errorf("%s: exit %d\n%s\nwant %d\n%s", test.name, code, said, test.code, test.want)
		}
	}
}

// With --live it queries the provider, and reads the secrets.
func TestProbeDashboard(t *testing.T) {
	t.Parallel()
	dex := lab.Dex(t, lab.DexClient{ID: "certpost", Secret: "canary", Redirects: []string{"https://certpost.example.com/sign-in/callback"}})
	dir := t.TempDir()
	good := issueSelfSigned(t, time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour))
	for name, content := range map[string][]byte{"a.p12": good.pkcs12(t, "canary-p"), "passphrase": []byte("canary-p"), "secret": []byte("canary")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := secrets.Open(secrets.Config{}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	h := defaultHTTP()
	h.URL = "https://localhost"
	h.TLS = ServerTLSConfig{PKCS12File: dir + "/a.p12", PKCS12Passphrase: secrets.Ref{File: dir + "/passphrase"}}
	h.SignIn.OIDC.Issuer, h.SignIn.OIDC.ClientID, h.SignIn.OIDC.ClientSecret = dex.Issuer, "certpost", secrets.Ref{File: dir + "/secret"}
	h.MetricsToken = secrets.Ref{File: dir + "/absent"}
	found := h.probe(t.Context(), store)
	status := func() string {
		var all []string
		for _, f := range found {
			if f.Of != "http" || strings.Contains(f.Message, "canary") {
				t.Errorf("%+v", f)
			}
			all = append(all, f.What+" "+f.Status)
		}
		return strings.Join(all, ", ")
	}
	if got := status(); got != "certificate ok, metrics_token error, client_secret ok, sign-in ok" {
		t.Errorf("%s: %+v", got, found)
	}
	dex.Stop()
	h.URL = "https://certpost.example.com"
	found = h.probe(t.Context(), store)
	if got := status(); got != "certificate warning, metrics_token error, client_secret ok, sign-in error" {
		t.Errorf("%s: %+v", got, found)
	}
}
