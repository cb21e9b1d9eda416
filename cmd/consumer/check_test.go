package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/certpost/certpost/internal/lab"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	const target = "targets:\n  - {id: a, host: smtp.example.com, from_address: a@example.com, to: [b@example.com]"
	for name, test := range map[string]struct {
		text, want string
		code       int
	}{
		"good": {target + "}\n  - {id: c, host: smtp.example.com, from_address: a@example.com, to: [b@example.com]}\n",
			"the configuration is valid: 2 targets on 1 lane, 0 warnings\n", exitDone},
		"nothing": {"", "the configuration is valid: 0 targets on 0 lanes, 0 warnings\n", exitDone},
		"a warning": {target + ", tls_mode: plaintext}\n",
			"DIR/certpost.yaml:2:97: warning: targets[0].tls_mode: mails to smtp.example.com are not encrypted: anyone on the network path can read and change them\n" +
				"the configuration is valid: 1 target on 1 lane, 1 warning\n", exitDone},
		"errors and a warning": {"nat: {}\n" + target + ", prot: 25, tls_mode: plaintext}\n",
			"DIR/certpost.yaml:1:1: unknown key \"nat\": did you mean nats?\n" +
				"DIR/certpost.yaml:3:87: targets[0]: unknown key \"prot\": did you mean port?\n" +
				"DIR/certpost.yaml:3:107: warning: targets[0].tls_mode: mails to smtp.example.com are not encrypted: anyone on the network path can read and change them\n" +
				"the configuration is not valid: 2 errors, 1 warning\n", exitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "certpost.yaml")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			said := command(t, nil, "check", "-c", file)
			if got := strings.ReplaceAll(said.stdout, dir, "DIR"); said.code != test.code || got != test.want || said.stderr != "" {
				t.Errorf("exit %d and\n%s%swant exit %d and\n%s", said.code, got, said.stderr, test.code, test.want)
			}

			// The same as JSON.
			answer := read[struct {
				Usable   bool `json:"usable"`
				Problems []struct {
					File         string
					Line, Column int
					Path         string
					Severity     string
					Message      string
				} `json:"problems"`
			}](t, command(t, nil, "check", "-c", file, "-o", "json").stdout)
			var lines strings.Builder
			for _, p := range answer.Problems {
				place, warning := "", ""
				if p.Path != "" {
					place = p.Path + ": "
				}
				if p.Severity == "warning" {
					warning = "warning: "
				}
				fmt.Fprintf(&lines, "%s:%d:%d: %s%s%s\n", strings.ReplaceAll(p.File, dir, "DIR"), p.Line, p.Column, warning, place, p.Message)
			}
			if answer.Usable != (test.code == exitDone) || !strings.HasPrefix(test.want, lines.String()) || strings.Count(lines.String(), "\n") != strings.Count(test.want, "\n")-1 {
				t.Errorf("JSON: usable %v, problems\n%s", answer.Usable, &lines)
			}
		})
	}
	if said := command(t, nil, "check", "-c", "absent.yaml"); said.code != exitUsage ||
		said.stdout != "absent.yaml: does not exist\nthe configuration is not valid: 1 error, 0 warnings\n" {
		t.Errorf("without a file: %+v", said)
	}
}

