package road

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/lab"
)

// The relays for the benchmarks, all on loopback.
var relays = []struct {
	name   string
	target func(*testing.B) delivery.Target
}{
	{"devrelay", submission}, // as in production: STARTTLS and AUTH, connections are reused
	{"devrelay-plain", plain},
	{"smtp-sink", sink}, // Postfix's test relay, in plaintext
}

// BenchmarkBacklog measures throughput: all deliveries are in their stream when the
// clock starts, and it stops at the 250 reply to the last mail.
func BenchmarkBacklog(b *testing.B) {
	each(b, []int{1, 16, 64}, func(b *testing.B, o Options) {
		o.Closed = true
		r := open(b, o)
		inParallel(b, 64, func(i int) error { return r.Publish(b.Context(), strconv.Itoa(i), "bench") })
		if err := r.Stored(b.Context(), b.N); err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		began, work := time.Now(), ProcessorTime()
		r.Begin()
		mails := await(b, r)
		b.StopTimer()
		b.ReportMetric((ProcessorTime()-work).Seconds()*1000/float64(b.N), "cpu-ms/msg")
		b.ReportMetric(float64(b.N)/mails[b.N-1].At.Sub(began).Seconds(), "msg/s")
	})
}

// BenchmarkBusy measures latency from publication to the relay's 250 under full load:
// there are twice as many publishers as concurrent deliveries, so that as many
// deliveries wait as are in progress. Each publisher publishes its next event when the
// relay has accepted the one before.
func BenchmarkBusy(b *testing.B) {
	each(b, []int{1, 16, 64}, func(b *testing.B, o Options) {
		r := open(b, o)
		b.ResetTimer()
		if err := r.Send(b.Context(), 2*o.Concurrency, b.N, "", "bench"); err != nil {
			b.Fatal(err)
		}
		report(b, r)
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	})
}

// BenchmarkGentle measures latency at 50 events a second, published without waiting for
// their delivery.
func BenchmarkGentle(b *testing.B) {
	each(b, []int{16}, func(b *testing.B, o Options) {
		r := open(b, o)
		b.ResetTimer()
		tick := time.NewTicker(time.Second / 50)
		defer tick.Stop()
		var wg sync.WaitGroup
		for i := range b.N {
			<-tick.C
			wg.Go(func() {
				if err := r.Publish(b.Context(), strconv.Itoa(i), "bench"); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		report(b, r)
	})
}

func each(b *testing.B, lanes []int, run func(*testing.B, Options)) {
	for _, relay := range relays {
		for _, sync := range []string{"always", "2m"} {
			for _, n := range lanes {
				b.Run(fmt.Sprintf("relay=%s/sync=%s/lane=%d", relay.name, sync, n), func(b *testing.B) {
					run(b, Options{Sync: sync, Concurrency: n, Targets: []delivery.Target{relay.target(b)}})
				})
			}
		}
	}
}

func open(b *testing.B, o Options) *Road {
	b.Helper()
	o.Dir = b.TempDir()
	r, err := Open(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := r.Close(); err != nil {
			b.Error(err)
		}
	})
	return r
}

// inParallel calls do for 0 to b.N-1, with that many workers.
func inParallel(b *testing.B, workers int, do func(i int) error) {
	var wg sync.WaitGroup
	numbers := make(chan int)
	for range workers {
		wg.Go(func() {
			for i := range numbers {
				if err := do(i); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range b.N {
		numbers <- i
	}
	close(numbers)
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// await waits until the relay has accepted all b.N mails and returns them.
func await(b *testing.B, r *Road) []Taken {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	err := Poll(ctx, patience, func() error {
		if n := r.Count("bench"); n < b.N {
			return fmt.Errorf("%d of %d mails were delivered", n, b.N)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	mails := r.Taken("bench")
	if len(mails) != b.N {
		b.Fatalf("%d mails for %d events", len(mails), b.N)
	}
	return mails
}

func report(b *testing.B, r *Road) {
	b.Helper()
	mails := await(b, r)
	b.StopTimer()
	for _, q := range []float64{0.50, 0.99} {
		b.ReportMetric(float64(Quantile(mails, q).Microseconds())/1000, fmt.Sprintf("p%.0f-ms", 100*q))
	}
}

func submission(b *testing.B) delivery.Target {
	relay, err := Relay(true)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = relay.Close() })
	t, err := SubmissionTarget("bench", relay, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	return t
}

func plain(b *testing.B) delivery.Target {
	relay, err := Relay(false)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = relay.Close() })
	t, err := Target("bench", relay.Plain())
	if err != nil {
		b.Fatal(err)
	}
	return t
}

func sink(b *testing.B) delivery.Target {
	program := lab.Need(b, "smtp-sink")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	cmd := exec.CommandContext(b.Context(), program, address, "128")
	if os.Geteuid() == 0 {
		cmd.Args = []string{program, "-u", "nobody", address, "128"}
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
	defer cancel()
	err = Poll(ctx, patience, func() error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	if err != nil {
		b.Fatalf("smtp-sink does not listen: %v", err)
	}
	t, err := Target("bench", address)
	if err != nil {
		b.Fatal(err)
	}
	return t
}
