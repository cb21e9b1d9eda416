package browser

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
)

// office is a running Certpost with the relays that it delivers to. The program is the
// built binary, in its own process, with its embedded NATS.
type office struct {
	t       *testing.T
	dir     string
	ca      *authority
	relay   *devrelay.Relay // uses STARTTLS, and refuses some mails by refusals
	java    *devrelay.Relay // uses SMTPS; the target has a wrong password for it
	branch  *cutOff         // receives a mail and does not reply
	lanes   [3]string       // of relay, java and branch
	program *exec.Cmd
	ended   chan error // gets the error of the ended program
	http    string     // the program's address
	nats    string
	broker  *broker.Broker
	stopped bool
}

// refusals are the rules of the office's relay until fixRelay removes them.
var refusals = []devrelay.Rule{
	{Stage: devrelay.StageRcpt, Recipient: "*@retired.example.com", Code: 550, Enhanced: "5.1.1", Text: "no such user here"},
	{Stage: devrelay.StageMail, Sender: "*@old.example.com", Code: 554, Enhanced: "5.7.1", Text: "sender is not allowed to send through this relay"},
}

const (
	relayPassword = "relay-password"
	// letters is the number of letters that seed creates: for refused recipients, a refused
	// sender, a wrong password, and one mail that may have been sent.
	letters = 30
)

// newOffice starts relays and program. More is appended to the configuration.
func newOffice(t *testing.T, more string) *office {
	t.Helper()
	o := &office{t: t, dir: t.TempDir(), ca: newAuthority(t)}
	where := o.places()
	var err error
	users := map[string]string{"certpost": relayPassword}
	o.relay, err = devrelay.Start(devrelay.Config{Hostname: where[0].host, Submission: where[0].address, Users: users, Rules: refusals})
	o.closes(err, func() error { return o.relay.Close() })
	o.java, err = devrelay.Start(devrelay.Config{Hostname: where[1].host, SMTPS: where[1].address, Users: users})
	o.closes(err, func() error { return o.java.Close() })
	o.branch = newCutOff(t, where[2].address)
	o.write("relay-password", relayPassword)
	o.write("java-password", "not the one that the relay has")
	o.write("certpost.yaml", o.config(where, more))
	o.start()
	return o
}

// place is the name and address of a relay.
type place struct{ host, address string }

// named reports whether relays need realistic names, because pictures are taken.
func named() bool { return os.Getenv("UPDATE_DOCS") == "true" }

// places returns free ports of this machine. For pictures, each relay has a name and its
// usual port on its own loopback address; the program gets a hosts file with these names,
// which needs root.
func (o *office) places() [3]place {
	o.t.Helper()
	if !named() {
		return [3]place{{"localhost", "127.0.0.1:0"}, {"localhost", "127.0.0.1:0"}, {"localhost", "127.0.0.1:0"}}
	}
	hosts := "127.0.0.1 localhost\n"
	var all [3]place
	for i, host := range []string{"smtp.example.com:587", "mail.example.net:465", "mx.branch.example.org:25"} {
		name, port, _ := strings.Cut(host, ":")
		ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+i)
		hosts += ip + " " + name + "\n"
		all[i] = place{name, net.JoinHostPort(ip, port)}
	}
	o.write("hosts", hosts)
	return all
}

func (o *office) config(where [3]place, more string) string {
	o.t.Helper()
	ports := [3]string{}
	for i, address := range []string{o.relay.Submission(), o.java.SMTPS(), o.branch.address()} {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			o.t.Fatal(err)
		}
		ports[i] = port
		o.lanes[i] = strings.ReplaceAll(where[i].host, ".", "_") + "-" + port
	}
	relayCA, javaCA := o.caFile("relay", o.relay), o.caFile("java", o.java)
	if !strings.Contains(more, "http:") {
		more += "http: {listen: \"127.0.0.1:0\"}\n"
	}
	text := fmt.Sprintf(`data_dir: data
nats: {listen: "127.0.0.1:0", sync_interval: 10s}
delivery: {on_unknown_outcome: dead_letter, retry: {initial: 1s}}
log: {format: json}
%starget: `, more)
	text = strings.TrimSuffix(text, "target: ") + "targets:\n"
	main := fmt.Sprintf(`    host: %s
    port: %s
    ca_file: %s
    username: certpost
    password: {file: relay-password}
`, where[0].host, ports[0], relayCA)
	for _, target := range []struct{ id, from, to, keys string }{
		{"ops-archive", "certs@example.com", "archive@example.com", main},
		{"web-team", "certs@example.com", "web@retired.example.com", main},
		{"pki-mailbox", "certs@example.com", "pki@retired.example.com", main},
		{"partner-portal", "certs@old.example.com", "portal@partner.example.net", main},
		{"java-keystores", "certs@example.com", "java@example.net", fmt.Sprintf(`    host: %s
    port: %s
    tls_mode: smtps
    ca_file: %s
    username: certpost
    password: {file: java-password}
`, where[1].host, ports[1], javaCA)},
		{"branch-office", "certs@example.com", "office@branch.example.org", fmt.Sprintf(`    host: %s
    port: %s
    tls_mode: plaintext
`, where[2].host, ports[2])},
	} {
		text += fmt.Sprintf("  - id: %s\n%s    from_address: %s\n    to: [%s]\n", target.id, target.keys, target.from, target.to)
	}
	return text
}

