package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
)

// lane is the lane of the fixture's relay.
func (o *fixture) lane() string { return "localhost-" + port(o.relay.Submission()) }

// another is a fixture with the same relay and CA, and a data directory of its own; the program
// is not started yet.
func (o *fixture) another() *fixture {
	o.t.Helper()
	n := &fixture{t: o.t, dir: o.t.TempDir(), log: &writings{}, ca: o.ca, relay: o.relay}
	n.write("password", relayPassword)
	if _, err := n.relay.CAFile(n.dir); err != nil {
		o.t.Fatal(err)
	}
	n.config = n.path("empty.yaml")
	n.write("empty.yaml", "data_dir: "+n.path("data")+"\nnats: {listen: \"127.0.0.1:0\"}\n")
	return n
}

// TestBackupIsRestored is the drill of docs/upgrading.md: a backup is made while work goes on, the
// data directory is lost, and another one is made of the backup.
//
// Fault: the store is lost, and a backup of it is restored. Result: what waited in the backup is sent; a mail that was sent meanwhile says that it may be a duplicate; dead letters, audit and keys are as they were.
func TestBackupIsRestored(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", devrelay.Rule{Recipient: "prod@demo.example", Stage: devrelay.StageRcpt, Code: 550, Enhanced: "5.1.1", Text: "no such user"})
	o.publish("sent-before", "ops")
	o.publish("dead-before", "prod")
	o.mailTo("ops@demo.example", 1)
	o.until("a letter", func() bool { return len(o.letters()) == 1 })
	o.settled()
	o.certpost("relays", "suspend", o.lane(), "--reason", "drill").done(t)
	o.publish("waiting", "nobody")
	o.until("its delivery", func() bool {
		b, err := o.service.broker.Backlog(t.Context())
		return err == nil && b.Events == 0 && b.Deliveries == 1
	})

	dir := o.path("backup")
	text := o.certpost("backup", dir).done(t)
	for _, want := range []string{"CERTPOST_EVENTS          3 messages\n", "CERTPOST_DELIVERIES      1 messages\n", "CERTPOST_DEAD_LETTERS    1 messages\n", "has 8 streams and 3 files with keys\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("backup prints %q, want %q in it", text, want)
		}
	}
	o.onlyFor(dir)
	o.certpost("backup", dir).failed(t, exitUsage, "certpost: "+dir+" exists already: name a directory that does not\n")
	o.certpost("relays", "resume", o.lane()).done(t) // after the backup: it does not know that this mail is sent
	o.mailTo("nobody@demo.example", 1)

	n := o.another()
	if text := n.certpost("restore", dir).done(t); !strings.Contains(text, "CERTPOST_DELIVERIES      1 messages\n") || !strings.Contains(text, "X-Certpost-Possible-Duplicate") {
		t.Errorf("restore prints %q", text)
	}
	again := n.certpost("restore", dir)
	if again.code != exitUsage || !strings.Contains(again.stderr, "restore into an empty data_dir") {
		t.Errorf("restoring twice: exit %d, %q", again.code, again.stderr)
	}
	n.open("", n.target("ops", "to: [ops@demo.example]")+n.target("prod", "to: [prod@demo.example]")+n.target("nobody", "to: [nobody@demo.example]"))
	if n.certpost("relays", "list").done(t); len(n.relay.Mails()) != 2 {
		t.Errorf("%d mails were sent although the lane was suspended in the backup", len(n.relay.Mails()))
	}
	n.certpost("relays", "resume", n.lane()).done(t)
	if second := n.mailTo("nobody@demo.example", 2); !strings.Contains(string(second.Raw), "\nX-Certpost-Possible-Duplicate: ") {
		t.Errorf("a mail that was sent after the backup goes out again unmarked:\n%.600s", second.Raw)
	}
	n.settled()
	if first := n.mailTo("ops@demo.example", 1); len(n.relay.Mails()) != 3 || strings.Contains(string(first.Raw), "X-Certpost-Possible-Duplicate") {
		t.Errorf("%d mails, want one to ops and two to nobody", len(n.relay.Mails()))
	}
	if letters := n.letters(); len(letters) != 1 || letters[0].Event != "dead-before" {
		t.Errorf("letters after the restore: %v", letters)
	}
	if text := n.certpost("audit", "verify").done(t); !strings.Contains(text, "The audit is as it was written.") {
		t.Errorf("audit verify: %s", text)
	}
	n.publish("new", "ops")
	if fresh := n.mailTo("ops@demo.example", 2); strings.Contains(string(fresh.Raw), "X-Certpost-Possible-Duplicate") {
		t.Error("a mail of an event published after the restore is marked as a possible duplicate")
	}
}

// onlyFor requires that only their owner can read a directory's files.
func (o *fixture) onlyFor(dir string) {
	o.t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			o.t.Errorf("%s has the mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		o.t.Error(err)
	}
}

