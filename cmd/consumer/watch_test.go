package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go/jetstream"
	gopkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/lab"
)

// watching is a `certpost watch` process of a publisher.
type watching struct {
	publisherAt
	cmd *exec.Cmd
	log string // path
}

// watch starts the process and waits until it is up.
func (p publisherAt) watch(env []string, args ...string) *watching {
	p.t.Helper()
	w := &watching{publisherAt: p, log: filepath.Join(p.t.TempDir(), "log")}
	log, err := os.Create(w.log)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	w.cmd = exec.Command(lab.Build(p.t), append([]string{"-c", p.path("certpost.yaml"), "watch", p.path("certs")}, args...)...)
	w.cmd.Stderr, w.cmd.Env = log, append(os.Environ(), env...)
	if err := w.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		w.cmd.Process.Kill()
		w.cmd.Wait()
		if p.t.Failed() {
			p.t.Log(w.logged())
		}
	})
	w.until("up", func() bool { return strings.Contains(w.logged(), "certpost watch is up") })
	return w
}

func (w *watching) logged() string {
	text, _ := os.ReadFile(w.log)
	return string(text)
}

func (w *watching) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.t.Fatalf("timed out waiting for: %s\n%s", what, w.logged())
}

// kill ends the process as kill -9 does.
func (w *watching) kill() {
	w.t.Helper()
	if err := w.cmd.Process.Kill(); err != nil {
		w.t.Fatal(err)
	}
	w.cmd.Wait()
}

// renew puts a new pair into the watched directory, the certificate first.
func (p publisherAt) renew(name string) {
	p.t.Helper()
	if err := os.MkdirAll(p.path("certs"), 0o700); err != nil {
		p.t.Fatal(err)
	}
	p.issue(name)
	for _, file := range []string{name + ".pem", name + ".key"} {
		if err := os.Rename(p.path(file), p.path("certs/"+file)); err != nil {
			p.t.Fatal(err)
		}
	}
}

func lengthOf(t *testing.T, s jetstream.Stream) int { t.Helper(); return len(ids(t, s)) }

// A watcher publishes what is there, then each renewal; also what a hook had to leave. SIGTERM ends it.
func TestWatch(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "")
	p.renew("a.example.com")
	p.issue("hook.example.com")
	if s := p.publish(nil, "--cert", p.path("hook.example.com.pem"), "--id", "hook"); s.code != exitKept {
		t.Fatalf("%+v", s)
	}
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	socket := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	w := p.watch([]string{"NOTIFY_SOCKET=" + socket}, "--interval", "1h", "--label", "env=prod")
	ready := make([]byte, 1000)
	if n, err := systemd.Read(ready); err != nil || !strings.HasPrefix(string(ready[:n]), "READY=1\nSTATUS=watching ") {
		t.Errorf("systemd was told %q, %v", ready[:n], err)
	}
	w.until("what was there", func() bool { return lengthOf(t, stream) == 2 })
	if got := ids(t, stream); got[0] != "hook" {
		t.Errorf("%q: what waited comes first", got)
	}

	// The next look is an hour away.
	p.renew("a.example.com")
	began := time.Now()
	w.until("the renewal", func() bool { return lengthOf(t, stream) == 3 })
	t.Logf("a renewal was published after %v", time.Since(began))
	p.renew("b.example.com")
	w.until("another one", func() bool { return lengthOf(t, stream) == 4 })
	m, err := stream.GetMsg(t.Context(), 4)
	host, _ := os.Hostname()
	if want := fmt.Sprintf(`"source":"file://%s%s"`, host, p.path("certs/b.example.com.pem")); err != nil || !strings.Contains(string(m.Data), want) ||
		!strings.Contains(string(m.Data), `"labels":{"env":"prod"}`) || !strings.Contains(string(m.Data), `"private_key":{"file":"`+p.path("certs/b.example.com.key")+`"}`) {
		t.Errorf("%v: %s, want %s", err, m.Data, want)
	}

	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Wait(); err != nil || !strings.Contains(w.logged(), "certpost watch has stopped") {
		t.Errorf("it ended with %v", err)
	}
	// It has a memory.
	if s := command(t, nil, "-c", p.path("certpost.yaml"), "watch", "--once", p.path("certs")); s.code != exitDone || lengthOf(t, stream) != 4 {
		t.Errorf("again: %+v", s)
	}
}

