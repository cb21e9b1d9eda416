//go:build unix

package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
	"github.com/pavlo-v-chernykh/keystore-go/v4"
	"software.sslmate.com/src/go-pkcs12"
)

// hostExample is a file of examples/mail-hosts: the lines of the server's configuration, which
// stand behind #|, and a target.
type hostExample struct{ server, target string }

func readHostExample(t *testing.T, name string) hostExample {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "examples", "mail-hosts", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var e hostExample
	for _, m := range regexp.MustCompile(`(?m)^#\| (.*\n)`).FindAllStringSubmatch(string(text), -1) {
		e.server += m[1]
	}
	_, e.target, _ = strings.Cut(string(text), "\ntargets:\n")
	return e
}

// with replaces what is different in a test. Each must be there.
func (e hostExample) with(t *testing.T, pairs ...string) hostExample {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(e.server+e.target, pairs[i]) {
			t.Fatalf("the example has no %s:\n%s%s", pairs[i], e.server, e.target)
		}
	}
	r := strings.NewReplacer(pairs...)
	return hostExample{r.Replace(e.server), r.Replace(e.target)}
}

// The examples of examples/mail-hosts are configurations without problems.
func TestExamplesOfMailHosts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(root, "examples", "mail-hosts", "*.yaml"))
	if err != nil || len(files) < 8 {
		t.Fatalf("%q, %v", files, err)
	}
	page, err := os.ReadFile(root + "/docs/mail-hosts.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		cfg, _, problems := loadConfig(file, nil)
		for _, p := range problems {
			t.Errorf("%s: %v", file, p)
		}
		if !config.Failed(problems) && !cfg.Book.Current().HasLane(cfg.hostLane()) {
			t.Errorf("%s: no target is on its host", file)
		}
		if name := filepath.Base(file); !strings.Contains(string(page), "examples/mail-hosts/"+name) {
			t.Errorf("docs/mail-hosts.md does not name %s", name)
		}
	}
}

// fileServer is a server of an example, with the paths and ports of a test.
type fileServer struct {
	name    string // of the example, and of the host in its certificates
	address string
	tls     bool // from the first byte, else SMTP with STARTTLS
	hostExample
	start func(t *testing.T, s *fileServer, reload string) // writes the script reload
}

// script writes a program for validate_command or reload_command.
func script(t *testing.T, path, lines string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+lines+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// The examples for nginx, HAProxy, Tomcat, Exim and OpenSMTPD, with these programs: each serves
// the new certificate after a deployment, and after the next one.
func TestExamplesWithRealServers(t *testing.T) {
	t.Parallel()
	o := &hostFixture{fixture: bareFixture(t)}
	o.write("passphrase", p12Passphrase)
	dir := lab.ServerDir(t)
	in := func(name, file string) string { return filepath.Join(dir, name, file) }
	prepare := func(s *fileServer, port, certs, commandReload string, more ...string) *fileServer {
		s.address = lab.FreeAddress(t)
		s.hostExample = readHostExample(t, s.name)
		if err := os.MkdirAll(in(s.name, "certs"), 0o755); err != nil {
			t.Fatal(err)
		}
		host := regexp.MustCompile(`server_name: (\S+?)[,}]`).FindStringSubmatch(s.target)[1]
		more = append(more, port, lab.Port(t, s.address), certs, in(s.name, "certs"), host, s.name+".example.com")
		s.hostExample = s.with(t, append(more, commandReload, in(s.name, "reload"))...)
		s.target = strings.ReplaceAll(s.target, "host: web1", "host: mx1")
		return s
	}
	nginx := prepare(&fileServer{name: "nginx", tls: true, start: func(t *testing.T, s *fileServer, reload string) {
		conf := lab.Nginx(t, filepath.Dir(reload), s.address, s.server)
		script(t, in("nginx", "validate"), "exec "+lab.Find("nginx")+" -q -t -c "+conf)
		script(t, reload, "exec "+lab.Find("nginx")+" -q -s reload -c "+conf)
	}}, "443", "/etc/nginx/certs", "nginx -s reload", "nginx -t", in("nginx", "validate"))
	haproxy := prepare(&fileServer{name: "haproxy", tls: true, start: func(t *testing.T, s *fileServer, reload string) {
		conf, master := lab.HAProxy(t, filepath.Dir(reload), s.address, s.server)
		script(t, in("haproxy", "validate"), "exec "+lab.Find("haproxy")+" -c -q -f "+conf)
		script(t, reload, fmt.Sprintf("kill -USR2 %d", master))
	}}, "443", "/etc/haproxy/certs", "systemctl reload haproxy", "haproxy -c -q -f /etc/haproxy/haproxy.cfg", in("haproxy", "validate"))
	tomcat := prepare(&fileServer{name: "tomcat", tls: true, start: func(t *testing.T, s *fileServer, reload string) {
		pid := lab.Tomcat(t, filepath.Dir(reload), s.address, s.server)
		script(t, reload, "kill $(cat "+pid+")")
	}}, "8443", "/etc/tomcat10/certs", "systemctl restart tomcat10", "PASSWORD", p12Passphrase, "/etc/certpost/tomcat-password", o.path("passphrase"), "key_group: tomcat", "key_group: root", "max_backoff: 2s", "max_backoff: 250ms")
	exim := prepare(&fileServer{name: "exim", start: func(t *testing.T, s *fileServer, reload string) {
		settings := map[string]string{}
		for line := range strings.Lines(s.server) {
			key, value, _ := strings.Cut(line, " = ")
			settings[key] = strings.TrimSpace(value)
		}
		exim := lab.Exim(t, lab.EximOptions{Main: settings, SMTP: s.address})
		script(t, reload, fmt.Sprintf("kill -HUP %d", exim.Daemon))
	}}, "25", "/etc/exim4/certs", "systemctl reload exim4")
	opensmtpd := prepare(&fileServer{name: "opensmtpd", start: func(t *testing.T, s *fileServer, reload string) {
		conf, pid := lab.OpenSMTPD(t, filepath.Dir(reload), s.address, s.server)
		script(t, in("opensmtpd", "validate"), "exec "+filepath.Join(lab.Root(), ".tools/opensmtpd/usr/sbin/smtpd")+" -n -f "+conf)
		script(t, reload, "kill $(cat "+pid+")")
	}}, "25", "/etc/smtpd/certs", "systemctl restart opensmtpd", "smtpd -n", in("opensmtpd", "validate"),
		"attempts: 10", "enabled: false") // Debian 12 has one that ends each handshake after its certificate
	servers := []*fileServer{nginx, haproxy, tomcat, exim, opensmtpd}
	o.more = func() (targets string) {
		for _, s := range servers {
			targets += s.target
		}
		return targets
	}
	o.furnish("mail_host: mx1\n")
	t.Run("each", func(t *testing.T) { // ends before the program does
		for _, s := range servers {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				o.serveExample(t, s, in(s.name, "certs"), in(s.name, "reload"))
			})
		}
	})
}

