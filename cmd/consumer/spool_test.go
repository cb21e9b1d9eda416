package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/spool"
)

// publisherAt is a publisher on a host of its own.
type publisherAt struct {
	t   *testing.T
	dir string
}

func newPublisher(t *testing.T, url, more string) publisherAt {
	t.Helper()
	p := publisherAt{t, t.TempDir()}
	p.write("certpost.yaml", "data_dir: "+p.dir+"\nnats: {url: \""+url+"\"}\n"+more)
	return p
}

func (p publisherAt) write(name, text string) {
	p.t.Helper()
	lab.Write(p.t, filepath.Join(p.dir, name), []byte(text))
}

// issue writes name.pem and name.key.
func (p publisherAt) issue(name string) {
	p.t.Helper()
	ca := lab.Issue(p.t, nil, lab.NewKey(p.t, "p256"), "CA", lab.AsCA)
	leaf := lab.Issue(p.t, ca, lab.NewKey(p.t, "p256"), name, lab.DNSNames(name), today)
	p.write(name+".pem", string(lab.PEM(leaf, ca)))
	p.write(name+".key", string(lab.KeyPEM(p.t, leaf.Key)))
}

func (p publisherAt) path(name string) string { return filepath.Join(p.dir, name) }

func (p publisherAt) publish(env []string, args ...string) said {
	p.t.Helper()
	return command(p.t, env, append([]string{"-c", p.path("certpost.yaml"), "publish"}, args...)...)
}

// state is the state of the publisher's spool; no file in it holds a key.
func (p publisherAt) state() spool.State {
	p.t.Helper()
	files, err := filepath.Glob(p.path("spool/*"))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && events.HoldsPrivateKey(text) {
			p.t.Errorf("%s holds a private key", file)
		}
	}
	state, err := spool.New(p.path("spool"), spool.Limits{}).State()
	if err != nil {
		p.t.Fatal(err)
	}
	return state
}