// Fault: a watcher is killed amid a renewal, while NATS is away. Result: the next start publishes
// the certificate, once.
func TestWatcherKilledAmidARenewal(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "")
	p.renew("first.example.com")
	w := p.watch(nil)
	w.until("the first in the spool", func() bool { return p.state().Waiting == 1 })
	p.renew("second.example.com")
	w.kill() // at once: it may, or may not, have seen the second
	if waiting := p.state().Waiting; waiting > 2 {
		t.Errorf("%d wait", waiting)
	}
	w = p.watch(nil)
	w.until("both in the spool", func() bool { return p.state().Waiting == 2 })
	w.kill()

	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	for range 2 {
		w = p.watch(nil)
		w.until("all published", func() bool { return p.state().Waiting == 0 })
		w.kill()
	}
	if got := ids(t, stream); len(got) != 2 || got[0] == got[1] {
		t.Errorf("published: %q", got)
	}
}

// What publish would refuse is refused here, said once, and published when it is right. What was
// there at the first start may be skipped.
func TestWatchOnce(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	p := newPublisher(t, "nats://"+addr, "")
	write := func(names string) {
		p.write("certpost.yaml", fmt.Sprintf("data_dir: %s\nnats: {url: \"nats://%s\"}\nlog: {format: json}\nevents: {file_roots: [%s]}\ntargets:\n  - {id: ops, match: {dns_names: [%q]}, host: 127.0.0.1, port: 25, tls_mode: plaintext, auth_method: none, from_address: a@demo.example, to: [b@demo.example]}\n", p.dir, addr, p.dir, names))
	}
	once := func(args ...string) said {
		return command(t, nil, append([]string{"-c", p.path("certpost.yaml"), "watch", "--once", p.path("certs")}, args...)...)
	}
	write("*.example.org")
	p.renew("old.example.com")
	if s := once("--skip-existing"); s.code != exitDone || !strings.Contains(s.stderr, "it was there at the first start") {
		t.Errorf("%+v", s)
	}
	p.renew("new.example.com")
	p.write("certs/stray.pem", lab.SelfSigned("stray.example.com"))
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(p.path("certs/stray.pem"), old, old); err != nil {
		t.Fatal(err)
	}
	s := once("--skip-existing") // not the first start
	if s.code != exitFailed || strings.Count(s.stderr, "no target matches") != 1 || strings.Contains(s.stderr, "--force") || lastError(t, s.stderr) != "1 certificate was refused, 1 file or directory cannot be used: the lines before say why" || !strings.Contains(s.stderr, "no private key beside it fits the certificate") {
		t.Errorf("%+v", s)
	}
	if err := os.Remove(p.path("certs/stray.pem")); err != nil {
		t.Fatal(err)
	}
	write("*.example.com")
	if s := once(); s.code != exitDone || lengthOf(t, stream) != 1 {
		t.Errorf("%+v", s)
	}
	if s := once(); s.code != exitDone || lengthOf(t, stream) != 1 {
		t.Errorf("again: %+v", s)
	}

	// What cannot be used is named, and makes cron write to its user; what the flags leave out is only named.
	p.write("certs/store.p12", "whatever")
	s = once()
	if s.code != exitDone || !strings.Contains(s.stderr, "store.p12") || !strings.Contains(s.stderr, "read only with --pkcs12-passphrase") {
		t.Errorf("%+v", s)
	}
	if err := os.Symlink("loop.pem", p.path("certs/loop.pem")); err != nil {
		t.Fatal(err)
	}
	s = once()
	if s.code != exitFailed || !strings.Contains(s.stderr, p.path("certs/loop.pem")) || lastError(t, s.stderr) != "1 file or directory cannot be used: the lines before say why" {
		t.Errorf("%+v", s)
	}

	for want, args := range map[string][]string{
		"certpost: --store-key: {name} is unknown: use {lineage}, {key_type}, {cn} and {domain}\n": {p.path("certs"), "--store-key", "vault:secret/{name}#key"},
		"certpost: stat " + p.path("gone") + ": no such file or directory\n":                       {p.path("gone")},
		"certpost: " + p.path("certpost.yaml") + " is not a directory\n":                           {p.path("certpost.yaml")},
	} {
		command(t, nil, append([]string{"-c", p.path("certpost.yaml"), "watch", "--once"}, args...)...).failed(t, exitUsage, want)
	}
	for want, flag := range map[string]string{"watch directories: --interval: want at least 1s": "--interval=1ms", "watch directories: --target is empty": "--target=a,,b", "watch directories: --pkcs12-passphrase: ": "--pkcs12-passphrase=x:y"} {
		if s := once(flag); s.code != exitUsage || !strings.HasPrefix(s.stderr, "certpost: "+want) {
			t.Errorf("%+v, want %s", s, want)
		}
	}
}

