package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/verdict"
)

type demoCmd struct {
	Once    bool          `help:"Deliver the samples, print a table, and exit: 0 if the results match."`
	NATS    string        `name:"nats-listen" help:"Address of the embedded NATS (default: 127.0.0.1:4222, or a free port if that is taken)." placeholder:"ADDR"`
	HTTP    string        `name:"http-listen" help:"Address of the dashboard (default: 127.0.0.1:8080, or a free port if that is taken)." placeholder:"ADDR"`
	Inbox   string        `help:"Address of the inbox page (default: 127.0.0.1:8025, or a free port if that is taken)." placeholder:"ADDR"`
	Timeout time.Duration `help:"Maximum time to wait for the samples." default:"60s"`
	Verbose bool          `help:"Also print the log." short:"v"`
}

// Run demonstrates a delivery with embedded defaults: NATS, CA and relay run in this process.
func (c *demoCmd) Run(a *app) error {
	dir, err := os.MkdirTemp("", "certpost-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{dir: dir, out: a}
	defer d.close()
	stopped := func() bool { return a.ctx.Err() != nil && !c.Once } // Ctrl-C is the normal end
	if err := d.open(a.ctx, c); err != nil {
		if stopped() {
			return nil
		}
		return err
	}
	ctx, end := context.WithCancelCause(a.ctx)
	var parts sync.WaitGroup
	for _, run := range []func(context.Context) error{d.service.run, d.inbox.serve} {
		parts.Go(func() { end(run(ctx)) }) // when one ends, the other ends too
	}
	err = d.show(ctx, c)
	end(err)
	parts.Wait()
	if stopped() {
		return nil
	}
	return err
}

// demo is the running demonstration.
type demo struct {
	dir       string
	out       *app
	relay     *devrelay.Relay // accepts the mails
	refusing  *devrelay.Relay // answers 550
	host      *demoHost       // nil where certificates cannot be deployed
	noHost    string          // why host is nil
	inbox     *httpServer
	authority *demoCA
	service   *instance
	cfgFile   string
}

// show delivers the samples. Then it prints and checks the results (--once), or prints
// what to try and waits until the demo is ended.
func (d *demo) show(ctx context.Context, c *demoCmd) error {
	limit, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("not every sample was settled within %s", c.Timeout))
	defer cancel()
	samples, err := d.publish(limit)
	if err == nil {
		err = d.settled(limit)
	}
	switch {
	case limit.Err() != nil:
		return context.Cause(limit)
	case err != nil:
		return err
	case c.Once:
		return d.compare(limit, samples)
	}
	if err := d.service.desk.Ready(limit); err != nil {
		return err
	}
	d.service.desk.CatchUp(limit) // so that the dashboard shows what explain prints
	if err := d.explain(limit); err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (d *demo) open(ctx context.Context, c *demoCmd) (err error) {
	log := zerolog.Nop()
	if c.Verbose {
		log = d.out.logger(LogConfig{Level: "info", Format: "auto"})
	}
	const password = "demo-password"
	if d.relay, err = devrelay.Start(devrelay.Config{Users: map[string]string{"certpost": password}, Opportunistic: true, RequireTLS: true}); err != nil {
		return err
	}
	if d.refusing, err = devrelay.Start(devrelay.Config{Rules: []devrelay.Rule{
		{Stage: devrelay.StageRcpt, Code: 550, Enhanced: "5.1.1", Text: "no such user here"},
	}}); err != nil {
		return err
	}
	inbox, err := choose("--inbox", c.Inbox, "127.0.0.1:8025")
	if err != nil {
		return err
	}
	natsListen, err := choose("--nats-listen", c.NATS, "127.0.0.1:4222")
	if err != nil {
		return err
	}
	httpListen, err := choose("--http-listen", c.HTTP, "127.0.0.1:8080")
	if err != nil {
		return err
	}
	if d.inbox, err = listenHTTP("--inbox", inbox, local(inbox, d.relay.Handler())); err != nil {
		return err
	}
	if d.authority, err = newDemoCA(); err != nil {
		return err
	}
	if err := d.openHost(ctx); err != nil {
		return err
	}
	if err := d.write(password, natsListen, httpListen); err != nil {
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
	if d.host != nil {
		_ = d.host.relay.Close()
	}
}

// choose is the address that the flag requests, else the usual one, else one with a free port. The
// error of an address that cannot be used names the flag, and not the setting of the demo's own file.
func choose(flag, asked, usual string) (string, error) {
	l, err := net.Listen("tcp", cmp.Or(asked, usual))
	if err != nil && asked == "" {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return "", cannotListen(flag, asked, err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// write creates the files that a user would have: the CA of the relay, password,
// passphrase and keys, and the configuration.
func (d *demo) write(password, natsListen, httpListen string) error {
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
	if err := d.writeSamples(); err != nil {
		return err
	}
	d.cfgFile = filepath.Join(d.dir, "certpost.yaml")
	text := fmt.Sprintf(demoConfig,
		strconv.Quote(filepath.Join(d.dir, "data")), natsListen, httpListen, strconv.Quote(keys),
		port(d.relay.Submission()), strconv.Quote(ca), strconv.Quote(filepath.Join(d.dir, "password")),
		port(d.relay.SMTPS()), strconv.Quote(ca), strconv.Quote(filepath.Join(d.dir, "password")), strconv.Quote(filepath.Join(d.dir, "passphrase")),
		port(d.refusing.Submission()), strconv.Quote(refusingCA))
	if d.host != nil {
		text += d.host.target()
	}
	return os.WriteFile(d.cfgFile, []byte(text), 0o600)
}

// writeSamples creates the files that the printed commands use.
func (d *demo) writeSamples() error {
	crt, key, err := d.authority.issue("www.example.com")
	if err != nil {
		return err
	}
	chain, _, err := d.authority.issue("ftp.example.com")
	if err != nil {
		return err
	}
	event := events.Event{ID: "by-hand-1", Source: "demo://shell", Certificate: events.Certificate{PEM: string(chain)}}
	for name, text := range map[string][]byte{
		"www.example.com.pem": crt, "keys/www.example.com.key": key, "event.json": append(event.Encode(), '\n'),
	} {
		if err := os.WriteFile(filepath.Join(d.dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func port(addr string) string {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return p
}

const demoConfig = `# The demo's configuration: targets on two relays and on a mail host.
data_dir: %s
mail_host: demo                       # the deliveries for this host are made here
nats: {listen: "%s", sync_interval: 10s}   # the default is always: after every write
http: {listen: "%s"}                  # the dashboard
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
  - id: wrong-address               # its relay answers 550: becomes a dead letter
    host: localhost
    port: %s
    ca_file: %s
    from_address: certpost@demo.example
    to: [nobody@demo.example]
`

// expectation is the expected result of one sample.
type expectation struct {
	event, target string
	state         broker.State
	code          verdict.Code
}

// settled waits until nothing is pending.
func (d *demo) settled(ctx context.Context) error {
	return service.Until(ctx, func() bool {
		backlog, err := d.service.broker.Backlog(ctx)
		return err == nil && backlog.Events == 0 && backlog.Deliveries == 0
	})
}

// publish publishes the sample events, as a CA would.
func (d *demo) publish(ctx context.Context) ([]expectation, error) {
	if err := service.Until(ctx, func() bool { return d.service.runner.Ready(ctx) == nil }); err != nil {
		return nil, err
	}
	type sample struct {
		id, name string
		targets  []string
	}
	samples := []sample{
		{"demo-1", "shop.example.com", nil},
		{"demo-2", "*.example.com", []string{"ops-archive", "java-keystore"}},
		{"demo-3", "mail.example.com", []string{"wrong-address"}},
	}
	expected := []expectation{
		{"demo-1", "ops-archive", broker.StateSent, ""},
		{"demo-2", "java-keystore", broker.StateSent, ""},
		{"demo-2", "ops-archive", broker.StateSent, ""},
		{"demo-3", "wrong-address", broker.StateDead, verdict.SMTPPermanent},
	}
	if d.host != nil {
		samples = append(samples, sample{"demo-4", demoHostName, []string{"demo-mx"}})
		expected = append(expected, expectation{"demo-4", "demo-mx", broker.StateSent, ""})
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
	return expected, nil
}

// compare prints the results of the samples, and compares them with the expected ones:
// in the ledger, in the mailbox and among the dead letters.
func (d *demo) compare(ctx context.Context, want []expectation) error {
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
		return fmt.Errorf("unexpected results: %d mails (want 3), %d dead letters (want 1), or the table differs", mails, letters)
	}
	report, err := d.hostReport(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(d.out.stdout, report)
	return err
}

// explain prints where to look and what to try. Every command can be pasted as it is.
func (d *demo) explain(ctx context.Context) error {
	report, err := d.hostReport(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(d.out.stdout, `Certpost is running. All sample deliveries have arrived except one, a dead letter, because its relay refuses it.
%[6]s

  Dashboard  %[2]s/    (the dead letter, its cause, and what to do about it)
  Inbox      %[1]s
  Health     %[2]s/healthz
  NATS       %[3]s
  Files      %[4]s    (the configuration is certpost.yaml)

In another terminal:
  cd %[4]s

Publish another event, with Certpost or with the NATS CLI:
  %[5]s publish --cert www.example.com.pem --target ops-archive
  %[5]s publish --cert www.example.com.pem --key-ref "file:$PWD/keys/www.example.com.key" --target java-keystore
  nats --server %[3]s --nkey data/nats/publisher.nk pub -J --force-stdin certificate.issued < event.json

List the dead letter, ask the relay whether a replay would succeed (it would not), and replay it all the same:
  %[5]s dead-letters list
  %[5]s dead-letters preflight 1 --recipients
  %[5]s dead-letters replay 1

All with the NATS CLI, as an administrator of the embedded NATS:
  nats --server %[3]s --nkey data/nats/admin.nk stream subjects CERTPOST_DEAD_LETTERS

Ctrl-C ends the demo and removes its files.
`, d.inbox.address(), d.service.http.address(), d.service.broker.URL(), shellWord(d.dir), d.program(), report)
	return err
}

// program is the command that runs this program from the demo's directory: a link there,
// so that it works wherever the program is, or its path where links cannot be made.
func (d *demo) program() string {
	self, err := os.Executable()
	if err != nil {
		return "certpost"
	}
	name := "certpost" + filepath.Ext(self)
	if os.Symlink(self, filepath.Join(d.dir, name)) == nil || os.Link(self, filepath.Join(d.dir, name)) == nil {
		return "./" + name
	}
	return shellWord(self)
}
