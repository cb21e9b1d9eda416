package queue

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/verdict"
)

// What waits lies on disk: a backlog of many times the bound, on a relay that
// answers nothing, does not show on the heap, the embedded server included.
// Other tests may not use the heap meanwhile: this one is not parallel.
func TestBacklogIsNotHeldInMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("20,000 deliveries take a while")
	}
	const (
		targets, waiting = 100, 20_000
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
	t.Cleanup(func() { close(answer) }) // before the end of the runner, which waits for what is under way

	size := 0
	queue := func(from, to int) {
		t.Helper()
		for i := from; i < to; i += targets {
			ev := event(fmt.Sprintf("e%d", i), ids...)
			ev.Certificate.PEM = strings.Repeat(ev.Certificate.PEM, 16)
			size = len(ev.Encode())
			b.publish(ev)
		}
		b.until(fmt.Sprintf("%d deliveries waiting", to), func() bool {
			backlog, err := b.broker.Backlog(t.Context())
			return err == nil && backlog.Events == 0 && backlog.Deliveries == uint64(to)
		})
	}
	queue(0, 1000) // what one has to hold once: workers, buffers, caches
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

// heap is what is in use after all garbage was collected, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC() // the first one leaves what finalizers and pools held
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
