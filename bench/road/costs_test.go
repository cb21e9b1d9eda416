package road

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/lab"
)

// countedMails is the number of mails whose costs are counted.
const countedMails = 300

// costs are what a mail costs on its whole road, from its publication to its settlement. They
// are counts: unlike times they are nearly the same on every machine.
type costs struct {
	requests    float64 // messages from Certpost to NATS; a batch is as many as it has messages
	stored      float64 // messages stored in streams
	allocations float64 // of the process, with NATS and relay in it
	kilobytes   float64 // allocated
}

// TestCostsOfAMail fails when a mail costs more than it did. If it costs less, lower
// the limits.
func TestCostsOfAMail(t *testing.T) {
	for sync, most := range map[string]costs{
		"2m":     {requests: 8, stored: 4.6, allocations: 1600, kilobytes: 195},
		"always": {requests: 8, stored: 4.6, allocations: 1600, kilobytes: 200},
	} {
		got := countCosts(t, sync)
		t.Logf("%s: %.1f requests, %.1f messages stored, %.0f allocations, %.0f kB", sync, got.requests, got.stored, got.allocations, got.kilobytes)
		if got.requests > most.requests || got.stored > most.stored || got.allocations > most.allocations || got.kilobytes > most.kilobytes {
			t.Errorf("%s: a mail costs %+v, at most %+v are allowed", sync, got, most)
		}
		if got.requests < 3 || got.stored < 4 || got.allocations < 100 {
			t.Errorf("%s: counted wrongly: %+v", sync, got)
		}
	}
}

// mostFlushes is the number of flushes to disk that a mail may cost on its whole road, with
// sync_interval: always.
const mostFlushes = 4.5

// TestFlushesOfAMail counts flushes to disk, by the system calls of a process of its own.
func TestFlushesOfAMail(t *testing.T) {
	const child = "ROAD_COUNTED_IN"
	if dir := os.Getenv(child); dir != "" {
		r := openCounted(t, "always")
		mark(t, dir, "begin")
		sendCounted(t, r)
		mark(t, dir, "end")
		return
	}
	dir := t.TempDir()
	log := filepath.Join(dir, "calls")
	cmd := exec.CommandContext(t.Context(), lab.Need(t, "strace"), "-f", "--seccomp-bpf", "-e", "trace=fsync,fdatasync,mkdirat", "-o", log,
		os.Args[0], "-test.run", "^TestFlushesOfAMail$")
	cmd.Env = append(os.Environ(), child+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	calls, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	_, calls, begun := bytes.Cut(calls, []byte(filepath.Join(dir, "begin")))
	calls, _, ended := bytes.Cut(calls, []byte(filepath.Join(dir, "end")))
	flushes := float64(bytes.Count(calls, []byte("sync("))) / countedMails
	t.Logf("%.2f flushes a mail", flushes)
	if !begun || !ended || flushes < 1 || flushes > mostFlushes {
		t.Errorf("%.2f flushes a mail (begun %v, ended %v), at most %v are allowed", flushes, begun, ended, mostFlushes)
	}
}

// mark leaves a mark among the system calls.
func mark(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
		t.Fatal(err)
	}
}

func openCounted(t *testing.T, sync string) *Road {
	t.Helper()
	relay, err := Relay(false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	target, err := Target("bench", relay.Plain())
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), Options{Dir: t.TempDir(), Sync: sync, Concurrency: 64, Targets: []delivery.Target{target}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// sendCounted publishes all mails, and returns when all are delivered and settled.
func sendCounted(t *testing.T, r *Road) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var publishers sync.WaitGroup
	for p := range 50 {
		publishers.Go(func() {
			for i := range countedMails / 50 {
				if err := r.Publish(ctx, strconv.Itoa(p)+"-"+strconv.Itoa(i), "bench"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishers.Wait()
	err := Poll(ctx, time.Minute, func() error { // the relay counts, which costs no requests
		if n := r.Count("bench"); n < countedMails {
			return fmt.Errorf("%d mails of %d", n, countedMails)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = Poll(ctx, time.Minute, func() error {
		b, err := r.broker.Backlog(ctx)
		if err == nil && b.Events+b.Deliveries > 0 {
			err = fmt.Errorf("%d events and %d deliveries wait", b.Events, b.Deliveries)
		}
		return err
	})
	if err != nil || r.Count("bench") != countedMails {
		t.Fatalf("%d mails of %d: %v", r.Count("bench"), countedMails, err)
	}
}

func countCosts(t *testing.T, sync string) costs {
	t.Helper()
	r := openCounted(t, sync)
	var before, after runtime.MemStats
	storedBefore, requests := stored(t, r), r.broker.Conn().Stats().OutMsgs
	runtime.ReadMemStats(&before)
	sendCounted(t, r)
	runtime.ReadMemStats(&after)
	requests = r.broker.Conn().Stats().OutMsgs - requests
	return costs{
		requests: float64(requests) / countedMails, stored: float64(stored(t, r)-storedBefore) / countedMails,
		allocations: float64(after.Mallocs-before.Mallocs) / countedMails,
		kilobytes:   float64(after.TotalAlloc-before.TotalAlloc) / countedMails / 1000,
	}
}

// stored returns how many messages the streams have stored.
func stored(t *testing.T, r *Road) (n uint64) {
	t.Helper()
	for _, name := range []string{broker.EventsStream, broker.DeliveriesStream, broker.ManifestStream, broker.DeadLettersStream, broker.AuditStream, "KV_" + broker.LedgerBucket} {
		stream, err := r.broker.JetStream().Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		n += stream.CachedInfo().State.LastSeq
	}
	return n
}
