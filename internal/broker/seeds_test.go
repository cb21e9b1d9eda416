package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

// openSeeded opens an embedded server with a ledger entry and an event in it.
func openSeeded(t *testing.T, cfg Config) *Broker {
	t.Helper()
	cfg.Listen, cfg.SyncInterval = "127.0.0.1:0", "2m"
	b, err := Open(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.EnsureTopology(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Publish(t.Context(), testEvent("e1", "ops")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.nc.Request("$KV."+LedgerBucket+".ops.e1", []byte(`{"state":"waiting"}`), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	return b
}

// What each stream holds, and the ledger's entry.
func holdings(t *testing.T, b *Broker) (all []string) {
	t.Helper()
	for _, want := range b.streams() {
		s, err := b.js.Stream(t.Context(), want.Name)
		if err != nil {
			all = append(all, want.Name+": "+err.Error())
			continue
		}
		state := s.CachedInfo().State
		all = append(all, fmt.Sprintf("%s: %d to %d, %d messages, %d consumers", want.Name, state.FirstSeq, state.LastSeq, state.Msgs, state.Consumers))
	}
	kv, err := b.js.KeyValue(t.Context(), LedgerBucket)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(t.Context(), "ops.e1")
	if err != nil {
		return append(all, err.Error())
	}
	return append(all, fmt.Sprintf("revision %d: %s", entry.Revision(), entry.Value()))
}

// attacks are requests that only an administrator may send.
var attacks = []struct{ name, subject, rollup, body string }{
	{name: "read a certificate by direct get", subject: "$JS.API.DIRECT.GET." + EventsStream + "." + EventSubject},
	{name: "read a certificate", subject: "$JS.API.STREAM.MSG.GET." + EventsStream, body: `{"seq":1}`},
	{name: "read the ledger", subject: "$JS.API.DIRECT.GET.KV_" + LedgerBucket + ".$KV." + LedgerBucket + ".ops.e1"},
	{name: "describe a stream", subject: "$JS.API.STREAM.INFO." + EventsStream},
	{name: "list streams", subject: "$JS.API.STREAM.NAMES"},
	{name: "describe the account", subject: "$JS.API.INFO"},
	{name: "read by a consumer", subject: "$JS.API.CONSUMER.CREATE." + EventsStream, body: `{"stream_name":"CERTPOST_EVENTS","config":{"deliver_subject":"_INBOX.mine","ack_policy":"none"}}`},
	{name: "take deliveries", subject: "$JS.API.CONSUMER.MSG.NEXT." + EventsStream + "." + FanoutConsumer, body: `{"batch":1}`},
	{name: "forge a delivery in the ledger", subject: "$KV." + LedgerBucket + ".ops.e1", body: `{"state":"sent"}`},
	{name: "wipe the ledger with one rollup", subject: "$KV." + LedgerBucket + ".ops.e1", rollup: "all", body: `{}`},
	{name: "wipe an entry with a rollup", subject: "$KV." + LedgerBucket + ".ops.e1", rollup: "sub", body: `{}`},
	{name: "forge a record", subject: auditPrefix + "replay", body: `{}`},
	{name: "forge a dead letter", subject: DeadLetterPrefix + "a.b.c.d", body: `{}`},
	{name: "forge a delivery", subject: DeliverySubject("lane", "ops"), body: `{}`},
	{name: "delete a message", subject: "$JS.API.STREAM.MSG.DELETE." + DeliveriesStream, body: `{"seq":1}`},
	{name: "purge a stream", subject: "$JS.API.STREAM.PURGE." + DeadLettersStream},
	{name: "delete a stream", subject: "$JS.API.STREAM.DELETE." + EventsStream},
	{name: "change a stream", subject: "$JS.API.STREAM.UPDATE." + EventsStream, body: `{"name":"CERTPOST_EVENTS","subjects":["certificate.issued"],"max_msgs":1}`},
	{name: "create a stream", subject: "$JS.API.STREAM.CREATE.MINE", body: `{"name":"MINE","subjects":["mine"]}`},
	{name: "pause the fan-out", subject: "$JS.API.CONSUMER.PAUSE." + EventsStream + "." + FanoutConsumer, body: `{"pause_until":"2099-01-01T00:00:00Z"}`},
	{name: "replay as ada", subject: servicePrefix + "dead.replay", body: `{"numbers":[1],"by":"ada"}`},
	{name: "ask the server", subject: "$SYS.REQ.SERVER.PING.VARZ"},
	{name: "who am I", subject: "$SYS.REQ.USER.INFO"},
	{name: "answer others", subject: "_INBOX.theirs", body: `{}`},
}

// A local process without a seed gets nothing, and one with the publishers' seed only
// publishes: it can neither read nor change what is stored, nor see others' answers.
//
// Fault: a process on the machine reads certificates, forges or wipes the ledger, deletes
// streams, or replays in another name over the embedded NATS. Result: refused without a seed,
// and with the publishers' seed, with which only publishing works.
func TestSeedsAgainstAttacks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openSeeded(t, Config{DataDir: dir})
	replays := make(chan string, 100)
	sub, err := b.nc.Subscribe(servicePrefix+">", func(m *nats.Msg) { replays <- m.Subject; _ = m.Respond([]byte(`{}`)) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}

	for name, options := range map[string][]nats.Option{
		"without a login": nil, "with a user": {nats.UserInfo("certpost", "certpost")}, "with a token": {nats.Token("x")},
		"with another seed": {otherSeed(t)},
	} {
		if nc, err := nats.Connect(b.URL(), options...); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				nc.Close()
			}
		}
	}

	before := holdings(t, b)
	violations := make(chan string, 1000)
	nc := lab.Login(t, b.URL(), dir, "publisher", nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violations <- err.Error() }))
	refused := func(what string) {
		t.Helper()
		select {
		case err := <-violations:
			if !strings.Contains(err, "ermissions Violation") {
				t.Errorf("%s: %s", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: not refused", what)
		}
	}
	heard := make(chan *nats.Msg, 1000)
	for _, subject := range []string{">", "*", "certificate.>", EventSubject, EventSubject + ".>", "certpost.>", "$KV.>", "$JS.>", "$JS.EVENT.>", "$SRV.>", "$SYS.>", "_R_.>", "$O.>"} {
		if _, err := nc.ChanSubscribe(subject, heard); err == nil {
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			refused("subscribe to " + subject)
		}
	}
	for _, a := range attacks {
		m := &nats.Msg{Subject: a.subject, Reply: nats.NewInbox(), Data: []byte(a.body), Header: nats.Header{}}
		if a.rollup != "" {
			m.Header.Set(jetstream.MsgRollup, a.rollup)
		}
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		refused(a.name)
	}
	if after := holdings(t, b); !slices.Equal(before, after) {
		t.Errorf("the attacks changed what is stored:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	if len(replays) > 0 {
		t.Errorf("a request reached the service: %s", <-replays)
	}

	// The inboxes are its own: the answers to others, which hold certificates, never arrive.
	if _, err := nc.ChanSubscribe("_INBOX.>", heard); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.Stream(t.Context(), EventsStream); err != nil {
		t.Fatal(err)
	}
	if m, err := b.nc.Request("$JS.API.DIRECT.GET."+EventsStream+"."+EventSubject, nil, 5*time.Second); err != nil || !bytes.Contains(m.Data, []byte("BEGIN CERTIFICATE")) {
		t.Errorf("an administrator cannot read: %v", err)
	}
	// A publication with an acknowledgement works, with and without a source, and is all that arrives.
	for i, subject := range []string{EventSubject, EventSubject + ".web1", EventSubject + ".ca.web1"} {
		ack, err := nc.Request(subject, testEvent(fmt.Sprint("p", i)).Encode(), 10*time.Second)
		var stored struct {
			Stream string
			Seq    int
		}
		if err != nil || json.Unmarshal(ack.Data, &stored) != nil || stored.Stream != EventsStream || stored.Seq != i+2 {
			t.Errorf("publication to %s: %v, %+v", subject, err, ack)
		}
	}
	for len(heard) > 0 {
		if m := <-heard; !bytes.Contains(m.Data, []byte(`"stream":"CERTPOST_EVENTS"`)) {
			t.Errorf("a publisher reads %s: %s", m.Subject, m.Data)
		}
	}
	m, err := b.js.Stream(t.Context(), EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := m.GetMsg(t.Context(), 3)
	if err != nil || raw.Subject != EventSubject+".web1" || !bytes.Equal(raw.Data, testEvent("p1").Encode()) {
		t.Errorf("stored otherwise than published: %+v, %v", raw, err)
	}
	// An administrator may do all of it.
	admin := lab.Admin(t, b.URL(), dir)
	if m, err := admin.Request("$JS.API.STREAM.INFO."+EventsStream, nil, 5*time.Second); err != nil || !bytes.Contains(m.Data, []byte(`"messages":4`)) {
		t.Errorf("administrator: %v, %+v", err, m)
	}
}

// otherSeed logs in with a valid seed that the server does not know.
func otherSeed(t *testing.T) nats.Option {
	t.Helper()
	key, err := makeSeed(filepath.Join(t.TempDir(), "other.nk"))
	if err != nil {
		t.Fatal(err)
	}
	return seeds{Administrator: key}.login(Administrator)
}

// Commands find their seed, and say what is missing.
//
// Fault: a file that is no seed. Result: refused.
// Fault: its seed is that of another server. Result: fails; the text says which file,
// and what to do.
func TestDialFindsTheSeed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openSeeded(t, Config{DataDir: dir})
	listen := strings.TrimPrefix(b.URL(), "nats://")
	dial := func(cfg Config, roles ...Role) error {
		cfg.Listen = listen
		c, err := Dial(t.Context(), cfg, zerolog.Nop(), roles...)
		if err != nil {
			return err
		}
		defer c.Close()
		if slices.Contains(roles, Publisher) {
			_, _, err = c.Publish(t.Context(), testEvent("by a command"))
			return err
		}
		_, err = c.js.Stream(t.Context(), EventsStream)
		return err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	fails := func(err error, texts ...string) {
		t.Helper()
		for _, text := range texts {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%v, want %q", err, text)
			}
		}
	}
	must(dial(Config{DataDir: dir}))
	must(dial(Config{DataDir: dir}, Publisher, Administrator))
	must(dial(Config{NKeyFile: SeedFile(dir, Administrator)}))

	copied := t.TempDir()
	text, err := os.ReadFile(SeedFile(dir, Publisher))
	must(err)
	must(os.Mkdir(filepath.Join(copied, "nats"), 0o700))
	must(os.WriteFile(SeedFile(copied, Publisher), text, 0o600))
	must(dial(Config{DataDir: copied}, Publisher, Administrator))
	must(dial(Config{NKeyFile: SeedFile(copied, Publisher)}, Publisher, Administrator))
	fails(dial(Config{DataDir: copied}), SeedFile(copied, Administrator)+" does not exist", "`certpost run` makes it at its first start", "data_dir ("+copied)
	text, err = os.ReadFile(SeedFile(dir, Administrator))
	must(err)
	must(os.WriteFile(SeedFile(copied, Publisher), text, 0o600))
	must(dial(Config{DataDir: copied}, Publisher, Administrator))

	elsewhere := t.TempDir()
	_, err = openSeeds(elsewhere, zerolog.Nop())
	must(err)
	fails(dial(Config{DataDir: elsewhere}), "does not accept the seed "+SeedFile(elsewhere, Administrator), "check that data_dir")
	must(os.WriteFile(SeedFile(elsewhere, Administrator), []byte("SUANOSEEDCANARY\n"), 0o600))
	err = dial(Config{DataDir: elsewhere})
	fails(err, "does not contain the NKey seed of a user")
	if strings.Contains(err.Error(), "CANARY") {
		t.Errorf("the error quotes the file: %v", err)
	}
	// An account's seed is none of a user. It is another kind of directory where a file should be, too.
	must(os.Remove(SeedFile(elsewhere, Administrator)))
	must(os.Mkdir(SeedFile(elsewhere, Administrator), 0o700))
	fails(dial(Config{DataDir: elsewhere}), "is a directory")
}

// Fault: a command may not read the seed. Result: fails; the text says which file, whose it
// is, and what to do.
func TestExplainSeed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := openSeeds(dir, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	owner := ownerOf(SeedFile(dir, Administrator))
	if owner == "" || ownerOf(filepath.Join(dir, "nowhere", "file")) != owner {
		t.Errorf("owner %q", owner)
	}
	denied := &os.PathError{Op: "open", Path: "x", Err: os.ErrPermission}
	for r, want := range map[Role]string{
		Administrator: "cannot be read (permission denied): run this command as user " + owner + ", who owns it (sudo -u " + owner + " ...)",
		Publisher:     "(sudo -u " + owner + " ...), or have a copy of it that you can read and set nats.nkey_file",
	} {
		if err := explainSeed(dir, r, denied); !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%v, want ...%s", err, want)
		}
	}
}

// Seeds that others can read are closed to them, with a warning; what cannot be used is refused.
//
// Fault: a seed that others can read. Result: closed with a warning.
// Fault: the same seed for both roles. Result: refused.
func TestOpenSeeds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var log bytes.Buffer
	open := func() (seeds, error) { log.Reset(); return openSeeds(dir, zerolog.New(&log)) }
	first, err := open()
	if err != nil || strings.Count(log.String(), "made a seed") != 2 {
		t.Fatalf("%v\n%s", err, &log)
	}
	// What is left of a start that was killed is no seed.
	if err := os.WriteFile(SeedFile(dir, Publisher)+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(filepath.Join(dir, "nats"), 0o755), os.Chmod(SeedFile(dir, Administrator), 0o644), os.Remove(SeedFile(dir, Publisher))); err != nil {
		t.Fatal(err)
	}
	second, err := open()
	if err != nil || strings.Count(log.String(), "other users could read this seed") != 1 || !strings.Contains(log.String(), `"level":"warn"`) {
		t.Errorf("%v\n%s", err, &log)
	}
	if second.public(Administrator) != first.public(Administrator) || second.public(Publisher) == first.public(Publisher) {
		t.Error("the administrators' seed must stay, and the publishers' be a new one")
	}
	for path, mode := range map[string]os.FileMode{"nats": os.ModeDir | 0o700, "nats/admin.nk": 0o600, "nats/publisher.nk": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "nats")); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := open(); err != nil || log.Len() > 0 {
		t.Errorf("again: %v\n%s", err, &log)
	}
	text, err := os.ReadFile(SeedFile(dir, Administrator))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(SeedFile(dir, Publisher), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "publishers would be administrators") {
		t.Errorf("one seed for both: %v", err)
	}
}