// start starts the program and waits until it delivers.
func (o *office) start() {
	o.t.Helper()
	program := lab.Build(o.t)
	o.program = exec.Command(program, "run")
	if named() {
		unshare := lab.Need(o.t, "unshare")
		o.program = exec.Command(unshare, "--mount", "--uts", "sh", "-c", `echo office >/proc/sys/kernel/hostname && mount --bind hosts /etc/hosts && exec "$0" run`, program)
	}
	log, err := os.Create(filepath.Join(o.dir, "log"))
	if err != nil {
		o.t.Fatal(err)
	}
	defer log.Close()
	o.program.Dir, o.program.Stdout, o.program.Stderr = o.dir, log, log
	if err := o.program.Start(); err != nil {
		o.t.Fatal(err)
	}
	o.ended = make(chan error, 1)
	go func() { o.ended <- o.program.Wait() }()
	o.t.Cleanup(func() {
		o.stop()
		if o.t.Failed() {
			text := o.log()
			o.t.Logf("the end of the program's log:\n%s", text[max(0, len(text)-4<<10):])
		}
	})
	o.until("the program to be up", func() bool {
		for line := range strings.Lines(o.log()) {
			var up struct{ Message, NATS, HTTP string }
			if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &up) == nil && up.Message == "certpost is up" {
				o.nats, o.http = up.NATS, up.HTTP
				return true
			}
		}
		if len(o.ended) > 0 {
			o.t.Fatal("certpost run ended before it was up")
		}
		return false
	})
	// The certificate is that of a test; the browser checks it.
	probe := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	o.until("the program to be ready", func() bool {
		answer, err := probe.Get(o.http + "/readyz")
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	ctx, cancel := context.WithTimeout(o.t.Context(), patience)
	defer cancel()
	if o.broker, err = broker.Dial(ctx, broker.Config{URL: o.nats, NKeyFile: lab.Seed(filepath.Join(o.dir, "data"), "admin"), AuditKeys: o.auditKeys}, zerolog.Nop()); err != nil {
		o.t.Fatal(err)
	}
}

// auditKeys reads the keys that the program signs the audit with.
func (o *office) auditKeys(context.Context) (*broker.AuditKeys, error) {
	text, err := os.ReadFile(filepath.Join(o.dir, "data", "audit.key"))
	if err != nil {
		return nil, err
	}
	return broker.ParseAuditKeys(text)
}

// stop sends SIGTERM to the program, as an init system does, and kills it if it does not
// end.
func (o *office) stop() {
	if o.stopped {
		return
	}
	o.stopped = true
	if o.broker != nil {
		o.broker.Close()
	}
	_ = o.program.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-o.ended:
		if err != nil {
			o.t.Errorf("certpost run ended with %v", err)
		}
	case <-time.After(patience):
		_ = o.program.Process.Kill()
		o.t.Errorf("certpost run did not end within %s", patience)
		<-o.ended
	}
}

// fixRelay removes the relay's rules, so that it accepts everything.
func (o *office) fixRelay() {
	o.t.Helper()
	if err := o.relay.SetRules(nil); err != nil {
		o.t.Fatal(err)
	}
}

func (o *office) until(what string, holds func() bool) {
	o.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(25 * time.Millisecond) {
		if holds() {
			return
		}
	}
	o.t.Fatalf("waited %s for %s: timeout", patience, what)
}

func (o *office) log() string {
	text, err := os.ReadFile(filepath.Join(o.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (o *office) write(name, text string) {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// caFile writes a relay's CA into a directory and returns the file's path relative to the
// program's working directory.
func (o *office) caFile(dir string, relay *devrelay.Relay) string {
	o.t.Helper()
	if err := os.Mkdir(filepath.Join(o.dir, dir), 0o755); err != nil {
		o.t.Fatal(err)
	}
	file, err := relay.CAFile(filepath.Join(o.dir, dir))
	if err != nil {
		o.t.Fatal(err)
	}
	return filepath.ToSlash(filepath.Join(dir, filepath.Base(file)))
}

// closes fails the test on an error of opening, and otherwise registers end for cleanup.
func (o *office) closes(err error, end func() error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		if err := end(); err != nil {
			o.t.Error(err)
		}
	})
}