// serveExample starts a server on a first certificate, and deploys two others.
func (o *hostFixture) serveExample(t *testing.T, s *fileServer, certs, reload string) {
	inner, shared := *o, *o.fixture // what fails is this test, not the one around it
	inner.fixture, shared.t = &shared, t
	o = &inner
	name := s.name + ".example.com"
	chain, key, err := o.ca.issue(name)
	if err != nil {
		t.Fatal(err)
	}
	id := regexp.MustCompile(`id: (\S+)`).FindStringSubmatch(s.target)[1]
	path := regexp.MustCompile(`cert_path: (\S+)`).FindStringSubmatch(s.target)[1]
	first := append(key, chain...)
	if strings.HasSuffix(path, ".jks") {
		bundle, err := payload.ParseBundle(chain)
		if err != nil {
			t.Fatal(err)
		}
		files, err := payload.Build(payload.Settings{Kind: payload.JKS, Alias: "tomcat"}, bundle, key, []byte(p12Passphrase), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		first = files[0].Data
	}
	if err := os.WriteFile(path, first, 0o600); err != nil {
		t.Fatal(err)
	}
	if s.name == "exim" { // its user reads the file, as after a deployment
		lab.Output(t, "chgrp", "Debian-exim", path)
		lab.Output(t, "chmod", "0640", path)
	}
	s.start(t, s, reload)
	deployments := 2
	if s.name == "tomcat" { // takes seconds to restart
		deployments = 1
	}
	for n := range deployments {
		event := fmt.Sprintf("%s-%d", s.name, n)
		chain, key, err := o.ca.issue(name)
		if err != nil {
			t.Fatal(err)
		}
		o.write(event+".key", string(key))
		ev := &events.Event{ID: event, Certificate: events.Certificate{PEM: string(chain)}, PrivateKey: &events.Reference{File: o.path(event + ".key")}, Targets: []string{id}}
		if _, _, err := o.service.broker.Publish(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
		if r := o.entry(event, id, broker.StateSent).Receipt; r.State != "deployed" {
			t.Fatalf("the receipt is %+v", r)
		}
		block, _ := pem.Decode(chain)
		// A reload leaves processes with the former certificate for a moment, and a restart none.
		o.until(fmt.Sprintf("%s serves certificate %d", s.name, n+1), func() bool { return bytes.Equal(s.served(name), block.Bytes) })
	}
	if stray, err := filepath.Glob(filepath.Join(certs, "*.certpost-new")); err != nil || len(stray) > 0 {
		t.Errorf("left behind: %q, %v", stray, err)
	}
}

// served returns the certificate that the server sends, in DER; nil if it sends none.
func (s *fileServer) served(name string) (leaf []byte) {
	conn, err := net.DialTimeout("tcp", s.address, 20*time.Second)
	if err != nil {
		return nil
	}
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(20*time.Second)) != nil || !s.tls && startTLS(conn) != nil {
		return nil
	}
	_ = tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true, VerifyPeerCertificate: func(sent [][]byte, _ [][]*x509.Certificate) error {
		leaf = sent[0]
		return nil
	}}).Handshake()
	return leaf
}

