package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// running is the program, in this process.
type running struct {
	t     *testing.T
	lines chan line
	in    *io.PipeWriter
	ended chan error
	stop  context.CancelFunc
}

func start(t *testing.T, o options) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	in, input := io.Pipe()
	output, out := io.Pipe()
	r := &running{t, make(chan line, 1000), input, make(chan error, 1), cancel}
	go func() { r.ended <- run(ctx, o, in, out); out.Close() }()
	go func() {
		for lines := bufio.NewScanner(output); lines.Scan(); {
			var l line
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				t.Errorf("%s: %v", lines.Bytes(), err)
			}
			r.lines <- l
		}
		close(r.lines)
	}()
	t.Cleanup(func() { cancel(); input.Close() })
	if l := r.next(); l.Type != typeHello || l.Protocol != protocol {
		t.Fatalf("%+v", l)
	}
	return r
}

// next returns the next line.
func (r *running) next() line {
	r.t.Helper()
	select {
	case l, ok := <-r.lines:
		if !ok {
			r.t.Fatalf("it has ended with %v", <-r.ended)
		}
		return l
	case <-time.After(time.Minute):
		r.t.Fatal("timed out waiting for a line")
	}
	return line{}
}

// want expects lines of these types, and returns the last one.
func (r *running) want(types ...string) (last line) {
	r.t.Helper()
	for _, want := range types {
		if last = r.next(); last.Type != want {
			r.t.Fatalf("%+v, want %s", last, want)
		}
	}
	return last
}

// Secrets are reported when they exist, change, come back after a lost watch, and go.
//
// Fault: Kubernetes' API server ends its watches, or forbids them. Result: reported; what has changed
// meanwhile is found.
func TestReports(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.put("a", "1", map[string]string{prefix + "targets": "ops", "other.example.com/x": "y"})
	r := start(t, options{kubeconfig: a.kubeconfig(), selector: "certpost.github.io/publish=true", resync: time.Hour})
	l := r.want(typeLeading, typeSecret)
	if l.Namespace != "web" || l.Name != "a" || l.UID != "uid" || string(l.Certificate) != "1" || string(l.PrivateKey) != "key of 1" || len(l.Annotations) != 1 || l.Annotations["targets"] != "ops" {
		t.Errorf("%+v", l)
	}
	r.want(typeComplete)
	a.put("b", "2", nil)
	if l := r.want(typeSecret); l.Name != "b" || string(l.Certificate) != "2" {
		t.Errorf("%+v", l)
	}
	a.put("b", "3", nil)
	if l := r.want(typeSecret); l.Name != "b" || string(l.Certificate) != "3" {
		t.Errorf("%+v", l)
	}
	a.remove("b")
	if l := r.want(typeGone); l.Namespace != "web" || l.Name != "b" {
		t.Errorf("%+v", l)
	}
	// What changes while it does not watch.
	a.forbid("secrets")
	a.endWatches()
	if l := r.want(typeTrouble); !strings.Contains(l.Text, "list and watch secrets in namespace web: ") || !strings.Contains(l.Text, "Forbidden") {
		t.Errorf("%+v", l)
	}
	a.forbid("")
	if l := r.want(typeTrouble); l.Text != "" {
		t.Errorf("%+v", l)
	}
	a.put("c", "4", nil)
	for l := r.next(); l.Type == typeSecret && l.Name == "a" || l.Type == typeTrouble; l = r.next() {
		continue
	}
	a.mu.Lock()
	for _, q := range a.queries {
		if !strings.Contains(q, "fieldSelector=type%3Dkubernetes.io%2Ftls") || !strings.Contains(q, "labelSelector=certpost.github.io%2Fpublish%3Dtrue") {
			t.Errorf("%s asks for other secrets too", q)
		}
	}
	a.mu.Unlock()

	r.in.Close() // certpost has ended
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

// A resync reports every secret again.
func TestResync(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.put("a", "1", nil)
	r := start(t, options{kubeconfig: a.kubeconfig(), namespaces: []string{"web"}, resync: time.Second})
	r.want(typeLeading, typeSecret, typeComplete)
	if l := r.want(typeSecret); l.Name != "a" {
		t.Errorf("%+v", l)
	}
}

// What was published is remembered in a ConfigMap, and forgotten with its secret. Nothing is reported
// before it could be read.
//
// Fault: what was published of Kubernetes' secrets cannot be read or remembered. Result: nothing is
// published before it can be read; what is remembered meanwhile is saved later.
func TestMemory(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.put("a", "1", nil)
	a.put("b", "2", nil)
	a.put("c.d", "3", nil)
	a.forbid("configmaps")
	o := options{kubeconfig: a.kubeconfig(), resync: time.Hour, memory: "m"}
	r := start(t, o)
	if l := r.want(typeLeading, typeTrouble); !strings.Contains(l.Text, "remember in the ConfigMap m what was published: ") {
		t.Errorf("%+v", l)
	}
	a.forbid("")
	if l := r.want(typeTrouble, typeSecret, typeSecret, typeSecret); l.Published != "" {
		t.Errorf("%+v", l)
	}
	r.want(typeComplete)
	tell := func(lines string) {
		t.Helper()
		if _, err := io.WriteString(r.in, lines); err != nil {
			t.Fatal(err)
		}
	}
	until := func(want string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); a.remembered("m") != want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s, want %s", a.remembered("m"), want)
			}
		}
	}
	tell(`{"namespace":"web","name":"a","digest":"1"}` + "\n" + `{"namespace":"web","name":"c.d","digest":"2"}` + "\n")
	until("map[web.a:1 web.c.d:2]")
	// Another process writes, too.
	a.mu.Lock()
	a.version++
	a.maps["m"].ResourceVersion, a.maps["m"].Data["elsewhere.x"] = "1000", "9"
	a.mu.Unlock()
	a.forbid("configmaps")
	tell(`{"namespace":"web","name":"b","digest":"3"}` + "\n")
	r.want(typeTrouble)
	a.forbid("")
	r.want(typeTrouble)
	until("map[elsewhere.x:9 web.a:1 web.b:3 web.c.d:2]")
	a.remove("b")
	r.want(typeGone)
	until("map[elsewhere.x:9 web.a:1 web.c.d:2]")
	// The last notes are saved at the end.
	tell(`{"namespace":"web","name":"a","digest":"4"}` + "\n")
	r.in.Close()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if got := a.remembered("m"); got != "map[elsewhere.x:9 web.a:4 web.c.d:2]" {
		t.Error(got)
	}

	a.remove("c.d")
	r = start(t, o)
	if l := r.want(typeLeading, typeSecret); l.Name != "a" || l.Published != "4" {
		t.Errorf("%+v", l)
	}
	r.want(typeComplete)
	until("map[elsewhere.x:9 web.a:4]")
}

