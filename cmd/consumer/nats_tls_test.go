package main

import (
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
)

// The embedded NATS with TLS: our own commands trust the certificate by its file, others by
// its CA; new files are used for new connections while the old ones go on; without TLS, and
// without a client's certificate where one is required, nobody gets in.
//
// Fault: the certificate of the embedded NATS is replaced. Result: new connections get it, the
// others stay.
func TestEmbeddedNATSWithTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, certs ...*lab.Issued) {
		must(os.WriteFile(path(name+".pem"), lab.PEM(certs...), 0o600))
		must(os.WriteFile(path(name+".key"), lab.KeyPEM(t, certs[0].Key), 0o600))
	}
	long := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(720*time.Hour)
	}
	here := func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }
	client := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	ca := lab.Issue(t, nil, lab.NewKey(t, "p256"), "CA", lab.AsCA, long)
	server := lab.Issue(t, ca, lab.NewKey(t, "p256"), "nats", long, here)
	write("ca", ca)
	write("server", server, ca)
	write("other", lab.Issue(t, nil, lab.NewKey(t, "p256"), "another", long, here))
	write("client", lab.Issue(t, ca, lab.NewKey(t, "p256"), "client", long, client))

	start := func(clientCA string) (*Config, *instance) {
		cfg := defaultConfig()
		cfg.DataDir, cfg.NATS.Listen, cfg.NATS.SyncInterval = t.TempDir(), "127.0.0.1:0", "2m"
		cfg.NATS.TLS = NATSTLSConfig{CertFile: path("server.pem"), KeyFile: path("server.key"), ClientCAFile: clientCA}
		s := &instance{cfg: cfg, log: zerolog.Nop()}
		connection := cfg.brokerConfig(t.Context(), nil)
		var err error
		s.natsCertificate, connection.ServerTLS, err = cfg.NATS.openNATSCertificate(t.Context(), nil, zerolog.Nop())
		must(err)
		s.broker, err = broker.Open(connection, zerolog.Nop())
		must(err)
		t.Cleanup(s.broker.Close)
		must(s.broker.EnsureTopology(t.Context()))
		cfg.NATS.Listen = strings.TrimPrefix(s.broker.URL(), "tls://")
		return cfg, s
	}
	command := func(cfg *Config, edit func(*NATSTLSConfig)) error {
		other := *cfg
		edit(&other.NATS.TLS)
		b, err := broker.Dial(t.Context(), other.brokerConfig(t.Context(), nil), zerolog.Nop())
		if err != nil {
			return err
		}
		defer b.Close()
		return b.Health(t.Context())
	}
	as := func(*NATSTLSConfig) {}
	fails := func(err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q", err, text)
		}
	}

	cfg, s := start("")
	must(command(cfg, as))
	must(command(cfg, func(c *NATSTLSConfig) { c.CAFile = path("ca.pem") }))
	fails(command(cfg, func(c *NATSTLSConfig) { c.CAFile = path("other.pem") }), "certificate signed by unknown authority")
	fails(command(cfg, func(c *NATSTLSConfig) { c.CAFile = path("none.pem") }), "nats.tls.ca_file: ")
	fails(command(cfg, func(c *NATSTLSConfig) { c.CertFile = path("other.pem") }), "the NATS server has another certificate than "+path("other.pem"))
	fails(command(cfg, func(c *NATSTLSConfig) { *c = NATSTLSConfig{} }), "unknown authority")
	seed := lab.Seed(cfg.DataDir, "admin")
	login, err := nats.NkeyOptionFromSeed(seed)
	must(err)
	url := "nats://" + cfg.NATS.Listen
	if nc, err := nats.Connect(url, login); err == nil {
		nc.Close()
		t.Error("a client that does not know the CA was let in")
	}
	conn, err := net.Dial("tcp", cfg.NATS.Listen) // a client that speaks no TLS gets no further than the greeting
	must(err)
	defer conn.Close()
	must(conn.SetDeadline(time.Now().Add(30 * time.Second)))
	_, err = conn.Write([]byte("CONNECT {\"verbose\":false}\r\nPING\r\n"))
	must(err)
	answer := make([]byte, 4096)
	for n := 0; err == nil; n, err = conn.Read(answer) {
		if strings.Contains(string(answer[:n]), "PONG") {
			t.Error("a client without TLS is answered")
		}
	}

	// A new certificate, while a client is connected.
	lost := make(chan error, 10)
	old := lab.Admin(t, url, cfg.DataDir, nats.RootCAs(path("ca.pem")), nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { lost <- err }))
	next := lab.Issue(t, ca, lab.NewKey(t, "p256"), "nats", long, here)
	write("server", next, ca)
	files, err := s.natsCertificate.read()
	must(err)
	fails(command(cfg, as), "or the file was replaced some seconds ago")
	must(s.natsCertificate.renew(t.Context(), files))
	must(command(cfg, as))
	if state, err := lab.Admin(t, url, cfg.DataDir, nats.RootCAs(path("ca.pem"))).TLSConnectionState(); err != nil || !state.PeerCertificates[0].Equal(next.Certificate) {
		t.Errorf("a new connection has the old certificate: %v", err)
	}
	if m, err := old.Request("$JS.API.INFO", nil, 10*time.Second); err != nil || len(m.Data) == 0 || len(lost) > 0 {
		t.Errorf("the old connection was lost: %v", err)
	}

	// Clients need a certificate as well; our commands show the server's own.
	cfg, _ = start(path("ca.pem"))
	url = "nats://" + cfg.NATS.Listen
	must(command(cfg, as))
	lab.Admin(t, url, cfg.DataDir, nats.RootCAs(path("ca.pem")), nats.ClientCert(path("client.pem"), path("client.key")))
	for _, options := range [][]nats.Option{nil, {nats.ClientCert(path("other.pem"), path("other.key"))}} {
		login, err := nats.NkeyOptionFromSeed(lab.Seed(cfg.DataDir, "admin"))
		must(err)
		if nc, err := nats.Connect(url, append(options, login, nats.RootCAs(path("ca.pem")))...); err == nil {
			nc.Close()
			t.Error("a client without a certificate of the CA was let in")
		}
	}
}