// Every finding of check --live has its line; nothing is mailed, and the rest is checked
// without NATS too.
//
// Fault: or whose link leads out of the roots. Result: check --live finds it.
func TestCheckLive(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	o.write("wrong", "not-the-password")
	targets := o.target("good", "to: [a@demo.example]") +
		o.target("java", "payload: pkcs12", "pkcs12_passphrase: {file: "+o.path("passphrase")+"}", "to: [a@demo.example]") +
		strings.Replace(o.target("wrong", "to: [a@demo.example]"), "/password}", "/wrong}", 1) +
		strings.Replace(o.target("missing", "to: [a@demo.example]"), "/password}", "/absent}", 1) +
		strings.Replace(o.target("untrusted", "to: [a@demo.example]"), "    ca_file:", "    #", 1) +
		"  - {id: down, host: 127.0.0.1, port: " + port(lab.FreeAddress(t)) + ", from_address: a@demo.example, to: [b@demo.example]}\n" +
		"  - {id: down2, host: 127.0.0.1, port: " + port(lab.FreeAddress(t)) + ", from_address: a@demo.example, to: [b@demo.example], fallback: [{host: localhost, port: " +
		port(o.relay.Submission()) + ", ca_file: " + o.path("devrelay-ca.pem") + "}]}\n" +
		"  - {id: ending, host: localhost, port: " + port(endingRelay(t, o.dir)) + ", tls_mode: smtps, ca_file: " + o.path("ca.pem") + ", from_address: a@demo.example, to: [b@demo.example]}\n"
	o.write("odd", "secret-with-a-blank\t\n")
	if err := errors.Join(os.MkdirAll(o.path("certs/web1"), 0o700), os.MkdirAll(o.path("empty/live"), 0o700), os.Symlink(o.path("wrong"), o.path("certs/outside.pem"))); err != nil {
		t.Fatal(err)
	}
	o.write("certs/web1/key.pem", "any")
	dns := lab.DNS(t, lab.DNSBehaviour{})
	dns.Set(t, "demo.example.", "60 MX 10 mx.demo.example.", "60 TXT v=spf1 ip4:192.0.2.0/24 -all")
	servers := "dns: {servers: [\"" + dns.Address + "\"]}\n"
	o.write("live.yaml", servers+fmt.Sprintf("%shttp: {metrics_token: {file: %s}}\nevents: {file_roots: [%q, %q]}\ntargets:\n%s", o.connection(), o.path("odd"), o.path("certs"), o.path("empty"), targets))

	want := []string{
		`ok       nats: connection: connected, all streams exist`,
		`ok       http: metrics_token: readable: file:.*/odd`,
		`warning  http: metrics_token: file:.*/odd: the secret ends with a tab: correct it if that is not meant`,
		`ok       events: file_roots: .*/certs: 1 file can be read`,
		`warning  events: file_roots: .*/certs/outside.pem is a symbolic link to .*/wrong, which is outside events\.file_roots; .*`,
		`warning  events: file_roots: .*/empty: has no file that Certpost can read, so no event can name one`,
		`ok       target/good: secret: file:.*/password can be read`,
		`ok       target/good: relay: localhost:\d+ answers, TLS 1\.3 \S+, AUTH plain accepted`,
		`ok       target/java: secret: file:.*/password can be read`,
		`ok       target/java: secret: file:.*/passphrase can be read`,
		`ok       target/java: relay: localhost:\d+ answers, TLS 1\.3 \S+, AUTH plain accepted`,
		`ok       target/wrong: secret: file:.*/wrong can be read`,
		`error    target/wrong: relay: SMTP_AUTH in auth \(reply 535 5\.7\.8\): localhost:\d+ answered 535 5\.7\.8 to AUTH; check username, password and auth_method, then replay`,
		`error    target/missing: secret: file:.*/absent: .*`,
		`warning  target/missing: relay: not tried, because its credentials cannot be read now`,
		`ok       target/untrusted: secret: file:.*/password can be read`,
		`error    target/untrusted: relay: SMTP_TLS in tls: .*`,
		`error    target/down: relay: SMTP_CONNECT in connect: .*127\.0\.0\.1:\d+.*`,
		`error    target/down2: relay: SMTP_CONNECT in connect: .*127\.0\.0\.1:\d+.*`,
		`ok       target/down2: relay: localhost:\d+ answers, TLS 1\.3 \S+`,
		`ok       target/ending: relay: localhost:\d+ answers, TLS 1\.3 \S+`,
		`warning  target/ending: relay: its certificate expires on \S+ \S+ \S+, in [01] days?`,
		`ok       sender/demo\.example: mx: replies and bounces to demo\.example go to mx\.demo\.example`,
		`ok       sender/demo\.example: spf: demo\.example has an SPF record; .*`,
		`warning  sender/demo\.example: dmarc: demo\.example has no DMARC record, .*`,
		`relay localhost:\d+: 5 targets, fallback of 1 target; no limits`,
		`the live checks failed: [0-9]+ errors, [0-9]+ warnings; the configuration is valid: 8 targets on 4 lanes, 0 warnings`,
	}
	said := command(t, nil, "check", "--live", "-c", o.path("live.yaml"))
	lines := strings.Split(strings.TrimSuffix(said.stdout, "\n"), "\n")
	if said.code != exitFailed || said.stderr != "" || len(lines) != len(want) {
		t.Fatalf("exit %d, %d lines, want exit 1 and %d lines:\n%s%s", said.code, len(lines), len(want), said.stdout, said.stderr)
	}
	for i, pattern := range want {
		if !regexp.MustCompile("^" + pattern + "$").MatchString(lines[i]) {
			t.Errorf("got   %s\nwant  %s", lines[i], pattern)
		}
	}

	said = command(t, nil, "check", "--live", "-c", o.path("live.yaml"), "--target", "good", "--target", "ending", "-o", "json")
	answer := read[struct{ Live []finding }](t, said.stdout)
	if said.code != exitDone || len(answer.Live) != 13 || answer.Live[0] != (finding{"nats", "connection", "ok", "connected, all streams exist"}) || answer.Live[7].Of != "target/good" || answer.Live[9].Status != "warning" {
		t.Errorf("exit %d, %+v", said.code, answer)
	}
	command(t, nil, "check", "--live", "-c", o.path("live.yaml"), "--target", "other").failed(t, exitUsage, "certpost: --target other: unknown target: certpost targets list shows the targets\n")
	if n := o.relay.Count(); n != 0 {
		t.Errorf("checking sent %d mails", n)
	}

	// Without NATS the rest is still checked.
	o.write("alone.yaml", servers+fmt.Sprintf("nats: {url: \"nats://%s\"}\nevents: {file_roots: [%q, %q]}\ntargets:\n%s", lab.FreeAddress(t), o.path("none"), o.path("odd"), o.target("good", "to: [a@demo.example]")))
	said = command(t, nil, "check", "--live", "-c", o.path("alone.yaml"))
	if said.code != exitFailed || !strings.HasPrefix(said.stdout, "error    nats: connection: NATS at nats://127.0.0.1:") || !strings.Contains(said.stdout, "\nerror    events: file_roots: file:"+o.path("none")+": "+o.path("none")+" does not exist\nerror    events: file_roots: file:"+o.path("odd")+": it is not a directory: name the one that has the files\n") || !strings.Contains(said.stdout, "\nok       target/good: relay: ") {
		t.Errorf("without NATS: exit %d and\n%s", said.code, said.stdout)
	}
}

// endingRelay is a relay whose certificate is valid for a day.
func endingRelay(t *testing.T, dir string) string {
	t.Helper()
	certFile, keyFile := lab.NewCA(t, dir).Issue(t, "localhost")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return echo{}, nil }))
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// Variables of OpenTelemetry that cannot be used are warnings, and the configuration is valid all the same.
func TestCheckTellsOfTraces(t *testing.T) {
	t.Parallel()
	o := bareFixture(t)
	o.write("certpost.yaml", "targets:\n  - {id: ops, host: smtp.example.com, auth_method: none, from_address: a@example.com, to: [b@example.com]}\n")
	said := command(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318"}, "-c", o.path("certpost.yaml"), "check")
	const want = "OTEL_EXPORTER_OTLP_ENDPOINT: warning: does not begin with http:// or https://: set an address such as http://collector.example.com:4318; traces are off until then\n"
	if said.code != exitDone || !strings.HasPrefix(said.stdout, want) || !strings.HasSuffix(said.stdout, "1 warning\n") {
		t.Errorf("%d %s%s", said.code, said.stdout, said.stderr)
	}
}
