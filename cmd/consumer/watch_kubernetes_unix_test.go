//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// kubeHelperScript stands in for certpost-kubernetes: it writes what the test writes into a pipe, and
// notes what it is told.
const kubeHelperScript = `#!/bin/sh
echo "$@" > "$KUBE_DIR/args"
env > "$KUBE_DIR/env"
cat "$KUBE_DIR/lines" 2>/dev/null &
echo $$ $! > "$KUBE_DIR/pids"
cat >> "$KUBE_DIR/notes" 2>/dev/null
kill $!
`

// kubeWatching is a watcher in this process, with a helper that the test plays.
type kubeWatching struct {
	publisherAt
	*kubeWatcher
	lines *os.File
	log   *lockedBuffer
	end   context.CancelFunc
	ended chan error
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// watchKubernetes starts the watcher with the flags.
func (p publisherAt) watchKubernetes(args ...string) *kubeWatching {
	p.t.Helper()
	script := p.path("certpost-kubernetes")
	lab.Write(p.t, script, []byte(kubeHelperScript))
	if err := os.Chmod(script, 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := syscall.Mkfifo(p.path("lines"), 0o600); err != nil {
		p.t.Fatal(err)
	}
	var c watchKubernetesCmd
	parser, err := kong.New(&c)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := parser.Parse(append([]string{"--listen", "none"}, args...)); err != nil {
		p.t.Fatal(err)
	}
	k := &kubeWatching{publisherAt: p, log: &lockedBuffer{}, ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(p.t.Context())
	a := &app{ctx: ctx, config: p.path("certpost.yaml"), env: append(os.Environ(), "KUBE_DIR="+p.dir, "CERTPOST_LOG_LEVEL=info"), stdout: io.Discard, stderr: k.log}
	if k.kubeWatcher, err = newKubeWatcher(a, &c, script); err != nil {
		p.t.Fatal(err)
	}
	k.end = cancel
	go func() { k.ended <- k.run(ctx) }()
	// Opened for reading too: the script then reads on, whoever else writes.
	if k.lines, err = os.OpenFile(p.path("lines"), os.O_RDWR, 0); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		cancel()
		k.lines.Close()
		if text := k.log.String(); strings.Contains(text, "PRIVATE KEY") {
			p.t.Error("the log has a private key")
		} else if p.t.Failed() {
			p.t.Log(text)
		}
	})
	k.say(`{"type":"hello","protocol":1}`)
	return k
}

// say writes a line of the helper.
func (k *kubeWatching) say(line string) {
	k.t.Helper()
	if _, err := io.WriteString(k.lines, line+"\n"); err != nil {
		k.t.Fatal(err)
	}
}

// secret reports a secret with the files NAME.pem and NAME.key of the publisher; options are fields
// that replace its own.
func (k *kubeWatching) secret(namespace, name, files string, annotations map[string]string, replace ...func(*kubeLine)) {
	k.t.Helper()
	read := func(path string) []byte {
		text, err := os.ReadFile(k.path(path))
		if err != nil {
			k.t.Fatal(err)
		}
		return text
	}
	l := kubeLine{Type: kubeFound, Namespace: namespace, Name: name, UID: "uid-" + name, Annotations: annotations, Certificate: read(files + ".pem"), PrivateKey: read(files + ".key")}
	for _, f := range replace {
		f(&l)
	}
	text, err := json.Marshal(l)
	if err != nil {
		k.t.Fatal(err)
	}
	k.say(string(text))
}

// until waits for a state of the secrets: waiting, published, refused.
func (k *kubeWatching) until(waiting, published, refused int) {
	k.t.Helper()
	k.awaits(fmt.Sprintf("%d waiting, %d published, %d refused", waiting, published, refused), func() bool {
		n := k.counts()
		return n[kubeWaiting] == waiting && n[kubePublished] == published && n[kubeRefused] == refused
	})
}

func (k *kubeWatching) logs(text string) {
	k.t.Helper()
	k.awaits("log: "+text, func() bool { return strings.Contains(k.log.String(), text) })
}

func (k *kubeWatching) awaits(what string, ok func() bool) {
	k.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	k.t.Fatalf("timed out waiting for: %s\n%v", what, k.counts())
}

// overdue makes what waits older than a minute for a moment: then the watcher is not healthy.
func (k *kubeWatching) overdue() {
	k.t.Helper()
	move := func(by time.Duration) {
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, s := range k.secrets {
			s.since = s.since.Add(by)
		}
	}
	move(-2 * time.Minute)
	defer move(2 * time.Minute)
	if h := k.health(); h.Status != unhealthy || !strings.HasPrefix(h.Reasons[len(h.Reasons)-1], "3 certificates wait, the oldest for 2m") {
		k.t.Errorf("%+v", h)
	}
}

func isExit(err error, code int) bool {
	var f *failure
	return errors.As(err, &f) && f.code == code
}

// getText is the status and the text of an answer.
func getText(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(text)))
}

