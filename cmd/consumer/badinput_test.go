package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
)

// plainRelay is the demo relay, used without TLS.
func plainRelay(t *testing.T) *devrelay.Relay {
	t.Helper()
	relay, err := devrelay.Start(devrelay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relay.Close() })
	return relay
}

func TestRunWithBadConfiguration(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"unknown key": {"delivery:\n  give_up_aftr: 72h\n", "certpost.yaml:2:3: delivery: unknown key \"give_up_aftr\": did you mean give_up_after?\n"},
		"all at once": {"nat: {}\nhttp: {listen: here}\n", "certpost.yaml:1:1: unknown key \"nat\": did you mean nats?\n" +
			"certpost.yaml:2:16: http.listen: want an address and a port such as 127.0.0.1:8080, or :8080 for all addresses\n"},
		"no YAML":      {"nats: {\n", "certpost.yaml:1:7: a { is not closed by }\n"},
		"a bad target": {"targets:\n  - {id: a b, host: x, from_address: a@x, to: [b@x]}\n", "certpost.yaml:2:10: targets[0].id: want 1 to 64 characters of A-Z, a-z, 0-9, _ and -\n"},
		"a secret": {"vault: {address: \"https://v.example.com\", auth: {method: token, tokn: hunter2}}\n",
			"certpost.yaml:1:65: vault.auth: unknown key \"tokn\": did you mean token?\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProgram(t, test.text)
			code, stderr := p.fails("run")
			if code != exitUsage || !strings.HasPrefix(stderr, test.want) || strings.Contains(stderr, "hunter2") {
				t.Errorf("exit %d and\n%swant exit 2 and\n%s", code, stderr, test.want)
			}
			if _, err := os.Stat(filepath.Join(p.dir, "data")); err == nil {
				t.Error("the data directory was created")
			}
		})
	}
}

// Without NATS the program waits, logs that, and is not ready. It works once NATS is up,
// and again after NATS was down.
//
// Fault: unavailable at start, restarted later. Result: and is not ready meanwhile.
func TestRunWithoutNATS(t *testing.T) {
	t.Parallel()
	relay, addr := plainRelay(t), lab.FreeAddress(t)
	p := newProgram(t, "nats: {url: \"nats://"+addr+"\"}\nhttp: {listen: \"127.0.0.1:0\"}\nlog: {format: json}\ntargets:\n"+smtpTarget("ops", relay.Plain()))
	p.start()
	if line := p.waitForLine("NATS does not answer; retrying without limit, nothing is delivered until it answers"); line["url"] != "nats://"+addr || line["level"] != "warn" {
		t.Errorf("the log says %v", line)
	}
	if line := p.waitForLine("JetStream is not ready; nothing is delivered until it is"); line["error"] != "not connected to NATS at nats://"+addr {
		t.Errorf("the log says %v", line)
	}
	if status, body := p.readyz(); status != http.StatusServiceUnavailable || body != "not ready: nats: not connected to NATS at nats://"+addr+"\n" {
		t.Errorf("/readyz: %d %q", status, body)
	}
	code, stderr := p.fails("dead-letters", "list")
	if want := "certpost: NATS at nats://" + addr + " does not answer (nats: no servers available for connection): check that `certpost run` or the NATS server is running, and that nats.url is right\n"; code != exitFailed || stderr != want {
		t.Errorf("exit %d and\n%swant exit 1 and\n%s", code, stderr, want)
	}

	store := t.TempDir()
	stop := natsServer(t, addr, store)
	p.ready()
	p.publish("first", "ops")
	p.accountsFor(1, tally{accepted: 1})

	stop()
	p.until("unready", func() bool { status, _ := p.readyz(); return status == http.StatusServiceUnavailable })
	natsServer(t, addr, store)
	p.ready()
	p.publish("second", "ops")
	p.accountsFor(2, tally{accepted: 2})
	if n := relay.Count(); n != 2 {
		t.Errorf("%d mails, want 2", n)
	}
	p.terminate()
	p.ended()
}

// natsServer is a separate NATS server with JetStream.
func natsServer(t *testing.T, addr, store string) (stop func()) {
	t.Helper()
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	number, err := net.LookupPort("tcp", portText)
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{Host: host, Port: number, NoSigs: true, NoLog: true, JetStream: true, StoreDir: store})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
	}
	t.Cleanup(stop)
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("NATS does not accept connections")
	}
	return stop
}

