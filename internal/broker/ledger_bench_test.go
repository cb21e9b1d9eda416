package broker

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/verdict"
	"github.com/rs/zerolog"
)

// BenchmarkLedger measures the ledger's cost per mail: one entry created with the
// claim and updated with the relay's reply, by several numbers of writers.
// One operation is such a pair.
func BenchmarkLedger(b *testing.B) {
	for _, sync := range []string{"always", "2m"} {
		for _, writers := range []int{1, 4, 16, 64} {
			b.Run(fmt.Sprintf("sync=%s/writers=%d", sync, writers), func(b *testing.B) {
				benchmarkLedger(b, sync, writers)
			})
		}
	}
}

func benchmarkLedger(b *testing.B, sync string, writers int) {
	l := openBenchLedger(b, sync)
	share := make(chan int)
	var wg workers
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for i := range share {
				if err := claimAndSend(b.Context(), l, fmt.Sprintf("target.%d-%d", b.N, i)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range b.N {
		share <- i
	}
	close(share)
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pairs/s")
}

type workers = sync.WaitGroup

func openBenchLedger(b *testing.B, sync string) Ledger {
	br, err := Open(Config{DataDir: b.TempDir(), Listen: "none", SyncInterval: sync}, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(br.Close)
	if err := br.EnsureTopology(b.Context()); err != nil {
		b.Fatal(err)
	}
	l, err := br.OpenLedger(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// claimAndSend writes the entries of a delivery that succeeds at the first attempt.
func claimAndSend(ctx context.Context, l Ledger, key string) error {
	now := time.Now()
	e := Entry{
		Event: "01JD0000000000000000000000", Target: "target", Lane: "smtp-example-com-587", Digest: fmt.Sprintf("%064d", 0), Sequence: 1 << 20,
		Generation: 1, Attempts: 1, First: now, Last: now, State: StateSending, Owner: "host/4711/ABCDEFGHIJKLMNOPQRSTUV", Lease: now.Add(40 * time.Second),
	}
	rev, err := l.Put(ctx, key, e, 0)
	if err != nil {
		return err
	}
	e.State, e.Owner, e.Lease = StateSent, "", time.Time{}
	e.Accepted = []string{"certificates@example.com"}
	e.Receipt = &verdict.Receipt{
		Relay: "smtp.example.com:587", ReplyCode: 250, Reply: "2.0.0 Ok: queued as 4XYZ123456", QueueID: "4XYZ123456", Size: 8 << 10,
		MessageID: fmt.Sprintf("%064d@example.com", 0), TLS: "TLS 1.3 TLS_AES_128_GCM_SHA256", Recipients: e.Accepted,
		Certificate: &verdict.Certificate{CommonName: "www.example.com", DNSNames: []string{"www.example.com"}, Issuer: "CN=R11,O=Let's Encrypt,C=US", Serial: fmt.Sprintf("%036d", 0), Fingerprint: fmt.Sprintf("%064d", 0), NotBefore: now, NotAfter: now},
	}
	_, err = l.Put(ctx, key, e, rev)
	return err
}