// temporaryCertificate is one that cert-manager puts into a secret before the real one.
func temporaryCertificate(t *testing.T) []byte {
	t.Helper()
	ca := lab.Issue(t, nil, lab.NewKey(t, "p256"), "cert-manager.local", lab.AsCA)
	return lab.PEM(lab.Issue(t, ca, lab.NewKey(t, "p256"), "a.example.com", lab.DNSNames("a.example.com"), today))
}

func (k *kubeWatching) file(name string) string {
	text, err := os.ReadFile(k.path(name))
	if err != nil {
		k.t.Fatal(err)
	}
	return string(text)
}

// One event for each certificate of a secret, with the key in Vault; resyncs and restarts publish
// nothing again, renewals and other targets do.
//
// Fault: NATS is away when a secret of Kubernetes changes, Vault is sealed, certpost-kubernetes dies, another replica
// takes over. Result: the certificate is published once that is possible, and only once.
func TestWatchKubernetes(t *testing.T) {
	t.Parallel()
	vault := lab.Vault(t)
	vault.Policy(t, "keys", `path "secret/data/k8s/*" { capabilities = ["create", "update", "patch", "read"] } path "secret/data/k8s/web/denied" { capabilities = ["deny"] }`)
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "vault: {address: \""+vault.Address+"\", auth: {method: token, token: {value: \""+vault.Token(t, "1h", "keys")+"\"}}}\n")
	p.issue("www.example.com")
	k := p.watchKubernetes("--namespace", "web", "--store-key", "vault:secret/k8s/{namespace}/{name}#private_key", "--label", "ns={namespace}", "--as", "kubernetes.{namespace}", "--cluster", "c1")
	k.say(`{"type":"leading"}`)
	k.secret("web", "www-tls", "www.example.com", map[string]string{"targets": "ops, archive", "labels": "env=prod"})
	k.say(`{"type":"complete"}`)
	k.logs("certificates cannot be published; trying again")
	k.until(1, 0, 0)
	if h := k.health(); h.Status != healthy || h.Role != kubeLeading {
		t.Errorf("NATS has been away for a moment only: %+v", h)
	}
	vault.Seal(t)
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	k.logs("store the private key: ")
	vault.Unseal(t)
	// One that Vault denies does not hold up the other one.
	k.secret("web", "denied", "www.example.com", map[string]string{"targets": "ops"})
	k.until(1, 1, 0)
	k.say(`{"type":"gone","namespace":"web","name":"denied"}`)
	k.until(0, 1, 0)
	m, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := events.Decode(nil, m.Data)
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject != "certificate.issued.kubernetes.web" || ev.Source != "kubernetes://c1/web/www-tls" || strings.Join(ev.Targets, " ") != "ops archive" || ev.Labels["env"] != "prod" || ev.Labels["ns"] != "web" {
		t.Errorf("%s: %s", m.Subject, m.Data)
	}
	ref := ev.PrivateKey.Vault
	key := vault.Call(t, "GET", "secret/data/"+ref.Path, nil)["data"].(map[string]any)["data"].(map[string]any)["private_key"].(string)
	if _, err := tls.X509KeyPair([]byte(ev.Certificate.PEM), []byte(key)); err != nil || ref.Path != "k8s/web/www-tls" || ref.Version != 1 {
		t.Errorf("%+v: %v", ref, err)
	}
	if leaf, err := ev.Leaf(); err != nil || ev.ID != events.IDFor(sha256.Sum256(leaf.Raw), "kubernetes://c1/web/www-tls") {
		t.Errorf("id %s, %v", ev.ID, err)
	}
	k.awaits("a note", func() bool { return strings.Contains(k.file("notes"), "published as event "+ev.ID) })
	_, mark, _ := strings.Cut(k.file("notes"), `"digest":"`)
	mark, _, _ = strings.Cut(mark, `"`)
	if env := k.file("env"); strings.Contains(env, "CERTPOST_") || !strings.Contains(env, "KUBE_DIR=") {
		t.Errorf("the helper's environment: %s", env)
	}
	if args := k.file("args"); !strings.Contains(args, "-selector certpost.github.io/publish=true -resync 10m0s -identity ") || !strings.Contains(args, " -memory certpost-kubernetes -namespace web -lease certpost-kubernetes") {
		t.Errorf("the helper's flags: %s", args)
	}

	for range 3 { // resyncs
		k.secret("web", "www-tls", "www.example.com", map[string]string{"targets": "ops, archive", "labels": "env=prod"})
	}
	// Another replica leads for a while; this one then reads everything again.
	k.say(`{"type":"standby","holder":"other"}`)
	k.logs("another replica publishes")
	k.until(0, 0, 0)
	k.secret("web", "late", "www.example.com", nil) // of the term that has ended
	k.say(`{"type":"leading"}`)
	k.secret("web", "www-tls", "www.example.com", map[string]string{"targets": "ops, archive", "labels": "env=prod"})
	k.logs("it was published before")
	k.until(0, 1, 0)
	// And once more, when another one remembers that it has published it.
	k.say(`{"type":"standby","holder":"other"}` + "\n" + `{"type":"leading"}`)
	k.until(0, 0, 0)
	k.secret("web", "www-tls", "www.example.com", map[string]string{"targets": "ops, archive", "labels": "env=prod"}, func(l *kubeLine) { l.Published = mark })
	k.until(0, 1, 0)
	if strings.Count(k.log.String(), "it was published before") != 1 || len(mark) != 32 {
		t.Errorf("what is remembered, %s, was looked for", mark)
	}
	if n := lengthOf(t, stream); n != 1 {
		t.Errorf("%d events", n)
	}

	// The helper dies; the next one reports all.
	var shell, cat int
	if _, err := fmt.Sscan(k.file("pids"), &shell, &cat); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(k.path("pids")); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(shell, syscall.SIGKILL)
	syscall.Kill(cat, syscall.SIGKILL)
	k.logs("the connection to Kubernetes has ended")
	k.awaits("another helper", func() bool { _, err := os.Stat(k.path("pids")); return err == nil })
	p.issue("www.example.com")
	k.say(`{"type":"hello","protocol":1}` + "\n" + `{"type":"leading"}`)
	k.secret("web", "www-tls", "www.example.com", map[string]string{"targets": "ops, archive", "labels": "env=prod"})
	k.say(`{"type":"complete"}`)
	k.awaits("the renewal", func() bool { return lengthOf(t, stream) == 2 })
	// Other targets for the same certificate: the same id.
	k.secret("web", "www-tls", "www.example.com", map[string]string{"targets": "ops,other"})
	k.awaits("the other target", func() bool { return lengthOf(t, stream) == 3 })
	if got := ids(t, stream); got[1] != got[2] || got[0] == got[1] {
		t.Errorf("%q", got)
	}
	k.say(`{"type":"gone","namespace":"web","name":"www-tls"}`)
	k.until(0, 0, 0)
	k.end()
	if err := <-k.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// Secrets that cannot be published as they are do not stop the others, and say why: in the log, in
