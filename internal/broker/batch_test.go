package broker

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// PublishAll stores each message once and in order, whether batched or not and
// however often it is called.
func TestPublishAllStoresEachOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		sync    string
		n       int
		batched int // of the messages
	}{
		{"always", 1, 0},
		{"always", batchFrom - 1, 0},
		{"always", batchFrom, batchFrom},
		{"always", 2*maxBatch + 3, 2 * maxBatch},
		{"2m", 2*maxBatch + 3, 0},
	} {
		t.Run(fmt.Sprintf("sync=%s/n=%d", test.sync, test.n), func(t *testing.T) {
			t.Parallel()
			b, err := Open(Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: test.sync}, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if err := b.EnsureTopology(t.Context()); err != nil {
				t.Fatal(err)
			}
			duplicates := 0
			publish := func(n int) {
				t.Helper()
				var msgs []*nats.Msg
				for i := range n {
					m := nats.NewMsg(DeliveryPrefix + "lane.target")
					m.Data = fmt.Append(nil, i)
					m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("event/%d", i))
					msgs = append(msgs, m)
				}
				stored, err := b.PublishAll(t.Context(), msgs, func(_ context.Context, _ *nats.Msg, sequence uint64) (uint64, error) {
					duplicates++
					return sequence, nil
				})
				if err != nil {
					t.Fatal(err)
				}
				for i, sequence := range stored {
					if sequence != uint64(i+1) {
						t.Errorf("message %d is said to have sequence %d", i, sequence)
					}
				}
				if len(stored) != n {
					t.Errorf("%d sequences of %d messages", len(stored), n)
				}
			}
			publish(test.n)
			publish(test.n + 1) // as after a lost acknowledgement
			if duplicates != test.n {
				t.Errorf("%d duplicates among %d known messages", duplicates, test.n)
			}
			stream, err := b.js.Stream(t.Context(), DeliveriesStream)
			if err != nil {
				t.Fatal(err)
			}
			batched := 0
			for i := range test.n + 1 {
				m, err := stream.GetMsg(t.Context(), uint64(i+1))
				if err != nil || string(m.Data) != fmt.Sprint(i) {
					t.Fatalf("message %d: %v", i, err)
				}
				if m.Header.Get(headerBatchID) != "" {
					batched++
				}
			}
			if msgs := stream.CachedInfo().State.Msgs; msgs != uint64(test.n+1) || batched != test.batched {
				t.Errorf("%d messages, %d of them in batches; want %d and %d", msgs, batched, test.n+1, test.batched)
			}
		})
	}
}