// Who can reach the embedded server is checked before it starts.
//
// Fault: the embedded NATS on an address that others can reach, without TLS or a login.
// Result: exit 2 before it starts.
func TestEmbeddedNATSIsNotOpen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, config, want string }{
		{"loopback", `nats: {listen: "127.0.0.1:4222"}`, ""},
		{"loopback of IPv6", `nats: {listen: "[::1]:4222"}`, ""},
		{"no clients", `nats: {listen: none}`, ""},
		{"all addresses", `nats: {listen: ":4222"}`, `nats.listen: :4222 can be reached from other machines, and certificates would cross the network in clear text: set nats.tls.cert_file and nats.tls.key_file, or listen on loopback, such as 127.0.0.1:4222`},
		{"another address", `nats: {listen: "192.0.2.1:4222"}`, `nats.listen: 192.0.2.1:4222 can be reached from other machines`},
		{"a name", `nats: {listen: "nats.example.com:4222"}`, `nats.listen: nats.example.com:4222 can be reached`},
		{"with a password, without TLS", `nats: {listen: "0.0.0.0:4222", user: a, password: {file: b}}`, `nats.listen: 0.0.0.0:4222 can be reached`},
		{"anonymous on the network", `nats: {anonymous: true, listen: "0.0.0.0:4222", tls: {cert_file: a, key_file: b}}`, `nats.anonymous: opens the embedded server to everybody who reaches 0.0.0.0:4222`},
		{"anonymous and a password", `nats: {anonymous: true, user: a, password: {file: b}}`, `nats.anonymous: lets clients in without the password`},
		{"anonymous", `nats: {anonymous: true}`, `warning: nats.anonymous: every process on this machine can read certificates, change records and delete streams`},
		{"anonymous elsewhere", `nats: {anonymous: true, url: "nats://n"}`, `warning: nats.anonymous: has no effect`},
		{"JWT", `nats: {credentials_file: a}`, `warning: nats.credentials_file: has no effect`},
		{"CA alone", `nats: {tls: {ca_file: a}}`, `nats.tls: has no certificate for the embedded server`},
		{"elsewhere", `nats: {url: "nats://n", tls: {ca_file: a}, listen: "0.0.0.0:4222"}`, ""},
		{"clients' CA elsewhere", `nats: {url: "nats://n", tls: {client_ca_file: a}}`, `warning: nats.tls.client_ca_file: has no effect`},
		{"TLS on the network", `nats: {listen: "0.0.0.0:4222", tls: {cert_file: a, key_file: b}}`, ""},
	} {
		_, problems := load(t, c.config+"\n")
		var all []string
		for _, p := range problems {
			if strings.Contains(p, "nats") {
				all = append(all, p)
			}
		}
		if got := strings.Join(all, "\n"); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
