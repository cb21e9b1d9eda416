package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

// TestRightsOfBackups: with NATS elsewhere, these permissions are enough for a backup and a
// restore. They stand in docs/upgrading.md. A backup has the outcomes, if there are any, and is restored also
// by a process without them.
func TestRightsOfBackups(t *testing.T) {
	t.Parallel()
	const backup = `"$JS.API.STREAM.INFO.*", "$JS.API.STREAM.SNAPSHOT.*", "$JS.SNAPSHOT.ACK.>"`
	const restore = `"$JS.API.STREAM.INFO.*", "$JS.API.STREAM.RESTORE.*", "$JS.API.STREAM.UPDATE.*", "$JS.SNAPSHOT.RESTORE.>"`
	page, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "upgrading.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []string{backup, restore} {
		if !strings.Contains(string(page), list) {
			t.Errorf("docs/upgrading.md lacks the permissions %s", list)
		}
	}
	config := fmt.Sprintf(`accounts: {CERTPOST: {jetstream: enabled, users: [
	{user: certpost, password: certpost-password}
	{user: backup, password: backup-password, permissions: {publish: [%s], subscribe: ["_INBOX.>"]}}
	{user: restore, password: restore-password, permissions: {publish: [%s], subscribe: ["_INBOX.>"]}}
]}}
`, backup, restore)
	limits := OutcomeLimits{MaxAge: time.Hour, MaxBytes: 32 << 20}
	as := func(url, user string) *Broker {
		t.Helper()
		b, err := Dial(t.Context(), Config{URL: url, User: user, Password: func() ([]byte, error) { return []byte(user + "-password"), nil }, Replicas: 1, Outcomes: limits}, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		return b
	}
	from, to := lab.NATS(t, "127.0.0.1:-1", config), lab.NATS(t, "127.0.0.1:-1", config)
	if err := as(from.ClientURL(), "certpost").EnsureTopology(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var streams []BackedUp
	limits = OutcomeLimits{} // as in the configuration of a client, which has no section outcomes
	if err := as(from.ClientURL(), "backup").BackUp(t.Context(), dir, func(s BackedUp) { streams = append(streams, s) }); err != nil {
		t.Fatal(err)
	}
	if last := streams[len(streams)-1]; len(streams) != 9 || last.Stream != "KV_"+LedgerBucket || streams[0].Stream != OutcomesStream {
		t.Errorf("%d streams, the last one is %s, want 9 with the outcomes first and the ledger last", len(streams), last.Stream)
	}
	restorer := as(to.ClientURL(), "restore")
	if names, err := restorer.Existing(t.Context()); err != nil || len(names) != 0 {
		t.Fatalf("an empty account has %v, %v", names, err)
	}
	if err := restorer.RestoreBackup(t.Context(), dir, streams, func(BackedUp) {}); err != nil {
		t.Fatal(err)
	}
	if names, err := restorer.Existing(t.Context()); err != nil || len(names) != 9 {
		t.Errorf("after the restore: %v, %v", names, err)
	}
	limits = OutcomeLimits{MaxAge: time.Hour, MaxBytes: 32 << 20}
	again := as(to.ClientURL(), "certpost")
	if err := again.EnsureTopology(t.Context()); err != nil {
		t.Error(err)
	}
	if end, err := again.OutcomesEnd(t.Context()); err != nil || end.Sequence != streams[0].Last {
		t.Errorf("the outcomes end at %d (%v), and in the backup at %d", end.Sequence, err, streams[0].Last)
	}
}