// TestBackupsThatCannotBeUsed: a restore refuses what is not what the backup wrote, and changes
// nothing then.
func TestBackupsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	o.publish("sent", "ops")
	o.settled()
	dir := o.path("backup")
	o.certpost("backup", "--no-keys", dir).done(t)
	if _, err := os.Stat(filepath.Join(dir, "keys")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("--no-keys: %v", err)
	}
	ledger := filepath.Join(dir, "streams", "KV_CERTPOST_LEDGER", "stream.tar.s2")
	whole, err := os.ReadFile(ledger)
	if err != nil {
		t.Fatal(err)
	}
	content := filepath.Join(dir, "backup.json")
	list, err := os.ReadFile(content)
	if err != nil {
		t.Fatal(err)
	}
	damaged := append([]byte(nil), whole...)
	damaged[len(damaged)/2] ^= 1
	for name, c := range map[string]struct {
		path string
		text []byte
		want string
	}{
		"a changed byte":    {ledger, damaged, "is not what the backup wrote"},
		"a part":            {ledger, whole[:len(whole)/2], "is not what the backup wrote"},
		"unfinished":        {content, nil, "cannot be read as the content of a backup"},
		"a newer format":    {content, []byte(strings.Replace(string(list), `"format": 1`, `"format": 2`, 1)), "newer format"},
		"keys elsewhere":    {content, []byte(strings.Replace(string(list), `"keys": null`, `"keys": [{"file": "../../x"}]`, 1)), "names a key that no backup has"},
		"an unknown layout": {filepath.Join(dir, "streams", "CERTPOST_EVENTS", "backup.json"), nil, "certpost.layout"},
	} {
		before, err := os.ReadFile(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if name == "an unknown layout" {
			c.text = []byte(strings.Replace(string(before), `"certpost.layout": "1"`, `"certpost.layout": "99"`, 1))
			if c.want = "is not what the backup wrote"; string(c.text) == string(before) {
				t.Fatal("the settings of the stream have no layout")
			}
		}
		if err := os.WriteFile(c.path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		n := o.another()
		if got := n.certpost("restore", dir); got.code == exitDone || !strings.Contains(got.stderr, c.want) {
			t.Errorf("%s: exit %d, %q, want %q in it", name, got.code, got.stderr, c.want)
		}
		if err := os.WriteFile(c.path, before, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	incomplete := strings.Replace(string(list), `"stream": "KV_CERTPOST_LEDGER"`, `"stream": "../KV_CERTPOST_LEDGER"`, 1)
	if err := os.WriteFile(content, []byte(incomplete), 0o600); err != nil {
		t.Fatal(err)
	}
	n := o.another()
	if got := n.certpost("restore", dir); got.code == exitDone || !strings.Contains(got.stderr, "it is not complete") {
		t.Errorf("without the ledger: exit %d, %q", got.code, got.stderr)
	}
	// A forged backup: its keys are links to files of this machine.
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(o.path("password"), filepath.Join(dir, "keys", "audit.key")); err != nil {
		t.Fatal(err)
	}
	linked := strings.Replace(string(list), `"keys": null`, `"keys": [{"file": "audit.key"}]`, 1)
	if err := os.WriteFile(content, []byte(linked), 0o600); err != nil {
		t.Fatal(err)
	}
	n = o.another()
	if got := n.certpost("restore", dir); got.code != exitUsage || !strings.Contains(got.stderr, "is not a file with keys") {
		t.Errorf("a key that is a link: exit %d, %q", got.code, got.stderr)
	}
	if err := os.WriteFile(content, list, 0o600); err != nil {
		t.Fatal(err)
	}
	full := o.certpost("restore", dir) // the program holds the store, and must be able to start again
	if full.code != exitUsage || !strings.Contains(full.stderr, "restore into an empty data_dir") {
		t.Errorf("a restore into the store of a running program: %+v", full)
	}
	if _, err := os.Stat(o.path("data/restore.unfinished")); err == nil {
		t.Error("the store of a running program is marked as unfinished")
	}
}

// TestNewerLayouts: an older version does not touch what a newer one has written.
//
// Fault: an older version is started on streams of a newer layout. Result: it ends, says which version is needed, and changes nothing.
func TestNewerLayouts(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	stream, err := o.service.broker.JetStream().Stream(t.Context(), broker.DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	if cfg.Metadata["certpost.layout"] != "1" {
		t.Fatalf("the stream's metadata is %v", cfg.Metadata)
	}
	cfg.Metadata["certpost.layout"] = "2"
	if _, err := o.service.broker.JetStream().UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := o.service.broker.EnsureTopology(t.Context()); !errors.Is(err, broker.ErrNewerLayout) || !strings.Contains(err.Error(), "CERTPOST_DELIVERIES") {
		t.Errorf("EnsureTopology: %v", err)
	}
}