// nats.user, nats.nkey_file and nats.anonymous admit further administrators.
func TestFurtherAdministrators(t *testing.T) {
	t.Parallel()
	allowed := func(nc *nats.Conn, err error) error {
		if err != nil {
			return err
		}
		defer nc.Close()
		_, err = nc.Request("$JS.API.STREAM.INFO."+EventsStream, nil, 5*time.Second)
		return err
	}
	own := filepath.Join(t.TempDir(), "own.nk")
	key, err := makeSeed(own)
	if err != nil {
		t.Fatal(err)
	}
	b := openSeeded(t, Config{DataDir: t.TempDir(), NKeyFile: own, User: "certpost", Password: func() ([]byte, error) { return []byte("right"), nil }})
	if err := allowed(nats.Connect(b.URL(), seeds{Administrator: key}.login(Administrator))); err != nil {
		t.Error(err)
	}
	if err := allowed(nats.Connect(b.URL(), nats.UserInfo("certpost", "right"))); err != nil {
		t.Error(err)
	}
	for _, options := range [][]nats.Option{nil, {nats.UserInfo("certpost", "wrong")}, {nats.UserInfo("certpost", "")}} {
		if err := allowed(nats.Connect(b.URL(), options...)); !errors.Is(err, nats.ErrAuthorization) {
			t.Error(err)
		}
	}

	// A copy of the publishers' seed in nats.nkey_file stays one of a publisher.
	dir := t.TempDir()
	if _, err := openSeeds(dir, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	b = openSeeded(t, Config{DataDir: dir, NKeyFile: SeedFile(dir, Publisher)})
	nc := lab.Login(t, b.URL(), dir, "publisher")
	if err := nc.Publish("$JS.API.STREAM.INFO."+EventsStream, nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(nc.Flush(), nc.LastError()); err == nil || !strings.Contains(err.Error(), "ermissions Violation") {
		t.Errorf("a publisher in nats.nkey_file: %v", err)
	}

	anonymous := openSeeded(t, Config{DataDir: t.TempDir(), Anonymous: true})
	if err := allowed(nats.Connect(anonymous.URL())); err != nil {
		t.Error(err)
	}
	c, err := Dial(t.Context(), Config{Listen: strings.TrimPrefix(anonymous.URL(), "nats://"), DataDir: t.TempDir(), Anonymous: true}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// A store of a version without seeds, whose streams are in the account of a server without
// accounts, is used on; and a server without accounts can use it again.
//
// Fault: a store that a version without seeds made. Result: used as it is.
func TestStoreWithoutSeeds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := func(work func(*Broker)) {
		opts := &server.Options{}
		if err := opts.ProcessConfigString(fmt.Sprintf("server_name: certpost\nport: -1\nmax_payload: %d\njetstream { store_dir: %q, sync_interval: \"2m\", max_memory_store: 64MB, max_file_store: 1GB }\n", maxPayload, filepath.Join(dir, "nats"))); err != nil {
			t.Fatal(err)
		}
		opts.NoSigs, opts.NoLog = true, true
		srv := lab.RunNATS(t, opts)
		b, err := Dial(t.Context(), Config{URL: srv.ClientURL()}, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		work(b)
		b.Close()
		srv.Shutdown()
		srv.WaitForShutdown()
	}
	var before []string
	old(func(b *Broker) {
		ctx := context.Background()
		if err := b.EnsureTopology(ctx); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			if _, _, err := b.Publish(ctx, testEvent(fmt.Sprint("e", i), "ops")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.nc.Request("$KV."+LedgerBucket+".ops.e1", []byte(`{"state":"sent"}`), 5*time.Second); err != nil {
			t.Fatal(err)
		}
		before = holdings(t, b)
	})
	b, err := Open(Config{DataDir: dir, Listen: "127.0.0.1:0", SyncInterval: "2m"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureTopology(t.Context()); err != nil {
		t.Error(err)
	}
	if after := holdings(t, b); !slices.Equal(before, after) {
		t.Errorf("after the upgrade:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	c, err := b.js.Consumer(t.Context(), EventsStream, FanoutConsumer)
	if err != nil || c.CachedInfo().NumPending != 20 {
		t.Errorf("the fan-out: %+v, %v", c, err)
	}
	b.Close()
	old(func(b *Broker) {
		if after := holdings(t, b); !slices.Equal(before, after) {
			t.Errorf("after the way back:\n%s", strings.Join(after, "\n"))
		}
	})
}