// With Vault: keys of PEM and PKCS#12 files are stored, and referenced.
func TestWatchStoresKeys(t *testing.T) {
	t.Parallel()
	vault := lab.Vault(t)
	addr := lab.FreeAddress(t)
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	p := newPublisher(t, "nats://"+addr, "vault: {address: \""+vault.Address+"\", auth: {method: token, token: {value: \""+vault.RootToken+"\"}}}\n")
	p.renew("pem.example.com")
	leaf := lab.Issue(t, nil, lab.NewKey(t, "p256"), "p12.example.com", lab.DNSNames("p12.example.com"), today)
	data, err := gopkcs12.Modern.Encode(leaf.Key, leaf.Certificate, nil, p12Passphrase)
	if err != nil {
		t.Fatal(err)
	}
	p.write("certs/java.p12", string(data))
	p.write("passphrase", p12Passphrase)
	command(t, nil, "-c", p.path("certpost.yaml"), "watch", "--once", p.path("certs"), "--store-key", "vault:secret/certs/{cn}#private_key", "--pkcs12-passphrase", "file:"+p.path("passphrase"))
	if n := lengthOf(t, stream); n != 2 || p.state().Waiting != 0 {
		t.Fatalf("%d events, %+v", n, p.state())
	}
	for n := uint64(1); n <= 2; n++ {
		m, err := stream.GetMsg(t.Context(), n)
		if err != nil || !strings.Contains(string(m.Data), `"key":"private_key","version":1}`) {
			t.Errorf("%v: %s", err, m.Data)
		}
	}
	stored := vault.Call(t, "GET", "secret/data/certs/p12.example.com", nil)["data"].(map[string]any)["data"].(map[string]any)
	if stored["private_key"] != string(lab.KeyPEM(t, leaf.Key)) {
		t.Error("Vault does not have the key of the PKCS#12 file")
	}
}

// The lines for each client call the program as it can be called.
func TestWatchLines(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(root + "/docs/publishing.md")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, row := range regexp.MustCompile("(?m)^\\| [^|]+ \\| `(watch /[^`]+)` \\|$").FindAllStringSubmatch(string(page), -1) {
		lines = append(lines, row[1])
	}
	if len(lines) != 9 {
		t.Errorf("docs/publishing.md has %d lines, want 9", len(lines))
	}
	for _, line := range lines {
		parser, err := newParser(newCLI(), kong.Vars{"version": ""})
		if err != nil {
			t.Fatal(err)
		}
		if k, err := parser.Parse(strings.Fields(line)); err != nil || !strings.HasPrefix(k.Command(), "watch ") {
			t.Errorf("%s: %v", line, err)
		}
	}
}
