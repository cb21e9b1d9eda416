package broker

import (
	"context"
	"testing"
)

// BenchmarkReadLetters reads 100,000 letters with their bodies, and asks which are open
// after every second one of a part was removed.
func BenchmarkReadLetters(b *testing.B) {
	const n = 100_000
	broker, ctx := newTestBroker(b), context.Background()
	publishLetters(b, broker, n)
	b.Run("100k with bodies", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			read, size := 0, 0
			for d, err := range broker.ReadLetters(ctx, 1) {
				if err != nil {
					b.Fatal(err)
				}
				read++
				size += len(d.Body)
			}
			if read != n {
				b.Fatalf("%d letters", read)
			}
			b.ReportMetric(float64(size)/1e6, "MB")
		}
	})
	stream, err := broker.js.Stream(ctx, DeadLettersStream)
	if err != nil {
		b.Fatal(err)
	}
	removed := uint64(0)
	for _, gone := range []uint64{100, n / 2} {
		for ; removed < gone; removed++ {
			if err := stream.DeleteMsg(ctx, 2*removed+2); err != nil {
				b.Fatal(err)
			}
		}
		b.Run("which are open", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				open, err := broker.OpenLetters(ctx)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(open.gone)), "removed")
			}
		})
	}
}
