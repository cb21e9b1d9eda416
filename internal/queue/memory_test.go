package queue

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/verdict"
)

// Waiting deliveries are stored on disk: a backlog of many times the bound, for a relay
// that does not answer, does not grow the heap, the embedded server included. Other tests
// must not use the heap meanwhile, so this one is not parallel.
//
// Fault: little memory. Result: waiting deliveries are on disk.
// Fault: is slow, with very many deliveries waiting. Result: limited memory.
func TestBacklogIsNotHeldInMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("160 MB of deliveries take long")
	}
	const (
		targets, waiting = 100, 7000
		bound            = 48 << 20 // bytes, of which the server's caches are most
	)
	var ids []string
	for i := range targets {
		ids = append(ids, fmt.Sprintf("t%d", i))
	}
	fake := newFakeCourier(ids...)
	answer := make(chan struct{})
	for _, id := range ids {
		fake.plan(id, func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
			<-answer
			return nil, nil
		})
	}
	b := start(t, fake, nil)
	t.Cleanup(func() { close(answer) }) // before the runner stops: it waits for the deliveries in work

	labels := map[string]string{} // large events: few of them are a large backlog
	for i := range 64 {
		labels[fmt.Sprintf("label%d", i)] = strings.Repeat("x", 256)
	}
	size := 0
	queue := func(from, to int) {
		t.Helper()
		for i := from; i < to; i += targets {
			ev := event(fmt.Sprintf("e%d", i), ids...)
			ev.Certificate.PEM = strings.Repeat(ev.Certificate.PEM, 16)
			ev.Labels = labels
			size = len(ev.Encode())
			b.publish(ev)
		}
		b.until(fmt.Sprintf("%d deliveries waiting", to), func() bool {
			backlog, err := b.broker.Backlog(t.Context())
			return err == nil && backlog.Events == 0 && backlog.Deliveries == uint64(to)
		})
	}
	queue(0, 1000) // what is held in any case: workers, buffers, caches
	before := heap()
	queue(1000, waiting)
	grown := heap() - before
	if backlog := (waiting - 1000) * size; backlog < 3*bound {
		t.Fatalf("the backlog has grown by %d bytes: too little to tell whether it is held in memory", backlog)
	}
	t.Logf("%d deliveries of %d bytes; the heap has grown by %d KiB", waiting, size, grown>>10)
	if grown > bound {
		t.Errorf("the heap has grown by %d MiB, want at most %d", grown>>20, bound>>20)
	}
}

// heap returns the bytes in use after a garbage collection.
func heap() int64 {
	runtime.GC()
	runtime.GC() // the first one leaves objects of finalizers and pools
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
