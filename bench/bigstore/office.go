package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/broker"
)

// office is a `certpost run` process with its own store, and an HTTP client for it.
type office struct {
	name               string // of the store
	program, dir, sync string
	targets            string // the file that defines the targets
	nats, http         string // addresses
	client             http.Client
	process            *exec.Cmd
	began              time.Time     // when the process was started
	ended              chan struct{} // closed when the process has ended
	failure            error         // its result, valid once ended is closed
}

func newOffice(name string, o options, dir, targets string) (*office, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	f := &office{name: name, program: o.program, dir: filepath.Join(dir, name), sync: o.sync, targets: targets, client: http.Client{Timeout: time.Minute, Jar: jar}}
	f.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return f, os.Mkdir(f.dir, 0o700)
}

// start starts the program with sync as its nats.sync_interval.
func (f *office) start(sync string) (err error) {
	if f.nats, err = road.FreeAddress(); err != nil {
		return err
	}
	if f.http, err = road.FreeAddress(); err != nil {
		return err
	}
	text := fmt.Sprintf("data_dir: %q\nnats: {listen: %q, sync_interval: %q, user: bench, password: {value: bench}}\nhttp: {listen: %q}\nlog: {format: json}\ntargets_file: %q\n",
		filepath.Join(f.dir, "data"), f.nats, sync, f.http, f.targets)
	config := filepath.Join(f.dir, "certpost.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(f.dir, "log.json"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	f.process = exec.Command(f.program, "run", "-c", config)
	f.process.Stdout, f.process.Stderr = log, log
	f.began = time.Now()
	if err := f.process.Start(); err != nil {
		f.process = nil
		return err
	}
	f.ended = make(chan struct{})
	go func() {
		f.failure = f.process.Wait()
		close(f.ended)
	}()
	return nil
}

// stop ends the program with SIGTERM and waits for it. If the program was not started,
// stop does nothing.
func (f *office) stop() error {
	if f.process == nil {
		return nil
	}
	if err := f.process.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-f.ended
	return f.failure
}

// dial connects to the program's NATS; it retries for a minute.
func (f *office) dial(ctx context.Context) (b *broker.Broker, err error) {
	return b, f.poll(ctx, time.Minute, "NATS", func() error {
		b, err = broker.Dial(ctx, broker.Config{DataDir: filepath.Join(f.dir, "data"), Listen: f.nats}, zerolog.Nop())
		return err
	})
}

// poll calls done until it returns no error, the program ends or patience has passed.
func (f *office) poll(ctx context.Context, patience time.Duration, what string, done func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := done()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s of the %s store: %w (%w)", what, f.name, ctx.Err(), err)
		case <-f.ended:
			return fmt.Errorf("waiting for %s of the %s store: the program has ended: %w", what, f.name, f.failure)
		}
	}
}

// page is the response to one request.
type page struct {
	took   time.Duration // until the last byte
	body   []byte        // as received, possibly compressed
	header http.Header
	status int
}

func (f *office) do(ctx context.Context, method, path, body, accept, encoding string) (p page, err error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+f.http+path, strings.NewReader(body))
	if err != nil {
		return p, err
	}
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Encoding", encoding)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	began := time.Now()
	answer, err := f.client.Do(r)
	if err != nil {
		return p, err
	}
	defer answer.Body.Close()
	p = page{header: answer.Header, status: answer.StatusCode}
	p.body, err = io.ReadAll(answer.Body)
	p.took = time.Since(began)
	return p, err
}

// get requests a page as a browser does.
func (f *office) get(ctx context.Context, path string) (page, error) {
	return f.wants(http.StatusOK, path)(f.do(ctx, http.MethodGet, path, "", "text/html", "gzip"))
}

// ask requests a page as JSON and decodes it into object.
func (f *office) ask(ctx context.Context, path string, object any) error {
	p, err := f.wants(http.StatusOK, path)(f.do(ctx, http.MethodGet, path, "", "application/json", "identity"))
	if err != nil {
		return err
	}
	return json.Unmarshal(p.body, object)
}

func (f *office) wants(status int, path string) func(page, error) (page, error) {
	return func(p page, err error) (page, error) {
		if err == nil && p.status != status {
			err = fmt.Errorf("%s of the %s store answers %d: %.300s", path, f.name, p.status, p.body)
		}
		return p, err
	}
}

// memory returns the current and the maximum resident memory of the process in MiB;
// zeros without /proc.
func (f *office) memory() (now, most float64) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(f.process.Process.Pid), "status"))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		switch {
		case err != nil:
		case key == "VmRSS":
			now = kib / 1024
		case key == "VmHWM":
			most = kib / 1024
		}
	}
	return now, most
}
