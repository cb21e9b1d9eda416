package queue

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// neverDelivers is a courier that resolves events and never delivers.
type neverDelivers struct{ *fakeCourier }

func (neverDelivers) Deliver(ctx context.Context, _ *events.Event, _ verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
	<-ctx.Done()
	return nil, fail(verdict.SMTPTransient, verdict.PhaseConnect)
}

// BenchmarkFanout turns events in the stream into deliveries. One operation is one event.
func BenchmarkFanout(b *testing.B) {
	for _, sync := range []string{"always", "2m"} {
		for _, targets := range []int{1, 10, 100} {
			b.Run(fmt.Sprintf("sync=%s/targets=%d", sync, targets), func(b *testing.B) {
				benchmarkFanout(b, sync, targets)
			})
		}
	}
}

func benchmarkFanout(b *testing.B, sync string, targets int) {
	br, err := broker.Open(broker.Config{DataDir: b.TempDir(), Listen: "none", SyncInterval: sync}, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(br.Close)
	if err := br.EnsureTopology(b.Context()); err != nil {
		b.Fatal(err)
	}
	var ids []string
	for i := range targets {
		ids = append(ids, fmt.Sprintf("target-%d", i))
	}
	for i := range b.N {
		m := nats.NewMsg(broker.EventSubject)
		m.Data = event(fmt.Sprintf("event-%d", i), ids...).Encode()
		if err := br.Conn().PublishMsg(m); err != nil {
			b.Fatal(err)
		}
	}
	waitBacklog(b, br, func(l broker.Backlog) bool { return l.Events == uint64(b.N) })
	set := quick()
	set.Grace = 0
	runner := NewRunner(br, neverDelivers{newFakeCourier(ids...)}, set, newTestMetrics())
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	b.ResetTimer()
	go func() { done <- runner.Run(ctx) }()
	waitBacklog(b, br, func(l broker.Backlog) bool { return l.Events == 0 && l.Deliveries == uint64(b.N*targets) })
	b.StopTimer()
	b.ReportMetric(float64(b.N*targets)/b.Elapsed().Seconds(), "deliveries/s")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

func waitBacklog(b *testing.B, br *broker.Broker, is func(broker.Backlog) bool) {
	b.Helper()
	var last broker.Backlog
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		var err error
		if last, err = br.Backlog(b.Context()); err == nil && is(last) {
			return
		}
	}
	b.Fatalf("the streams still hold %+v", last)
}