func TestNotes(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	r := start(t, options{kubeconfig: a.kubeconfig(), resync: time.Hour})
	r.want(typeLeading, typeComplete)
	for _, note := range []string{`{"namespace":"web","name":"a","uid":"u","text":"published"}`, "no JSON", `{"namespace":"web","name":"a","uid":"u","refused":true,"text":"` + strings.Repeat("x", 2000) + `"}`} {
		if _, err := io.WriteString(r.in, note+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		a.mu.Lock()
		n := len(a.notes)
		a.mu.Unlock()
		if n == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no events")
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.notes[0]; e.Reason != "Published" || e.Type != "Normal" || e.InvolvedObject.Kind != "Secret" || e.InvolvedObject.Name != "a" || e.InvolvedObject.UID != "u" || e.Message != "published" || !strings.HasPrefix(e.Name, "a.") {
		t.Errorf("%+v", e)
	}
	if e := a.notes[1]; e.Reason != "NotPublished" || e.Type != "Warning" || len(e.Message) != maxMessage {
		t.Errorf("%+v", e)
	}
}

// One of two replicas leads. The other one takes over when it ends.
//
// Fault: the replica that publishes ends. Result: another one reports all secrets.
func TestElection(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.put("a", "1", nil)
	a.forbid("leases")
	o := options{kubeconfig: a.kubeconfig(), lease: "certpost", identity: "one", resync: time.Hour, terms: terms{3 * time.Second, 2 * time.Second, 100 * time.Millisecond}}
	one := start(t, o)
	if l := one.want(typeStandby, typeTrouble); !strings.Contains(l.Text, "leader election with the lease web/certpost: ") {
		t.Errorf("%+v", l)
	}
	a.forbid("")
	one.want(typeTrouble, typeLeading, typeSecret, typeComplete)
	o.identity = "two"
	two := start(t, o)
	if l := two.want(typeStandby, typeStandby); l.Holder != "one" {
		t.Errorf("%+v", l)
	}
	one.stop()
	if err := <-one.ended; err != nil {
		t.Error(err)
	}
	two.want(typeLeading, typeSecret, typeComplete)
}

// The program refuses to write private keys to anything but a pipe, and says why it cannot begin.
func TestMisuse(t *testing.T) {
	t.Parallel()
	if os.Getenv("BE_CERTPOST_KUBERNETES") != "" {
		os.Args = strings.Fields("certpost-kubernetes " + os.Getenv("BE_CERTPOST_KUBERNETES"))
		main()
		return
	}
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for args, want := range map[string]string{
		"-selector x":                  "its output holds private keys and is only for `certpost watch kubernetes`",
		"-unknown":                     "flag provided but not defined: -unknown",
		"-selector x more":             `unexpected argument "more"`,
		"pipe -kubeconfig /absent.yml": "no way to reach Kubernetes",
	} {
		rest, pipe := strings.CutPrefix(args, "pipe ")
		cmd := exec.Command(os.Args[0], "-test.run=^TestMisuse$")
		cmd.Env = append(os.Environ(), "BE_CERTPOST_KUBERNETES="+rest)
		var said strings.Builder
		cmd.Stderr, cmd.Stdout = &said, file
		if pipe {
			cmd.Stdout = &strings.Builder{}
		}
		code := 2
		if pipe {
			code = 1
		}
		if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != code || !strings.Contains(said.String(), "certpost-kubernetes: "+want) {
			t.Errorf("%s: %v, %s", args, err, said.String())
		}
	}
}
