package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
)

const (
	relayUser     = "certs"
	relayPassword = "canary-relay-password"
	p12Passphrase = "canary-p12-passphrase"
)

// fixture is the program running in this process, with the demo relay, and the
// configuration with which commands reach it.
type fixture struct {
	t       *testing.T
	dir     string
	ca      *demoCA
	relay   *devrelay.Relay
	service *instance
	silent  bool             // the NATS service is off
	http    string           // more of the section http
	nats    string           // more of the section nats
	server  string           // the whole section nats, for a server elsewhere
	events  string           // more of the section events
	config  string           // of the commands
	more    func() string    // more targets; may be nil
	clock   func() time.Time // of standstills; nil: time.Now
	log     *writings
	chain   string // of the events that publish has published
}

// newFixture starts one whose relay has the rules. extra is added to its configuration.
func newFixture(t *testing.T, extra string, rules ...devrelay.Rule) *fixture {
	t.Helper()
	o := bareFixture(t)
	o.furnish(extra, rules...)
	return o
}

// furnish adds a relay and targets, and starts the program.
func (o *fixture) furnish(extra string, rules ...devrelay.Rule) {
	t := o.t
	t.Helper()
	var err error
	o.relay, err = devrelay.Start(devrelay.Config{Users: map[string]string{relayUser: relayPassword}, Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.relay.Close() })
	if _, err := o.relay.CAFile(o.dir); err != nil {
		t.Fatal(err)
	}
	o.write("password", relayPassword)
	o.write("passphrase", p12Passphrase)
	more := ""
	if o.more != nil {
		more = o.more()
	}
	o.open(extra, o.target("ops", "match: {dns_names: [\"**.example.com\"]}", "to: [ops@demo.example]")+
		o.target("prod", "match: {labels: {env: prod}}", "to: [prod@demo.example]")+
		o.target("keys", "payload: pem_and_key", "to: [keys@demo.example]")+
		o.target("java", "payload: pkcs12", "pkcs12_passphrase: {file: "+o.dir+"/passphrase}", "to: [java@demo.example]")+
		o.target("nobody", "to: [nobody@demo.example]")+more)
}

// bareFixture has no relay, and the program is not started yet.
func bareFixture(t *testing.T) *fixture {
	t.Helper()
	o := &fixture{t: t, dir: t.TempDir(), log: &writings{}}
	var err error
	if o.ca, err = newDemoCA(); err != nil {
		t.Fatal(err)
	}
	return o
}

// open starts the program with these targets, and stops it when the test ends.
func (o *fixture) open(extra, targets string) {
	t := o.t
	t.Helper()
	o.write("targets.yaml", "targets:\n"+targets)
	common := "http: {listen: \"127.0.0.1:0\"" + o.http + "}\ntargets_file: " + o.dir + "/targets.yaml\n"
	o.write("service.yaml", "data_dir: "+o.dir+"/data\nnats: "+cmp.Or(o.server, "{listen: \"127.0.0.1:0\", sync_interval: 2m"+o.nats+"}")+"\n"+common+
		"events: {file_roots: ["+o.dir+"]"+o.events+"}\n"+extra)
	cfg, _, problems := loadConfig(o.path("service.yaml"), nil)
	if config.Failed(problems) {
		t.Fatal(problems)
	}
	cfg.NATS.Service = !o.silent
	var err error
	if o.service, err = newService(t.Context(), cfg, zerolog.New(o.log).Level(zerolog.InfoLevel)); err != nil {
		t.Fatal(err)
	}
	if o.clock != nil {
		o.service.runner.SetClock(o.clock)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.service.run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Errorf("the service ended with %v", err)
		}
		o.service.close()
		if t.Failed() {
			t.Log(o.log.String())
		}
	})
	o.config = o.path("client.yaml")
	o.write("client.yaml", o.connection()+common)
	o.until("ready", func() bool { return o.service.runner.Ready(context.Background()) == nil })
}

// connection is the configuration with which commands reach the fixture's embedded NATS.
func (o *fixture) connection() string {
	return connection(o.path("data"), o.service.broker.URL())
}

// connection is the configuration with which commands reach the NATS server that a program
// with this data directory embeds.
func connection(dataDir, url string) string {
	return fmt.Sprintf("data_dir: %q\nnats: {listen: %q}\n", dataDir, strings.TrimPrefix(url, "nats://"))
}

// target is a definition of a target at the fixture's relay.
func (o *fixture) target(id string, lines ...string) string {
	return fmt.Sprintf("  - id: %s\n    host: localhost\n    port: %s\n    ca_file: %s/devrelay-ca.pem\n    username: %s\n    password: {file: %s/password}\n    from_address: certpost@demo.example\n    %s\n",
		id, port(o.relay.Submission()), o.dir, relayUser, o.dir, strings.Join(lines, "\n    "))
}

func (o *fixture) path(name string) string { return filepath.Join(o.dir, name) }