// startTLS is a client's part of SMTP until TLS begins.
func startTLS(conn net.Conn) error {
	buffer := make([]byte, 4096)
	for _, command := range []string{"", "EHLO client.example.com\r\n", "STARTTLS\r\n"} {
		if _, err := conn.Write([]byte(command)); err != nil {
			return err
		}
		for reply := ""; ; {
			n, err := conn.Read(buffer)
			if err != nil {
				return err
			}
			reply += string(buffer[:n])
			if regexp.MustCompile(`(?m)^\d{3} .*\r\n\z`).MatchString(reply) {
				break
			}
		}
	}
	return nil
}

// A target of type file may be a key store for Java or a PKCS#12 file, for Tomcat and others, or the
// certificates alone, as PKCS#7 or as a trust store. The same certificate again is unchanged, and the
// program is not reloaded, although the bytes of a new store would be other ones.
func TestKeyStoresAsFiles(t *testing.T) {
	t.Parallel()
	o := &hostFixture{fixture: bareFixture(t), files: filepath.Join(t.TempDir(), "certs")}
	if err := os.Mkdir(o.files, 0o755); err != nil {
		t.Fatal(err)
	}
	o.write("passphrase", p12Passphrase)
	o.more = func() string {
		target := func(id, kind, key string) string {
			if key != "" {
				key += ": {file: " + o.path("passphrase") + "}, "
			}
			return fmt.Sprintf("  - {id: %[1]s, type: file, host: mx1, cert_path: %[2]s/%[1]s, payload: %[3]s, %[4]sreload_command: [sh, -c, \"echo %[1]s >> %[5]s/reloads\"], post_deploy_verify: {enabled: false}}\n",
				id, o.files, kind, key, o.dir)
		}
		return target("jks", "jks", "keystore_password") + target("p12", "pkcs12", "pkcs12_passphrase") +
			target("p7b", "pkcs7", "") + target("roots", "pkcs12_truststore", "keystore_password")
	}
	o.furnish("mail_host: mx1\n")
	all := []string{"jks", "p12", "p7b", "roots"}
	chain := o.issueTo("e1", all...)
	keys := map[string]verdict.KeySent{"jks": verdict.KeyEncrypted, "p12": verdict.KeyEncrypted, "p7b": verdict.KeyNone, "roots": verdict.KeyNone}
	for _, target := range all {
		r := o.entry("e1", target, broker.StateSent).Receipt
		if r.State != "deployed" || r.PrivateKey != keys[target] || len(r.Files) != 1 {
			t.Errorf("the receipt of %s is %+v", target, r)
		}
		if _, fetched := r.Secrets["file:"+o.path("e1.example.com.key")]; fetched != (keys[target] == verdict.KeyEncrypted) {
			t.Errorf("the private key was fetched for %s: %v", target, fetched)
		}
	}
	_, leaf, _, err := pkcs12.DecodeChain([]byte(o.content("p12")), p12Passphrase)
	if err != nil || leaf.Subject.CommonName != "e1.example.com" {
		t.Errorf("the PKCS#12 file: %v", err)
	}
	store := keystore.New()
	if err := store.Load(strings.NewReader(o.content("jks")), []byte(p12Passphrase)); err != nil || len(store.Aliases()) != 1 {
		t.Errorf("the key store: %v", err)
	}
	again := &events.Event{ID: "e2", Certificate: events.Certificate{PEM: chain}, PrivateKey: &events.Reference{File: o.path("e1.example.com.key")}, Targets: all}
	if _, _, err := o.service.broker.Publish(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	for _, target := range all {
		if r := o.entry("e2", target, broker.StateSent).Receipt; r.State != "unchanged" {
			t.Errorf("the same certificate for %s: %+v", target, r)
		}
	}
	text, _ := os.ReadFile(o.path("reloads"))
	if reloads := strings.Fields(string(text)); len(reloads) != len(all) || !slices.Equal(slices.Sorted(slices.Values(reloads)), all) {
		t.Errorf("reloads: %q", reloads)
	}
}
