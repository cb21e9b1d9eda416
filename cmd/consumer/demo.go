package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

type demoCmd struct {
	Once    bool          `help:"Deliver the samples, print a table, and end: exit 0 if exactly what was to be expected happened."`
	NATS    string        `name:"nats-listen" help:"Address of the embedded NATS (default: 127.0.0.1:4222, or a free port if that is taken)." placeholder:"ADDR"`
	Inbox   string        `help:"Address of the inbox page (default: 127.0.0.1:8025, or a free port if that is taken)." placeholder:"ADDR"`
	Timeout time.Duration `help:"With --once: the longest to wait." default:"60s"`
	Verbose bool          `help:"Print the log, too." short:"v"`
}

// Run shows the main job on embedded defaults: NATS, CA and relay are this process.
func (c *demoCmd) Run(a *app) error {
	dir, err := os.MkdirTemp("", "certpost-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{dir: dir, out: a}
	if err := d.open(a.ctx, c); err != nil {
		return err
	}
	defer d.close()
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	done := make(chan error, 2)
	go func() { done <- d.service.run(ctx) }()
	go func() { done <- d.inbox.serve(ctx) }()
	samples, err := d.publish(ctx)
	if err != nil {
		return err
	}
	if c.Once {
		err = d.once(ctx, samples, c.Timeout)
		cancel()
		return errors.Join(err, <-done, <-done)
	}
	d.explain()
	return errors.Join(<-done, <-done)
}

// demo is the running demonstration.
type demo struct {
	dir       string
	out       *app
	relay     *devrelay.Relay // takes the mails
	refusing  *devrelay.Relay // answers 550
	inbox     *httpServer
	authority *demoCA
	service   *service
	sampleCrt string // files for the commands that are shown
	sampleKey string
	cfgFile   string
}

func (d *demo) open(ctx context.Context, c *demoCmd) (err error) {
	log := zerolog.Nop()
	if c.Verbose {
		log = d.out.logger(LogConfig{Level: "info", Format: "auto"})
	}
	const password = "demo-password"
	if d.relay, err = devrelay.Start(devrelay.Config{Users: map[string]string{"certpost": password}}); err != nil {
		return err
	}
	if d.refusing, err = devrelay.Start(devrelay.Config{Rules: []devrelay.Rule{
		{Stage: devrelay.StageRcpt, Code: 550, Enhanced: "5.1.1", Text: "no such user here"},
	}}); err != nil {
		return err
	}
	if d.inbox, err = listenHTTP(choose(c.Inbox, "127.0.0.1:8025"), d.relay.Handler()); err != nil {
		return err
	}
	if d.authority, err = newDemoCA(); err != nil {
		return err
	}
	if err := d.write(password, choose(c.NATS, "127.0.0.1:4222")); err != nil {
		return err
	}
	cfg, _, problems := loadConfig(d.cfgFile, nil)
	if config.Failed(problems) {
		return fmt.Errorf("the demo's own configuration: %w", problems[0])
	}
	d.service, err = newService(ctx, cfg, log)
	return err
}

func (d *demo) close() {
	if d.service != nil {
		d.service.close()
	}
	if d.inbox != nil {
		d.inbox.close()
	}
	for _, r := range []*devrelay.Relay{d.relay, d.refusing} {
		if r != nil {
			_ = r.Close()
		}
	}
}

// choose is the address that was asked for, else the usual one, else a free port.
func choose(asked, usual string) string {
	if asked != "" {
		return asked
	}
	l, err := net.Listen("tcp", usual)
	if err != nil {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return usual // and hear from its owner what is wrong
	}
	defer l.Close()
	return l.Addr().String()
}

// write puts everything into files that a user would have: the CA of the relay,
// passphrase and keys as files, and the configuration, which is worth reading.
func (d *demo) write(password, natsListen string) error {
	ca, err := d.relay.CAFile(d.dir)
	if err != nil {
		return err
	}
	refusingDir := filepath.Join(d.dir, "refusing")
	keys := filepath.Join(d.dir, "keys")
	if err := errors.Join(os.Mkdir(refusingDir, 0o700), os.Mkdir(keys, 0o700)); err != nil {
		return err
	}
	refusingCA, err := d.refusing.CAFile(refusingDir)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"password": password, "passphrase": "demo-passphrase"} {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text+"\n"), 0o600); err != nil {
			return err
		}
	}
	d.sampleCrt, d.sampleKey = filepath.Join(d.dir, "www.example.com.pem"), filepath.Join(keys, "www.example.com.key")
	crt, key, err := d.authority.issue("www.example.com")
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(d.sampleCrt, crt, 0o600), os.WriteFile(d.sampleKey, key, 0o600)); err != nil {
		return err
	}
	d.cfgFile = filepath.Join(d.dir, "certpost.yaml")
	return os.WriteFile(d.cfgFile, []byte(fmt.Sprintf(demoConfig,
		strconv.Quote(filepath.Join(d.dir, "data")), natsListen, strconv.Quote(keys),
		port(d.relay.Submission()), strconv.Quote(ca), strconv.Quote(filepath.Join(d.dir, "password")),
		port(d.relay.SMTPS()), strconv.Quote(ca), strconv.Quote(filepath.Join(d.dir, "password")), strconv.Quote(filepath.Join(d.dir, "passphrase")),
		port(d.refusing.Submission()), strconv.Quote(refusingCA))), 0o600)
}

