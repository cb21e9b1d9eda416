package queue

import (
	"context"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// TestLettersOfEventsInOneGroup resolves events of one group: one becomes a dead letter, and
// its second publication, of which the letter has to be removed, comes right after it.
func TestLettersOfEventsInOneGroup(t *testing.T) {
	t.Parallel()
	b := &fixture{t: t, fake: newFakeCourier("a"), set: quick(), cfg: broker.Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}}
	b.open()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.broker.EnsureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	b.publish(event("e0", "a"))
	b.publish(event("e1", "unknown"))
	b.publish(event("e2", "unknown"))
	b.publish(event("e1", "a"))
	b.publish(event("e3", "a"))
	b.run()
	t.Cleanup(b.close)
	b.settled()
	letters := b.letters()
	if len(letters) != 1 || letters[0].Event != "e2" {
		t.Errorf("%d letters are open, want only that of e2: %+v", len(letters), letters)
	}
	for _, e := range []string{"e0", "e1", "e3"} {
		if n := len(b.fake.mails(e)); n != 1 {
			t.Errorf("%d mails for %s", n, e)
		}
	}
}
