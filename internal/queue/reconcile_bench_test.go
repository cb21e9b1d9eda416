package queue

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
)

// BenchmarkCompare is the first comparison of a manifest of which all deliveries are
// settled, per delivery. Later comparisons do not read these again.
func BenchmarkCompare(b *testing.B) {
	br, err := broker.Open(broker.Config{DataDir: b.TempDir(), Listen: "none", SyncInterval: "2m"}, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	defer br.Close()
	ctx := context.Background()
	if err := br.EnsureTopology(ctx); err != nil {
		b.Fatal(err)
	}
	publish := func(msgs []*nats.Msg) {
		if _, err := br.PublishAll(ctx, msgs, func(context.Context, *nats.Msg, uint64) (uint64, error) { return 0, nil }); err != nil {
			b.Fatal(err)
		}
	}
	var entries []*nats.Msg
	var m broker.Manifest
	for i := range b.N {
		token := fmt.Sprintf("e%d", i)
		entry := nats.NewMsg("$KV." + broker.LedgerBucket + "." + broker.LedgerKey("ops", token))
		entry.Data = fmt.Appendf(nil, `{"event":%q,"target":"ops","lane":"relay","digest":"%064d","state":"sent","certificate":{"common_name":"www.example.com"}}`, token, i)
		m.Events = append(m.Events, broker.ManifestEvent{Sequence: uint64(i + 1), Token: token, Time: time.Now(), Deliveries: []broker.ManifestDelivery{{Target: "ops", Lane: "relay", Sequence: uint64(i + 1)}}})
		if entries = append(entries, entry); len(entries) == 1000 || i == b.N-1 {
			publish(entries)
			entries = nil
		}
		if len(m.Events) == fanoutBatch || i == b.N-1 {
			if err := br.WriteManifest(ctx, m); err != nil {
				b.Fatal(err)
			}
			m.Events = nil
		}
	}
	r := NewRunner(br, newFakeCourier("ops"), quick(), newTestMetrics())
	r.reconciler.after = 0
	b.ResetTimer()
	if err := r.reconciler.round(ctx); err != nil {
		b.Fatal(err)
	}
	if len(r.reconciler.open) != 0 {
		b.Fatalf("%d open", len(r.reconciler.open))
	}
}
