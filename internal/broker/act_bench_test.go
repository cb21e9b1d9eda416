package broker

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/rs/zerolog"
)

// BenchmarkReplay replays letters one after the other, and by 16 workers at the same
// time, with every write flushed to disk and without.
func BenchmarkReplay(b *testing.B) {
	for _, sync := range []string{syncAlways, "2m"} {
		for _, workers := range []int{1, 16} {
			b.Run(fmt.Sprintf("sync=%s/workers=%d", sync, workers), func(b *testing.B) { benchmarkReplay(b, sync, workers) })
		}
	}
}

func benchmarkReplay(b *testing.B, interval string, workers int) {
	broker, err := Open(Config{DataDir: b.TempDir(), Listen: "none", SyncInterval: interval}, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(broker.Close)
	ctx := context.Background()
	if err := broker.EnsureTopology(ctx); err != nil {
		b.Fatal(err)
	}
	publishLetters(b, broker, b.N)
	letters := make(chan DeadLetter)
	var wg sync.WaitGroup
	b.ResetTimer()
	for range workers {
		wg.Go(func() {
			for d := range letters {
				if err := broker.Replay(ctx, d, operator, Replay{Run: "r1"}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for d, err := range broker.ReadLetters(ctx, 1) {
		if err != nil {
			b.Fatal(err)
		}
		letters <- d
	}
	close(letters)
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "replays/s")
}
