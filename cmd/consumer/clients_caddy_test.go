package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// Caddy gets a certificate from a real CA while NATS is away, and renews it when NATS is there:
// the module of examples/caddy publishes both, in order, as the watcher would.
//
// Fault: NATS is away while Caddy's module publishes. Result: the event is kept in the spool; it is
// published once, in order, by the module's next publication; a watcher has nothing to add.
func TestCaddyWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	acme := lab.Pebble(t)
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "")
	module := fmt.Sprintf("{\n program %q\n config %q\n flags --label \"team=web {cn} 1\"\n}", lab.Build(t), p.path("certpost.yaml"))
	stop := lab.Caddy(t, acme, p.path("caddy"), "caddy.lab.test", module, false)
	lab.Within(t, time.Minute, "the event in the spool", func() bool { return p.state().Waiting == 1 })
	stop()
	if log, err := os.ReadFile(p.path("caddy/caddy.log")); err != nil || !strings.Contains(string(log), "it is kept in "+p.path("spool")) {
		t.Errorf("Caddy's log does not say what became of the event: %v\n%s", err, log)
	}

	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	stop = lab.Caddy(t, acme, p.path("caddy"), "caddy.lab.test", module, true)
	lab.Within(t, time.Minute, "the renewal in the stream", func() bool { return len(ids(t, stream)) == 2 })
	stop()
	if state := p.state(); state.Waiting != 0 || len(state.Refused) != 0 {
		t.Errorf("%+v", state)
	}
	p.write("other.yaml", "data_dir: "+p.path("other")+"\nnats: {url: \"nats://"+addr+"\"}\n")
	for config, want := range map[string]string{"certpost.yaml": "", "other.yaml": "a new certificate"} { // without that memory, the same event
		s := command(t, nil, "-c", p.path(config), "watch", "--once", "--label", "team=web {cn} 1", p.path("caddy/storage"))
		if s.code != exitDone || !strings.Contains(s.stderr, want) || want == "" && s.stderr != "" {
			t.Errorf("%s: %+v", config, s)
		}
	}

	host, _ := os.Hostname()
	got := ids(t, stream)
	if len(got) != 2 || got[0] == got[1] {
		t.Fatalf("published %q, want two", got)
	}
	for n := range got {
		m, err := stream.GetMsg(t.Context(), uint64(n+1))
		if err != nil {
			t.Fatal(err)
		}
		var ev struct {
			Source     string
			Labels     map[string]string
			PrivateKey struct{ File string } `json:"private_key"`
		}
		if err := json.Unmarshal(m.Data, &ev); err != nil || ev.Labels["team"] != "web {cn} 1" || !strings.HasPrefix(ev.PrivateKey.File, p.path("caddy/storage/")) {
			t.Errorf("%v: %s", err, m.Data)
		}
		if !strings.HasPrefix(ev.Source, "caddy://"+host+"/") || !strings.HasSuffix(ev.Source, "/caddy.lab.test") {
			t.Errorf("source %s", ev.Source)
		}
	}
}

// A wrong block of the module is refused before Caddy runs.
func TestCaddyModuleIsChecked(t *testing.T) {
	t.Parallel()
	caddy := lab.Need(t, "caddy-certpost")
	dir := t.TempDir()
	for module, want := range map[string]string{
		"":                         `exec: \"certpost\": executable file not found in $PATH`,
		"{\n program /bin/true\n}": "Valid configuration",
		"{\n program /bin/true\n flags --label a=b --no-key\n config /etc/x.yaml\n}": "Valid configuration",
		"{\n program /nowhere/certpost\n}":                                           "/nowhere/certpost: no such file or directory",
		"{\n programme /bin/true\n}":                                                 "unknown option programme: want program, config or flags, at Caddyfile:5",
		"{\n program /bin/true x\n}":                                                 "after '/bin/true', at Caddyfile:5",
		"{\n flags\n}":                                                               "after 'flags', at Caddyfile:5",
		"extra":                                                                      "after 'extra', at Caddyfile:4",
		"{\n program /bin/true\n}\n on cert_obtained certpost {\n program /bin/true\n config\n}": "after 'config', at Caddyfile:9",
	} {
		lab.Write(t, filepath.Join(dir, "Caddyfile"), []byte("{\n storage file_system "+dir+"\n events {\n on cert_obtained certpost "+module+"\n }\n}\n"))
		s := ran(t, dir, []string{"PATH=/nowhere", "HOME=" + dir, "XDG_DATA_HOME=" + dir}, caddy, "validate", "--config", "Caddyfile", "--adapter", "caddyfile")
		if !strings.Contains(s.stdout+s.stderr, want) || s.code == exitDone != (want == "Valid configuration") {
			t.Errorf("%q: %d %s %s", module, s.code, s.stdout, s.stderr)
		}
	}
}