func (o *fixture) write(name, text string) {
	o.t.Helper()
	if err := os.WriteFile(o.path(name), []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// issue writes name.pem and name.key, and returns the paths and the chain.
func (o *fixture) issue(name string) (certFile, keyFile, chain string) {
	o.t.Helper()
	crt, key, err := o.ca.issue(name)
	if err != nil {
		o.t.Fatal(err)
	}
	o.write(name+".pem", string(crt))
	o.write(name+".key", string(key))
	return o.path(name + ".pem"), o.path(name + ".key"), string(crt)
}

// publish publishes an event for targets, as any publisher would. All events have the same
// certificate: one that was issued a second later would supersede the letters of the others.
func (o *fixture) publish(id string, targets ...string) {
	o.t.Helper()
	if o.chain == "" {
		_, _, o.chain = o.issue("www.example.com")
	}
	ev := &events.Event{ID: id, Certificate: events.Certificate{PEM: o.chain}, Targets: targets}
	if _, _, err := o.service.broker.Publish(o.t.Context(), ev); err != nil {
		o.t.Fatal(err)
	}
}

// said is the result of a command.
type said struct {
	code           int
	stdout, stderr string // stderr without where
	where          string // the line that says on which system a command acts, "" if there was none
}

// certpost runs a command in this process.
func (o *fixture) certpost(args ...string) said { return o.certpostWith(nil, args...) }

func (o *fixture) certpostWith(env []string, args ...string) said {
	o.t.Helper()
	return command(o.t, env, append([]string{"-c", o.config}, args...)...)
}

// command runs a command line in this process. Its output must contain no secret.
func command(t *testing.T, env []string, args ...string) said {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := execute(t.Context(), args, env, &stdout, &stderr)
	for _, secret := range []string{relayPassword, p12Passphrase, "PRIVATE KEY"} {
		if strings.Contains(stderr.String(), secret) || strings.Contains(stdout.String(), secret) && args[len(args)-1] != "-" {
			t.Errorf("certpost %s prints a secret", strings.Join(args, " "))
		}
	}
	where := actingOn.FindString(stderr.String())
	return said{code, stdout.String(), strings.Replace(stderr.String(), where, "", 1), where}
}

// actingOn finds the line that says on which system a command acts.
var actingOn = regexp.MustCompile(`(?m)^certpost: acting on nats://\S+\r?\n`)

// done requires that the command succeeded and wrote nothing to standard error. It returns
// the standard output.
func (s said) done(t *testing.T) string {
	t.Helper()
	if s.code != exitDone || s.stderr != "" {
		t.Fatalf("exit %d, stderr %q, stdout %q", s.code, s.stderr, s.stdout)
	}
	return s.stdout
}

var undoLine = regexp.MustCompile(`^act (\S+); to undo it: certpost dead-letters restore --all --act (\S+)\n$`)

// undoable is done for a discard of several letters, which ends with the command that undoes it.
func (s said) undoable(t *testing.T) (stdout, act string) {
	t.Helper()
	ids := undoLine.FindStringSubmatch(s.stderr)
	if s.code != exitDone || ids == nil || ids[1] != ids[2] {
		t.Fatalf("exit %d, stderr %q, stdout %q", s.code, s.stderr, s.stdout)
	}
	return s.stdout, ids[1]
}

// failed requires exactly this exit code and standard error.
func (s said) failed(t *testing.T, code int, stderr string) {
	t.Helper()
	if s.code != code || s.stderr != stderr {
		t.Errorf("exit %d and\n%swant exit %d and\n%s", s.code, s.stderr, code, stderr)
	}
}

// read decodes JSON that a command printed.
func read[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// settled waits until nothing is pending.
func (o *fixture) settled() {
	o.t.Helper()
	o.until("nothing is pending", func() bool {
		backlog, err := o.service.broker.Backlog(context.Background())
		return err == nil && backlog.Events == 0 && backlog.Deliveries == 0
	})
}

// letters are the open dead letters.
func (o *fixture) letters() []broker.DeadLetter {
	o.t.Helper()
	var all []broker.DeadLetter
	for d, err := range o.service.broker.DeadLetters(context.Background(), "") {
		if err != nil {
			o.t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// mailTo waits for the n-th mail to exactly this recipient.
func (o *fixture) mailTo(recipient string, n int) devrelay.Mail {
	o.t.Helper()
	var found []devrelay.Mail
	o.until("a mail to "+recipient, func() bool {
		found = nil
		for _, m := range o.relay.Mails() {
			if strings.Join(m.Recipients, " ") == recipient {
				found = append(found, m)
			}
		}
		return len(found) >= n
	})
	return found[n-1]
}

func (o *fixture) until(what string, ok func() bool) {
	o.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	o.t.Fatalf("timed out waiting for: %s\n%s", what, o.log)
}

// writings is a buffer for concurrent writers.
type writings struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *writings) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *writings) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// slowRelay starts a relay without TLS and returns its address. It replies to a complete
// mail with what answer returns; "" closes the connection without a reply.
func slowRelay(t *testing.T, answer func(mail string) string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go speakSMTP(conn, answer)
		}
	}()
	return l.Addr().String()
}

func speakSMTP(conn net.Conn, answer func(string) string) {
	defer conn.Close()
	fmt.Fprint(conn, "220 slow.test ESMTP\r\n")
	var mail strings.Builder
	inMail := false
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		line, reply := lines.Text(), "250 2.0.0 OK"
		switch {
		case inMail && line != ".":
			mail.WriteString(line + "\r\n")
			continue
		case inMail:
			inMail = false
			if reply = answer(mail.String()); reply == "" {
				return
			}
			mail.Reset()
		case line == "DATA":
			inMail, reply = true, "354 go on"
		case line == "QUIT":
			fmt.Fprint(conn, "221 2.0.0 bye\r\n")
			return
		}
		fmt.Fprint(conn, reply+"\r\n")
	}
}