// anonymous is JetStream of a server that lets everybody in.
func anonymous(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// eventStream makes the stream of events as the program does, without running it.
func eventStream(t *testing.T, url string, maxBytes int64) jetstream.Stream {
	t.Helper()
	s, err := anonymous(t, url).CreateStream(t.Context(), jetstream.StreamConfig{Name: broker.EventsStream, Subjects: []string{broker.EventSubject, broker.EventSubject + ".>"}, MaxBytes: maxBytes, Discard: jetstream.DiscardNew})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ids are the ids of the events in a stream, in order.
func ids(t *testing.T, s jetstream.Stream) (all []string) {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n := info.State.FirstSeq; n <= info.State.LastSeq && n > 0; n++ {
		m, err := s.GetMsg(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		var ev struct{ ID string }
		if err := json.Unmarshal(m.Data, &ev); err != nil {
			t.Fatal(err)
		}
		all = append(all, ev.ID)
	}
	return all
}

// A hook runs while NATS is away: the event is kept, and the client goes on. What waits is
// shown, and goes out in order with the next publication, once.
//
// Fault: NATS is away, or has no stream, while a hook publishes. Result: the event is kept in the
// spool; it is published once, in order, by the next publish or by --flush.
func TestHookWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "")
	for _, name := range []string{"first", "second", "third"} {
		p.issue(name + ".example.com")
	}
	lego := func(name string) []string {
		return []string{"LEGO_CERT_DOMAIN=" + name + ".example.com", "LEGO_CERT_PATH=" + p.path(name+".example.com.pem"), "LEGO_CERT_KEY_PATH=" + p.path(name+".example.com.key")}
	}
	for _, name := range []string{"first", "second"} {
		said := p.publish(lego(name), "--from", "lego", "--id", name)
		if said.code != exitDone || !strings.HasPrefix(said.stderr, "certpost: event "+name+" is not published yet: NATS at nats://"+addr+" does not answer (") || !strings.Contains(said.stderr, "; it is kept in "+p.path("spool")+", and published by the next certpost publish") {
			t.Errorf("%+v", said)
		}
	}
	if said := p.publish(nil, "--cert", p.path("first.example.com.pem"), "--id", "by-hand", "-o", "json"); said.code != exitKept || !strings.Contains(said.stdout, `"kept": true`) {
		t.Errorf("by hand: %+v", said)
	}
	if state := p.state(); state.Waiting != 3 || len(state.Refused) != 0 {
		t.Errorf("%+v", state)
	}

	config := p.path("certpost.yaml")
	if said := command(t, nil, "-c", config, "status"); said.code != exitFailed || !strings.Contains(said.stderr, "; "+p.path("spool")+" has 3 events to publish, the oldest for ") {
		t.Errorf("status: %+v", said)
	}
	if said := p.publish(nil, "--flush"); said.code != exitFailed || !strings.HasPrefix(said.stderr, "certpost: 3 events to publish, the oldest for ") || !strings.Contains(said.stderr, "does not answer") {
		t.Errorf("flush: %+v", said)
	}
	lab.Write(t, p.path("file.yaml"), []byte("spool: {dir: "+config+"}\n"))
	if said := command(t, nil, "-c", p.path("file.yaml"), "check"); said.code != exitUsage || !strings.Contains(said.stdout+said.stderr, "spool.dir: publishers can keep nothing: "+config+" is not a directory") {
		t.Errorf("check of a spool that is a file: %+v", said)
	}
	cfg, _ := loadConnection(config, nil)
	if problems := cfg.inspectSpool(time.Now()); len(problems) != 0 {
		t.Errorf("at once: %v", problems)
	}
	if problems := cfg.inspectSpool(time.Now().Add(2 * time.Hour)); len(problems) != 1 || !strings.Contains(problems[0].Message, "has 3 events to publish, the oldest for 2h0m") {
		t.Errorf("two hours later: %v", problems)
	}

	lab.NATS(t, addr, "")
	said := p.publish(lego("third"), "--from", "lego", "--id", "third") // there is no stream yet
	if said.code != exitDone || !strings.Contains(said.stderr, "certpost: event third is not published yet: no stream for certificate.issued at nats://"+addr) {
		t.Errorf("%+v", said)
	}
	stream := eventStream(t, "nats://"+addr, -1)
	if said := p.publish(lego("third"), "--from", "lego", "--id", "third"); said.code != exitDone || !strings.Contains(said.stdout, "event third") || said.stderr != "" {
		t.Errorf("%+v", said)
	}
	if got := strings.Join(ids(t, stream), " "); got != "first second by-hand third" {
		t.Errorf("published: %s", got)
	}
	if out := p.publish(nil, "--flush").done(t); out != "0 events published from "+p.path("spool")+", 0 wait\n" {
		t.Errorf("flush: %s", out)
	}
}

// Fault: the stream of events is full while a hook publishes. Result: the event is kept in the
// spool; it is published once, in order, by the next publish or by --flush.
func TestHookWhileTheStreamIsFull(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, 100)
	p := newPublisher(t, "nats://"+addr, "")
	p.issue("www.example.com")
	said := p.publish(nil, "--cert", p.path("www.example.com.pem"), "--id", "full")
	if said.code != exitKept || !strings.Contains(said.stderr, "the stream is full: raise nats.max_bytes.events") {
		t.Errorf("%+v", said)
	}
	info := stream.CachedInfo().Config
	info.MaxBytes = -1
	js := anonymous(t, "nats://"+addr)
	if _, err := js.UpdateStream(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	if out := p.publish(nil, "--flush").done(t); out != "1 event published from "+p.path("spool")+", 0 wait\n" {
		t.Errorf("flush: %s", out)
	}
	if got := ids(t, stream); len(got) != 1 {
		t.Errorf("published: %q", got)
	}

	// What no stream can ever take is refused, and not kept.
	info.MaxMsgSize = 200
	if _, err := js.UpdateStream(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	said = p.publish(nil, "--cert", p.path("www.example.com.pem"), "--id", "large")
	if said.code != exitFailed || !strings.Contains(said.stderr, "raise the max_msg_size") {
		t.Errorf("%+v", said)
	}
	if state := p.state(); state.Waiting != 0 || len(state.Refused) != 0 {
		t.Errorf("%+v", state)
	}
}

// Fault: a publisher is killed after the stream has the event and before the spool says so.
// Result: the next one finds it in the stream, also after the duplicate window, and publishes it
// once.
func TestPublishedButStillInTheSpool(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	cert, _, _ := o.issue("www.example.com")
	cfg, _ := loadConnection(o.config, nil)
	ev, err := eventFromFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	ev.ID, ev.Targets = "killed", []string{"ops"}
	if _, err := cfg.spool().Add(t.Context(), &spool.Entry{Event: subjected(ev), Added: time.Now()}); err != nil {
		t.Fatal(err)
	}
	// Without a message id, which the stream forgets after the duplicate window.
	if _, err := o.service.broker.JetStream().Publish(t.Context(), events.Subject, ev.Encode()); err != nil {
		t.Fatal(err)
	}
	o.mailTo("ops@demo.example", 1)
	o.settled()
	// A later event on the subject, so that only the ledger leads to it.
	o.publish("later", "prod")
	o.certpost("publish", "--cert", cert, "--id", "last", "--target", "prod").done(t)
	stream, err := o.service.broker.JetStream().Stream(t.Context(), broker.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(ids(t, stream), " "); got != "killed later last" {
		t.Errorf("published: %s", got)
	}
	if o.settled(); o.relay.Count() != 3 {
		t.Errorf("%d mails", o.relay.Count())
	}

	// A publisher who may only publish cannot know: the event is stored twice, and mailed once.
	o.write("publisher.yaml", fmt.Sprintf("data_dir: %s/publisher\nnats: {url: %q, nkey_file: %s/data/nats/publisher.nk}\n", o.dir, o.service.broker.URL(), o.dir))
	cfg, _ = loadConnection(o.path("publisher.yaml"), nil)
	if _, err := cfg.spool().Add(t.Context(), &spool.Entry{Event: ev, Added: time.Now()}); err != nil {
		t.Fatal(err)
	}
	command(t, nil, "-c", o.path("publisher.yaml"), "publish", "--flush").done(t)
	o.until("the fan-out", func() bool { return strings.Join(ids(t, stream), " ") == "killed later last killed" })
	if o.settled(); o.relay.Count() != 3 {
		t.Errorf("%d mails", o.relay.Count())
	}
}

func subjected(ev *events.Event) *events.Event {
	ev.Subject = events.Subject
	return ev
}

// Fault: several hooks at the same time, with NATS away for some of them. Result: each event is
// published once.
func TestHooksAtTheSameTime(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "")
	const hooks = 6
	for i := range hooks {
		p.issue(fmt.Sprint(i, ".example.com"))
	}
	all := func() {
		var wg sync.WaitGroup
		for i := range hooks {
			wg.Go(func() {
				name := fmt.Sprint(i, ".example.com")
				s := p.publish([]string{"LEGO_CERT_DOMAIN=" + name, "LEGO_CERT_PATH=" + p.path(name+".pem"), "LEGO_CERT_KEY_PATH=" + p.path(name+".key")}, "--from", "lego")
				if s.code != exitDone {
					t.Errorf("%+v", s)
				}
			})
		}
		wg.Wait()
	}
	all()
	if state := p.state(); state.Waiting != hooks {
		t.Errorf("%+v", state)
	}
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	all() // the same certificates again: the same ids
	seen := map[string]bool{}
	for _, id := range ids(t, stream) {
		seen[id] = true
	}
	if state := p.state(); len(seen) != hooks || state.Waiting != 0 {
		t.Errorf("%d events, %+v", len(seen), state)
	}
}

// Fault: the spool cannot be written, or is full, while NATS is away. Result: exit 1, with both
// reasons and how to repeat; while NATS is there, the event is published all the same.
func TestSpoolThatKeepsNothing(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "spool: {max_events: 1}\n")
	p.issue("www.example.com")
	env := []string{"LEGO_CERT_DOMAIN=www.example.com", "LEGO_CERT_PATH=" + p.path("www.example.com.pem"), "LEGO_CERT_KEY_PATH=" + p.path("www.example.com.key")}
	p.publish(env, "--from", "lego", "--id", "kept")
	said := p.publish(env, "--from", "lego", "--id", "full")
	if said.code != exitFailed || !strings.Contains(said.stderr, "event full is not published (NATS at ") || !strings.Contains(said.stderr, "and not kept either (the spool "+p.path("spool")+" is full: it holds 1 events (spool.max_events))") ||
		!strings.Contains(said.stderr, "lego does not call its hook again before the next renewal") {
		t.Errorf("%+v", said)
	}
	p.write("file", "")
	p.write("broken.yaml", "nats: {url: \"nats://"+addr+"\"}\nspool: {dir: "+p.path("file")+"}\n")
	said = command(t, env, "-c", p.path("broken.yaml"), "publish", "--from", "lego", "--id", "unwritable")
	if said.code != exitFailed || !strings.Contains(said.stderr, "not kept either (spool: ") {
		t.Errorf("%+v", said)
	}

	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	p.publish(env, "--from", "lego", "--id", "full").done(t)
	if said := command(t, env, "-c", p.path("broken.yaml"), "publish", "--from", "lego", "--id", "unwritable"); said.code != exitDone || !strings.Contains(said.stderr, "warning: the certificate may be published once more: spool: ") {
		t.Errorf("%+v", said)
	}
	if got := strings.Join(ids(t, stream), " "); got != "kept full unwritable" {
		t.Errorf("published: %s", got)
	}
}

// With --store-key and Vault away, the event waits with the path of its key. The key is stored,
// then the event is published. If the client has meanwhile replaced the key, nothing can be done.
//
// Fault: Vault is away while a hook stores its key. Result: the event is kept with the path of
// the key's file, never the key; once Vault is back, the key is stored and the event published; if
// the file has another key by then, the event is set aside with the reason.
func TestHookWhileVaultIsAway(t *testing.T) {
	t.Parallel()
	vault := lab.Vault(t)
	addr := lab.FreeAddress(t)
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	p := newPublisher(t, "nats://"+addr, "")
	p.write("token", vault.RootToken)
	p.write("vault.yaml", "data_dir: "+p.dir+"\nnats: {url: \"nats://"+addr+"\"}\nvault: {address: \""+vault.Address+"\", auth: {method: token, token: {file: "+p.path("token")+"}}}\n")
	p.write("away.yaml", "data_dir: "+p.dir+"\nnats: {url: \"nats://"+addr+"\"}\nvault: {address: \"http://"+lab.FreeAddress(t)+"\", auth: {method: token, token: {file: "+p.path("token")+"}}}\n")
	for _, name := range []string{"www.example.com", "replaced.example.com"} {
		p.issue(name)
		// certbot's live directory has links.
		for _, dir := range []string{"live", "archive"} {
			if err := os.MkdirAll(p.path(dir+"/"+name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for from, to := range map[string]string{name + ".pem": "fullchain", name + ".key": "privkey"} {
			if err := os.Rename(p.path(from), p.path("archive/"+name+"/"+to+"1.pem")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("../../archive/"+name+"/"+to+"1.pem", p.path("live/"+name+"/"+to+".pem")); err != nil {
				t.Fatal(err)
			}
		}
		said := command(t, []string{"RENEWED_LINEAGE=" + p.path("live/"+name)}, "-c", p.path("away.yaml"), "publish", "--from", "certbot", "--store-key", "vault:secret/certs/{lineage}#private_key")
		if said.code != exitDone || !strings.Contains(said.stderr, "is not published yet: store the private key: ") {
			t.Errorf("%+v", said)
		}
	}
	if state := p.state(); state.Waiting != 2 {
		t.Errorf("%+v", state)
	}
	// A renewal: the link leads elsewhere, the file stays. In the other lineage the file is replaced.
	if err := os.Remove(p.path("live/www.example.com/privkey.pem")); err != nil {
		t.Fatal(err)
	}
	p.write("archive/replaced.example.com/privkey1.pem", string(lab.KeyPEM(t, lab.NewKey(t, "p256"))))

	said := command(t, nil, "-c", p.path("vault.yaml"), "publish", "--flush")
	if said.code != exitFailed || !strings.Contains(said.stderr, "is set aside and will not be published: the private key is to be stored at vault:secret/certs/replaced.example.com#private_key, but "+p.path("archive/replaced.example.com/privkey1.pem")+" has another one now") ||
		said.stdout != "1 event published from "+p.path("spool")+", 0 wait\n" {
		t.Errorf("%+v", said)
	}
	if got := ids(t, stream); len(got) != 1 {
		t.Errorf("published: %q", got)
	}
	m, err := stream.GetMsg(t.Context(), 1)
	if err != nil || !strings.Contains(string(m.Data), `"private_key":{"vault":{"mount":"secret","path":"certs/www.example.com","key":"private_key","version":1}}`) {
		t.Errorf("%s, %v", m.Data, err)
	}
	key, err := os.ReadFile(p.path("archive/www.example.com/privkey1.pem"))
	stored := vault.Call(t, "GET", "secret/data/certs/www.example.com", nil)["data"].(map[string]any)["data"].(map[string]any)
	if err != nil || stored["private_key"] != string(key) {
		t.Error("Vault does not have the key")
	}
	cfg, _ := loadConnection(p.path("vault.yaml"), nil)
	if problems := cfg.inspectSpool(time.Now()); len(problems) != 1 || !strings.Contains(problems[0].Message, "will not be published (the private key is to be stored") {
		t.Errorf("%v", problems)
	}
}

// Fault: a certificate or key is a named pipe without a writer. Result: refused at once.
func TestPublishOfAPipe(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, "nats://"+lab.FreeAddress(t), "")
	p.issue("www.example.com")
	pipe := p.path("pipe")
	if err := exec.Command("mkfifo", pipe).Run(); err != nil {
		t.Skip("no named pipes here: ", err)
	}
	cert := p.path("www.example.com.pem")
	for _, args := range [][]string{{"--cert", pipe}, {"--from", "files", "--", pipe, pipe}, {"--from", "files", "--", cert, pipe},
		{"--cert", cert, "--store-key", "vault:secret/x#key", "--key", pipe}} {
		if said := p.publish(nil, args...); said.code != exitUsage || !strings.Contains(said.stderr, pipe+": it is a named pipe, not a regular file") {
			t.Errorf("%v: %+v", args, said)
		}
	}
}

// Fault: the spool has nothing but files that cannot be read. Result: --flush names each and ends with 1, and so does watch --once.
func TestFlushOfDamagedFiles(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, "nats://"+lab.FreeAddress(t), "")
	for _, dir := range []string{"spool", "watched"} {
		if err := os.Mkdir(p.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p.write("spool/1.json", "canary")
	p.write("spool/2.json", "{}")
	p.write("spool/3.refused.json", "canary")
	said := p.publish(nil, "--flush")
	for _, name := range []string{"1.json", "2.json"} {
		if said.code != exitFailed || !strings.Contains(said.stderr, "certpost: a file of the spool cannot be published: "+p.path("spool/"+name)+" cannot be read as an event (") || strings.Contains(said.stderr, "canary") || strings.Contains(said.stderr, "refused.json") {
			t.Errorf("%+v", said)
		}
	}
	once := command(t, nil, "-c", p.path("certpost.yaml"), "watch", "--once", p.path("watched"))
	if once.code != exitFailed || !strings.Contains(once.stderr, "2 files of the spool cannot be published") || !strings.Contains(once.stdout+once.stderr, p.path("spool/2.json")) {
		t.Errorf("%+v", once)
	}
}
