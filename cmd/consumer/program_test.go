package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	"github.com/certpost/certpost/internal/lab"
)

// program is the built program as a user runs it: a directory, a configuration
// in it, a process.
type program struct {
	t    *testing.T
	path string
	dir  string
	cmd  *exec.Cmd // nil when it does not run
	log  *os.File  // standard error of all its processes
	nats string    // URL, known when it is up
	http string    // URL, known when it is up
	seen int       // bytes of the log that earlier processes wrote
}

func newProgram(t *testing.T, config string) *program {
	t.Helper()
	p := &program{t: t, path: lab.Build(t), dir: t.TempDir()}
	p.write("certpost.yaml", config)
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	p.log = log
	t.Cleanup(func() {
		if p.cmd != nil {
			p.cmd.Process.Kill()
			p.cmd.Wait()
		}
		log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s", text)
		}
	})
	return p
}

func (p *program) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// start starts a process and waits until it logs that it is up, which does not require
// NATS.
func (p *program) start() {
	p.t.Helper()
	p.seen = len(p.logged(0))
	p.cmd = exec.Command(p.path, "run")
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = p.dir, p.log, p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	up := p.waitForLine("certpost is up")
	p.nats, p.http = up["nats"].(string), up["http"].(string)
}

// ready waits until it works on deliveries.
func (p *program) ready() {
	p.t.Helper()
	p.until("ready", func() bool { status, _ := p.readyz(); return status == http.StatusOK })
}

// readyz returns status 0 if there is no answer.
func (p *program) readyz() (int, string) {
	resp, err := http.Get(p.http + "/readyz")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// terminate sends SIGTERM, as an init system does.
func (p *program) terminate() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
}

// ended waits for the process to end, and requires exit code 0.
func (p *program) ended() {
	p.t.Helper()
	err := p.cmd.Wait()
	p.cmd = nil
	if err != nil {
		p.t.Errorf("certpost run ended with %v", err)
	}
}

// fails runs a command that must fail and print nothing to standard output. It returns
// exit code and standard error.
func (p *program) fails(args ...string) (int, string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || stdout.Len() > 0 {
		p.t.Fatalf("certpost %s: %v, stdout %s", strings.Join(args, " "), err, &stdout)
	}
	return exit.ExitCode(), stderr.String()
}

// certpost runs a command with the program's configuration and its NATS, and returns the
// standard output.
func (p *program) certpost(args ...string) string {
	p.t.Helper()
	cmd := exec.Command(p.path, args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "CERTPOST_NATS_LISTEN="+strings.TrimPrefix(p.nats, "nats://"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("certpost %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// publish sends an event with a new certificate to one target.
func (p *program) publish(id, target string) {
	p.t.Helper()
	p.write(id+".pem", issued(p.t, id+".example.com"))
	p.certpost("publish", "--cert", id+".pem", "--id", id, "--target", target)
}

func (p *program) logged(from int) string {
	p.t.Helper()
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text[from:])
}

// waitForLine waits until the current process has logged a line with the text, and
// returns the line.
func (p *program) waitForLine(text string) map[string]any {
	p.t.Helper()
	var found map[string]any
	p.until("a log line with "+text, func() bool {
		for line := range strings.Lines(p.logged(p.seen)) {
			if strings.Contains(line, text) && strings.HasSuffix(line, "\n") {
				return json.Unmarshal([]byte(line), &found) == nil
			}
		}
		return false
	})
	return found
}

func (p *program) until(what string, ok func() bool) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	p.t.Fatalf("timed out waiting for: %s", what)
}

// tally counts the outcomes of events that have one target each.
type tally struct{ accepted, dead, pending int }

// connection is that of another process with the program's NATS.
func (p *program) connection() broker.Config {
	if _, err := os.Stat(filepath.Join(p.dir, "data", "nats")); err != nil {
		return broker.Config{URL: p.nats} // not embedded
	}
	return broker.Config{DataDir: filepath.Join(p.dir, "data"), Listen: strings.TrimPrefix(p.nats, "nats://")}
}

// tally counts the outcomes in the JetStream of the running program or, if it does not
// run, in its data directory.
func (p *program) tally() tally {
	p.t.Helper()
	ctx := context.Background()
	b, err := broker.Dial(ctx, p.connection(), zerolog.Nop())
	if p.cmd == nil {
		b, err = broker.Open(broker.Config{DataDir: filepath.Join(p.dir, "data"), Listen: "none"}, zerolog.Nop())
	}
	if err != nil {
		p.t.Fatal(err)
	}
	defer b.Close()
	backlog, err := b.Backlog(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	entries, err := b.Deliveries(ctx, "", "")
	if err != nil {
		p.t.Fatal(err)
	}
	sum := tally{dead: int(backlog.Dead), pending: int(backlog.Events + backlog.Deliveries)}
	for _, e := range entries {
		if e.State == broker.StateSent {
			sum.accepted++
		}
	}
	return sum
}

// accountsFor waits until the tally is want, in which accepted, dead and pending must
// add up to events.
func (p *program) accountsFor(events int, want tally) {
	p.t.Helper()
	if want.accepted+want.dead+want.pending != events {
		p.t.Fatalf("%d events cannot be %+v", events, want)
	}
	var got tally
	// What a killed process was working on is redelivered after half a minute.
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if got = p.tally(); got == want {
			return
		}
	}
	p.t.Errorf("the tally of %d events is %+v, want %+v", events, got, want)
}

// smtpTarget is a target at a relay without TLS and without login.
func smtpTarget(id, addr string) string {
	return fmt.Sprintf("  - {id: %s, host: 127.0.0.1, port: %s, tls_mode: plaintext, auth_method: none, from_address: a@demo.example, to: [b@demo.example]}\n", id, port(addr))
}

const anyPorts = "nats: {listen: \"127.0.0.1:0\"}\nhttp: {listen: \"127.0.0.1:0\"}\nlog: {format: json}\n"