// Fault: a second process on the same store. Result: refused at start; the message names
// the store or port.
func TestRunWithLockedStore(t *testing.T) {
	t.Parallel()
	relay := plainRelay(t)
	config := anyPorts + "targets:\n" + smtpTarget("ops", relay.Plain())
	p := newProgram(t, config)
	p.start()
	pid := p.cmd.Process.Pid
	code, stderr := p.fails("run")
	want := fmt.Sprintf("data_dir ./data is in use by process %d (lock data/certpost.lock): stop it, or choose another data_dir", pid)
	if code != exitFailed || lastError(t, stderr) != want {
		t.Errorf("exit %d and\n%swant exit 1 and\n%s", code, stderr, want)
	}
	// A log for people ends with the error as any command does.
	p.write("certpost.yaml", strings.Replace(config, "format: json", "format: console", 1))
	if code, stderr = p.fails("run"); code != exitFailed || !strings.HasSuffix(stderr, "\ncertpost: "+want+"\n") {
		t.Errorf("exit %d and\n%swant exit 1 and\ncertpost: %s", code, stderr, want)
	}
	p.write("certpost.yaml", config)
	p.ready()
	p.publish("first", "ops")
	p.accountsFor(1, tally{accepted: 1})
	p.terminate()
	p.ended()

	// The lock ends with its process, also with kill -9.
	p.start()
	p.ready()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.cmd.Wait()
	p.start()
	p.ready()
	p.accountsFor(1, tally{accepted: 1})
}

// lastError returns the error in the last line of a log in JSON. Every line of it must be JSON: a
// program may read it.
func lastError(t *testing.T, log string) string {
	t.Helper()
	var line struct{ Level, Error string }
	for text := range strings.Lines(log) {
		line.Level, line.Error = "", ""
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Errorf("%q in the log: %v", text, err)
		}
	}
	if line.Level != "fatal" {
		t.Errorf("the level of the last line is %q, want fatal", line.Level)
	}
	return line.Error
}

// Fault: a port in use. Result: refused at start; the message names the store or port.
func TestRunWithPortTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	relay := plainRelay(t)
	targets := "targets:\n" + smtpTarget("ops", relay.Plain())
	p := newProgram(t, anyPorts+targets)
	p.start()
	p.ready()
	p.publish("first", "ops")
	p.accountsFor(1, tally{accepted: 1})
	p.terminate()
	p.ended()
	addr := taken.Addr().String()
	for config, want := range map[string]string{
		"nats: {listen: \"" + addr + "\"}\nhttp: {listen: \"127.0.0.1:0\"}\n": "nats.listen " + addr +
			": bind: address already in use: another program uses the port; stop it, choose another nats.listen, or set nats.url to that server",
		"nats: {listen: \"127.0.0.1:0\"}\nhttp: {listen: \"" + addr + "\"}\n": "http.listen " + addr +
			": bind: address already in use: stop the program that has the port, or choose another http.listen",
	} {
		p.write("certpost.yaml", config+targets)
		if code, stderr := p.fails("run"); code != exitFailed || lastError(t, stderr) != want {
			t.Errorf("exit %d and\n%swant exit 1 and\n%s", code, stderr, want)
		}
		p.accountsFor(1, tally{accepted: 1}) // and the store is not locked
	}
}