func port(addr string) string {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return p
}

const demoConfig = `# The demo's configuration: three targets on two relays.
data_dir: %s
nats: {listen: "%s", sync_interval: 10s}   # the default is always: after every write
http: {listen: "127.0.0.1:0"}
events: {file_roots: [%s]}
targets:
  - id: ops-archive                 # a copy of every certificate below example.com
    match: {dns_names: ["**.example.com"]}
    host: localhost
    port: %s
    ca_file: %s
    username: certpost
    password: {file: %s}
    from_address: certpost@demo.example
    to: [ops@demo.example]
    subject_prefix: "[DEMO]"
  - id: java-keystore               # only for events that name it; with the private key
    host: localhost
    port: %s
    tls_mode: smtps
    ca_file: %s
    username: certpost
    password: {file: %s}
    from_address: certpost@demo.example
    to: [java@demo.example]
    payload: pkcs12
    pkcs12_passphrase: {file: %s}
  - id: wrong-address               # its relay answers 550: ends as a dead letter
    host: localhost
    port: %s
    ca_file: %s
    from_address: certpost@demo.example
    to: [nobody@demo.example]
`

// expectation is what should become of one sample.
type expectation struct {
	event, target string
	state         broker.State
	code          verdict.Code
}

// publish sends the sample events, as any CA would.
func (d *demo) publish(ctx context.Context) ([]expectation, error) {
	for d.service.runner.Ready(ctx) != nil {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	samples := []struct {
		id, name string
		targets  []string
	}{
		{"demo-1", "shop.example.com", nil},
		{"demo-2", "*.example.com", []string{"ops-archive", "java-keystore"}},
		{"demo-3", "mail.example.com", []string{"wrong-address"}},
	}
	for _, s := range samples {
		crt, key, err := d.authority.issue(s.name)
		if err != nil {
			return nil, err
		}
		ev, err := events.FromPEM(crt)
		if err != nil {
			return nil, err
		}
		keyFile := filepath.Join(d.dir, "keys", s.id+".key")
		if err := os.WriteFile(keyFile, key, 0o600); err != nil {
			return nil, err
		}
		ev.ID, ev.Source, ev.Time, ev.Targets = s.id, "demo://ca", time.Now().UTC(), s.targets
		ev.PrivateKey = &events.Reference{File: keyFile}
		if _, _, err := d.service.broker.Publish(ctx, ev); err != nil {
			return nil, err
		}
	}
	return []expectation{
		{"demo-1", "ops-archive", broker.StateSent, ""},
		{"demo-2", "java-keystore", broker.StateSent, ""},
		{"demo-2", "ops-archive", broker.StateSent, ""},
		{"demo-3", "wrong-address", broker.StateDead, verdict.SMTPPermanent},
	}, nil
}

// once waits until everything is settled, prints what became of it, and compares
// it with what should have: in the ledger, in the mailbox and among the letters.
func (d *demo) once(ctx context.Context, want []expectation, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		backlog, err := d.service.broker.Backlog(ctx)
		if err == nil && backlog.Events == 0 && backlog.Deliveries == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not everything was settled within %s", timeout)
		case <-time.After(20 * time.Millisecond):
		}
	}
	entries, err := d.service.broker.Deliveries(ctx, "", "")
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b broker.Entry) int {
		return slices.Compare([]string{a.Event, a.Target}, []string{b.Event, b.Target})
	})
	var rows [][]string
	var got []expectation
	for _, e := range entries {
		x := expectation{e.Event, e.Target, e.State, ""}
		if e.Failure != nil {
			x.code = e.Failure.Code
		}
		got = append(got, x)
		rows = append(rows, []string{x.event, x.target, string(x.state), string(x.code), fmt.Sprint(e.Attempts)})
	}
	if err := table(d.out.stdout, []string{"EVENT", "TARGET", "STATE", "CODE", "ATTEMPTS"}, rows); err != nil {
		return err
	}
	letters := 0
	for _, err := range d.service.broker.DeadLetters(ctx, "") {
		if err != nil {
			return err
		}
		letters++
	}
	if mails := d.relay.Count(); !slices.Equal(got, want) || mails != 3 || letters != 1 {
		return fmt.Errorf("not as expected: %d mails (want 3), %d dead letters (want 1), or the table is wrong", mails, letters)
	}
	return nil
}

// explain says where to look and what to try.
func (d *demo) explain() {
	url := d.service.broker.URL()
	fmt.Fprintf(d.out.stdout, `Certpost is running with three sample targets; two got their certificates, one relay refuses its own.

  Inbox     %s
  Health    %s/healthz
  NATS      %s
  Config    %s

Publish another event:
  go run ./cmd/consumer publish -c %s --cert %s --target ops-archive
  nats --server %s pub certificate.issued --force-stdin < event.json     (examples/events/ has some)

See the dead letter, and replay it:
  go run ./cmd/consumer dead-letters list -c %s
  go run ./cmd/consumer dead-letters replay -c %s --all

Ctrl-C ends it; nothing is kept.
`, d.inbox.address(), d.service.http.address(), url, d.cfgFile, d.cfgFile, d.sampleCrt, url, d.cfgFile, d.cfgFile)
}
