package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// asIfAdded renames what waits in a spool as if it had been added earlier.
func asIfAdded(t *testing.T, dir string, earlier time.Duration) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "[0-9]*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%q, %v", files, err)
	}
	for n, file := range files {
		if err := os.Rename(file, filepath.Join(dir, fmt.Sprintf("%016d.json", time.Now().Add(-earlier).UnixMicro()+int64(n)))); err != nil {
			t.Fatal(err)
		}
	}
}

// Fault: events wait in the spool for longer than a minute, or were set aside. Result: /healthz is
// degraded and says so; the metrics have them at once.
func TestSpoolInHealthAndMetrics(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	dir := o.path("data/spool")
	spoolCheck := func() check {
		_, body := o.ask("GET", "/healthz")
		for _, c := range read[healthAnswer](t, body).Checks {
			if c.Name == "spool" {
				return c
			}
		}
		t.Fatal(body)
		return check{}
	}
	// A publisher with the same data directory, and a NATS server that is away.
	p := publisherAt{t, o.dir}
	p.write("away.yaml", "data_dir: "+o.path("data")+"\nnats: {url: \"nats://"+lab.FreeAddress(t)+"\"}\n")
	cert, _, _ := o.issue("www.example.com")
	if s := command(t, nil, "-c", o.path("away.yaml"), "publish", "--cert", cert); s.code != exitKept {
		t.Fatalf("%+v", s)
	}
	if _, body := o.ask("GET", "/metrics"); !strings.Contains(body, `certpost_spool_events{state="waiting"} 1`+"\n") {
		t.Errorf("/metrics: %s", body)
	}
	if c := spoolCheck(); c.Status != healthy {
		t.Errorf("at once: %+v", c)
	}
	asIfAdded(t, dir, 3*time.Minute)
	o.until("degraded", func() bool { return spoolCheck().Status == degraded })
	if c := spoolCheck(); !strings.HasPrefix(c.Message, "1 event to publish, the oldest for 3m") || !strings.Contains(c.Message, "certpost publish --flush") {
		t.Errorf("%+v", c)
	}
	if resp, body := o.ask("GET", "/readyz"); resp.StatusCode != http.StatusOK {
		t.Errorf("/readyz: %d %s", resp.StatusCode, body)
	}
	waiting, err := filepath.Glob(filepath.Join(dir, "[0-9]*.json"))
	if err != nil || len(waiting) != 1 {
		t.Fatalf("%q, %v", waiting, err)
	}
	if err := os.Rename(waiting[0], strings.TrimSuffix(waiting[0], ".json")+".refused.json"); err != nil {
		t.Fatal(err)
	}
	o.until("set aside", func() bool { return strings.HasPrefix(spoolCheck().Message, "1 event was set aside") })
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	o.until("healthy", func() bool { return spoolCheck().Status == healthy })
}

// A watcher has its own probes and metrics, which name nothing.
func TestWatchProbes(t *testing.T) {
	t.Parallel()
	addr, probes := lab.FreeAddress(t), lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "")
	p.renew("secret-name.example.com")
	p.write("certs/lonely.example.com.pem", lab.SelfSigned("lonely.example.com"))
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(p.path("certs/lonely.example.com.pem"), past, past); err != nil {
		t.Fatal(err)
	}
	w := p.watch(nil, "--listen", probes)
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + probes + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || strings.Contains(string(body), "example.com") || strings.Contains(string(body), p.dir) {
			t.Errorf("%s: %v, %s", path, err, body)
		}
		return resp.StatusCode, string(body)
	}
	if status, body := get("/livez"); status != http.StatusOK || body != "alive\n" {
		t.Errorf("/livez: %d %s", status, body)
	}
	w.until("the event in the spool, and the certificate without a key", func() bool {
		_, body := get("/metrics")
		return strings.Contains(body, `certpost_spool_events{state="waiting"} 1`+"\n") && strings.Contains(body, "certpost_watch_unusable 1\n")
	})
	status, body := get("/healthz")
	if answer := read[healthAnswer](t, body); status != http.StatusOK || answer.Status != degraded || len(answer.Checks) != 2 || answer.Checks[0].Message != "1 certificate or directory is not published: the log says why" || answer.Checks[1].Status != healthy {
		t.Errorf("/healthz: %d %s", status, body)
	}
	asIfAdded(t, p.path("spool"), 5*time.Minute)
	if _, body := get("/healthz"); !strings.Contains(body, "1 event to publish, the oldest for 5m") {
		t.Errorf("/healthz: %s", body)
	}
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	_, body = get("/metrics")
	for _, help := range regexp.MustCompile(`(?m)^# HELP (certpost_\w+) (.*)$`).FindAllStringSubmatch(body, -1) {
		if row := regexp.MustCompile("(?m)^\\| `" + help[1] + "` .*" + regexp.QuoteMeta(help[2]) + " \\|$"); !row.Match(page) {
			t.Errorf("docs/metrics.md does not have %s: %s", help[1], help[2])
		}
	}
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	w.until("published", func() bool {
		_, body := get("/metrics")
		return strings.Contains(body, "certpost_watch_published_total 1\n") && strings.Contains(body, "certpost_spool_oldest_timestamp_seconds 0\n")
	})
	if n := lengthOf(t, stream); n != 1 {
		t.Errorf("%d events", n)
	}
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}

	// A watcher that looks no more is not healthy.
	lost := &watchProbes{interval: time.Minute, spool: (&Config{DataDir: p.dir}).spool(), looked: time.Now().Add(-3 * time.Minute)}
	if c := lost.checks(time.Now()); c[0].Status != unhealthy || c[0].Message != "the directories were last looked at 3m0s ago" {
		t.Errorf("%+v", c)
	}
}