// Kubernetes' events, and in metrics.
//
// Fault: a secret of Kubernetes is garbage, half written, for an unknown target. Result: refused with
// the reason, and published once it is right.
//
// Fault: a secret of Kubernetes is deleted or replaced before its certificate could be published.
// Result: logged and counted.
func TestWatchKubernetesRefuses(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "events: {secret_paths: [\"secret/certs/*\"]}\n"+`targets:
  - {id: ops, type: smtp, host: relay.example.com, from_address: a@example.com, to: [b@example.com], tls_mode: starttls}
`)
	p.issue("a.example.com")
	p.issue("b.example.com")
	k := p.watchKubernetes("--no-key", "--lease", "none")
	k.say(`{"type":"leading"}`)
	cert := func(text string) func(*kubeLine) { return func(l *kubeLine) { l.Certificate = []byte(text) } }
	key := func(text string) func(*kubeLine) { return func(l *kubeLine) { l.PrivateKey = []byte(text) } }
	both := k.file("a.example.com.pem") + k.file("a.example.com.key")
	for name, c := range map[string]struct {
		annotations map[string]string
		change      []func(*kubeLine)
		want        string
	}{
		"empty":       {nil, []func(*kubeLine){cert("")}, "tls.crt is empty"},
		"garbage":     {nil, []func(*kubeLine){cert("garbage")}, "tls.crt: the certificate file cannot be used: "},
		"no-key":      {nil, []func(*kubeLine){key("")}, "tls.key is empty"},
		"other-key":   {nil, []func(*kubeLine){key(k.file("b.example.com.key"))}, "tls.key: the private key does not match the certificate"},
		"garbage-key": {nil, []func(*kubeLine){key("garbage")}, "tls.key: "},
		"disclosed":   {nil, []func(*kubeLine){cert(both)}, "tls.crt: the certificate file holds a private key"},
		"misspelt":    {map[string]string{"target": "ops"}, nil, "the annotation certpost.github.io/target is unknown: use targets, labels and key-ref"},
		"unknown":     {map[string]string{"targets": "nobody"}, nil, `target "nobody" is not defined`},
		"no-targets":  {map[string]string{"targets": " "}, nil, "the annotation targets is empty"},
		"labels":      {map[string]string{"labels": "env"}, nil, `the annotation labels has "env", want name=value`},
		"reference":   {map[string]string{"key-ref": "env:HOME"}, nil, "an event can reference keys only in vault: or file:"},
		"outside":     {map[string]string{"key-ref": "vault:secret/other/x#k"}, nil, "it is outside events.secret_paths"},
		"temporary":   {nil, []func(*kubeLine){cert(string(temporaryCertificate(t)))}, "it is a temporary certificate of cert-manager"},
	} {
		k.secret("web", name, "a.example.com", c.annotations, c.change...)
		k.awaits(name, func() bool { return strings.Contains(k.log.String(), `"secret":"web/`+name+`"`) })
		k.awaits("the note of "+name, func() bool { return strings.Contains(k.file("notes"), `"name":"`+name+`"`) })
		for line := range strings.Lines(k.log.String()) {
			if strings.Contains(line, `"secret":"web/`+name+`"`) && !strings.Contains(strings.ReplaceAll(line, `\"`, `"`), c.want) {
				t.Errorf("%s: %s, want %s", name, line, c.want)
			}
		}
	}
	k.until(0, 0, 13)
	k.secret("web", "unknown", "a.example.com", map[string]string{"targets": "nobody"})
	k.secret("web", "waiting", "a.example.com", map[string]string{"targets": "ops"})
	k.secret("web", "deleted", "a.example.com", map[string]string{"targets": "ops"})
	k.secret("web", "replaced", "a.example.com", map[string]string{"targets": "ops"})
	k.until(3, 0, 13)
	if h := k.health(); h.oldest.IsZero() || time.Since(h.oldest) > time.Hour {
		t.Errorf("waiting since %v", h.oldest)
	}
	k.overdue()
	k.logs("certificates cannot be published; trying again")
	k.say(`{"type":"gone","namespace":"web","name":"deleted"}`)
	k.secret("web", "replaced", "b.example.com", map[string]string{"targets": "ops"})
	k.logs("the secret was deleted before its certificate could be published")
	k.logs("the secret was replaced before its certificate could be published")

	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	k.until(0, 2, 13)
	// The other half is written, and a reference to a key that is elsewhere already.
	k.secret("web", "other-key", "a.example.com", map[string]string{"targets": "ops"})
	k.secret("web", "outside", "a.example.com", map[string]string{"targets": "ops", "key-ref": "vault:secret/certs/x#k"})
	k.until(0, 4, 11)
	k.say(`{"type":"complete"}`)
	if n := lengthOf(t, stream); n != 4 {
		t.Errorf("%d events", n)
	}
	last, err := stream.GetMsg(t.Context(), 4)
	if err != nil || !strings.Contains(string(last.Data), `"private_key":{"vault":{"key":"k","mount":"secret","path":"certs/x"}}`) && !strings.Contains(string(last.Data), `"path":"certs/x"`) {
		t.Errorf("%v: %s", err, last.Data)
	}

	k.say(`{"type":"trouble","text":"list and watch secrets in namespace web: secrets is forbidden"}`)
	k.logs("Kubernetes cannot be watched; trying again")
	server := httptest.NewServer(k.handler())
	defer server.Close()
	for path, want := range map[string]string{
		"/livez": "200 alive", "/readyz": "503 not ready", "/healthz": `503 {"status":"unhealthy","role":"leading","secrets":{"published":4,"refused":11},"reasons":["Kubernetes cannot be watched: the log says why"]}`,
	} {
		if got := getText(t, server.URL+path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	metrics := getText(t, server.URL+"/metrics")
	for _, want := range []string{`certpost_watch_secrets{state="refused"} 11`, `certpost_watch_secrets{state="published"} 4`, "certpost_watch_published_total 4", `certpost_watch_unpublished_total{reason="deleted"} 1`,
		`certpost_watch_unpublished_total{reason="replaced"} 1`, "certpost_watch_leader 1", "certpost_watch_ready 0", "certpost_watch_oldest_timestamp_seconds 0"} {
		if !strings.Contains(metrics, "\n"+want+"\n") {
			t.Errorf("no metric %s", want)
		}
	}
	k.say(`{"type":"trouble"}`)
	k.awaits("ready", func() bool { return getText(t, server.URL+"/readyz") == "200 ready" })
}

// With --once the exit code says what became of the secrets. A helper of another version is refused.
func TestWatchKubernetesOnce(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, "nats://"+lab.FreeAddress(t), "")
	p.issue("a.example.com")
	k := p.watchKubernetes("--no-key", "--once")
	k.say(`{"type":"leading"}`)
	k.secret("web", "a", "a.example.com", map[string]string{"targets": "ops"})
	k.say(`{"type":"complete"}`)
	if err := <-k.ended; !isExit(err, exitKept) || !strings.Contains(k.log.String(), "1 certificate is not published yet; the next run tries again") || strings.Contains(k.file("args"), "-lease") {
		t.Errorf("%v, %s", err, k.file("args"))
	}

	p = newPublisher(t, "nats://"+lab.FreeAddress(t), "")
	k = p.watchKubernetes("--no-key", "--once")
	k.say(`{"type":"leading"}` + "\n" + `{"type":"secret","namespace":"web","name":"a"}` + "\n" + `{"type":"complete"}`)
	if err := <-k.ended; !isExit(err, exitFailed) || err.Error() != "1 certificate was refused" {
		t.Errorf("%v", err)
	}

	p = newPublisher(t, "nats://"+lab.FreeAddress(t), "")
	lab.Write(t, filepath.Join(p.dir, "other"), []byte("#!/bin/sh\necho '{\"type\":\"hello\",\"protocol\":2}'\ncat\n"))
	if err := os.Chmod(p.path("other"), 0o700); err != nil {
		t.Fatal(err)
	}
	w, err := newKubeWatcher(&app{ctx: t.Context(), config: p.path("certpost.yaml"), stderr: io.Discard}, &watchKubernetesCmd{Listen: "none", Interval: time.Minute}, p.path("other"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.run(t.Context()); !isExit(err, exitUsage) || !strings.Contains(err.Error(), "is of another version than this certpost: install both from one release") {
		t.Errorf("%v", err)
	}
}

func TestWatchKubernetesUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"", "missing flags: --store-key=REF or --no-key"},
		{"--store-key vault:secret/x#k", "--store-key: want {name} in it"},
		{"--store-key vault:secret/{name}#k -A", "--store-key: want {namespace} in it"},
		{"--store-key vault:secret/{name}#k --namespace a --namespace b", "--store-key: want {namespace} in it"},
		{"--store-key file:/{name}", "keys can be stored only in Vault"},
		{"--store-key vault:{name}", "--store-key: "},
		{"--no-key --store-key vault:secret/{name}#k", "can't be used together"},
		{"--no-key --namespace a -A", "can't be used together"},
		{"--no-key --as a..b", "--as a..b: "},
		{"--no-key --interval 1ms", "--interval: want at least 1s"},
		{"--no-key --listen 8081", "--listen 8081: want HOST:PORT, or none"},
		{"--no-key --selector=", "--selector"},
		{"--no-key --target a,,b", "--target is empty"},
		{"--no-key", "needs the program certpost-kubernetes, beside certpost or on PATH"},
	} {
		s := command(t, nil, append([]string{"watch", "kubernetes"}, strings.Fields(c.args)...)...)
		if s.code != exitUsage || !strings.Contains(s.stderr, c.want) {
			t.Errorf("%s: %+v, want %s", c.args, s, c.want)
		}
	}
}