// While Vault is down the deliveries that need it wait; they are sent when it is up.
//
// Fault: unavailable. Result: retried (SECRET_UNAVAILABLE).
func TestRunWithoutVault(t *testing.T) {
	t.Parallel()
	vault, addr := lab.Vault(t), lab.FreeAddress(t)
	relay, err := devrelay.Start(devrelay.Config{Users: map[string]string{relayUser: relayPassword}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relay.Close() })
	vault.Put(t, "secret/smtp-auth/localhost", map[string]any{"password": relayPassword})
	vault.Policy(t, "certpost", `path "secret/data/smtp-auth/*" { capabilities = ["read"] }`)
	role, secret := vault.AppRole(t, "1h", "certpost")
	p := newProgram(t, "")
	ca, err := relay.CAFile(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	p.write("secret_id", secret)
	p.write("certpost.yaml", anyPorts+fmt.Sprintf(`vault: {address: "http://%s", auth: {method: approle, role_id: {value: %q}, secret_id: {file: secret_id}}}
delivery: {retry: {initial: 200ms, max: 1s}}
targets:
  - id: ops
    host: localhost
    port: %s
    ca_file: %s
    username: %s
    password: {vault: {mount: secret, path: "smtp-auth/{host}", key: password}}
    from_address: a@demo.example
    to: [b@demo.example]
`, addr, role, port(relay.Submission()), ca, relayUser))
	p.start()
	p.ready()
	p.publish("first", "ops")
	p.publish("second", "ops")
	p.until("waiting for Vault", func() bool {
		return strings.Count(p.certpost("deliveries", "list", "--state", "waiting"), "SECRET_UNAVAILABLE") == 2
	})
	p.accountsFor(2, tally{pending: 2})
	if status, _ := p.readyz(); status != http.StatusOK {
		t.Errorf("/readyz: %d: another process would have no Vault either", status)
	}

	forward(t, addr, strings.TrimPrefix(vault.Address, "http://"))
	p.until("the mails", func() bool { return relay.Count() == 2 })
	p.accountsFor(2, tally{accepted: 2})
	for _, private := range []string{relayPassword, secret} {
		if strings.Contains(p.logged(0), private) {
			t.Error("the log contains a secret")
		}
	}
	p.terminate()
	p.ended()
}

// forward forwards connections to another address.
func forward(t *testing.T, from, to string) {
	t.Helper()
	l, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				go func() {
					io.Copy(out, in)
					out.Close()
				}()
				io.Copy(in, out)
			}()
		}
	}()
}

// A bad edit of the targets is only logged; a good one takes effect. Publishers are not
// affected in between.
func TestRunWithBadEdit(t *testing.T) {
	t.Parallel()
	first, second := plainRelay(t), plainRelay(t)
	p := newProgram(t, anyPorts+"targets_dir: targets\n")
	if err := os.Mkdir(filepath.Join(p.dir, "targets"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.write("targets/ops.yaml", "targets:\n"+smtpTarget("ops", first.Plain()))
	p.start()
	p.ready()

	p.write("targets/ops.yaml", "targets:\n"+strings.Replace(smtpTarget("ops", second.Plain()), "host:", "hots:", 1))
	if line := p.waitForLine(`unknown key`); line["level"] != "error" || line["problem"] != `targets/ops.yaml:2:15: targets[0]: unknown key "hots": did you mean host?` {
		t.Errorf("the log says %v", line)
	}
	p.waitForLine("the new target definitions cannot be used; the old ones stay in force")
	if status, _ := p.readyz(); status != http.StatusOK {
		t.Errorf("/readyz: %d", status)
	}
	p.publish("first", "ops")
	p.accountsFor(1, tally{accepted: 1})
	if first.Count() != 1 || second.Count() != 0 {
		t.Errorf("mails: %d and %d, want the old definition's", first.Count(), second.Count())
	}

	p.write("targets/ops.yaml", "targets:\n"+smtpTarget("ops", second.Plain()))
	p.waitForLine(`"changed":["ops"]`)
	p.publish("second", "ops")
	p.accountsFor(2, tally{accepted: 2})
	if first.Count() != 1 || second.Count() != 1 {
		t.Errorf("mails: %d and %d, want the new definition's", first.Count(), second.Count())
	}
	p.terminate()
	p.ended()
}

// A command that only connects to the running program ignores targets and relays, but
// not errors elsewhere in the configuration.
func TestConnectionNeedsNoTargets(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"targets:\n  - {id: a b, hots: x}\nrelays: {default: {prot: 1}}\n": "",
		"targets_dir: absent\n":            "",
		"targets: 3\n":                     "",
		"nats: {ulr: x}\ntargets_dir: a\n": `c.yaml:1:8: nats: unknown key "ulr": did you mean url?`,
		"nat: {}\n":                        `c.yaml:1:1: unknown key "nat": did you mean nats?`,
	} {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var got []string
		_, problems := loadConnection(file, nil)
		for _, p := range problems {
			got = append(got, strings.TrimPrefix(p.Error(), filepath.Dir(file)+"/"))
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("%s\nhas the problems %q, want %q", text, got, want)
		}
	}
}
