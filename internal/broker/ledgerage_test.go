package broker

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// A configured age of the ledger holds for a stream that exists, too, whether it is shorter
// or longer; without one an administrator may raise it, and not lower it.
func TestLedgerAge(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const day = 24 * time.Hour
	for _, c := range []struct{ configured, changed, want time.Duration }{
		{0, 0, 400 * day},
		{60 * day, 0, 60 * day},
		{90 * day, 0, 90 * day},
		{90 * day, 50 * day, 90 * day},
		{0, 50 * day, 400 * day},
		{0, 500 * day, 500 * day},
	} {
		b, err := Open(Config{DataDir: dir, Listen: "none", SyncInterval: "2m", LedgerAge: c.configured}, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		age := func() time.Duration {
			if err := b.EnsureTopology(t.Context()); err != nil {
				t.Fatal(err)
			}
			return streamConfig(t.Context(), t, b, "KV_"+LedgerBucket).MaxAge
		}
		got := age()
		if c.changed != 0 {
			config := streamConfig(t.Context(), t, b, "KV_"+LedgerBucket)
			config.MaxAge = c.changed
			if _, err := b.js.UpdateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			got = age()
		}
		if got != c.want {
			t.Errorf("configured %v, changed to %v: %v, want %v", c.configured, c.changed, got, c.want)
		}
		if kept := streamConfig(t.Context(), t, b, EventsStream).MaxAge; kept != eventsAge || kept >= MinLedgerAge {
			t.Errorf("events are kept for %v, the ledger for %v at least", kept, MinLedgerAge)
		}
		b.Close()
	}
}

func streamConfig(ctx context.Context, t *testing.T, b *Broker, name string) jetstream.StreamConfig {
	t.Helper()
	s, err := b.js.Stream(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}
