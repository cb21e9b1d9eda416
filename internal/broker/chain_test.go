package broker

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

// testRecord returns an audit record; n tells it from others.
func testRecord(n int) AuditRecord {
	return AuditRecord{Action: ActionHeld, Actor: operator, Event: fmt.Sprintf("e%d", n), Target: "ops", LetterNumber: uint64(n)}
}

func requireIntact(t *testing.T, b *Broker, records uint64, anchors ...Anchor) AuditReport {
	t.Helper()
	report, err := b.VerifyAudit(context.Background(), anchors...)
	if err != nil {
		t.Fatal(err)
	}
	if report.Break != nil || report.Records != records {
		t.Fatalf("%d records, want %d; broken: %+v", report.Records, records, report.Break)
	}
	return report
}

func checkBreak(t *testing.T, b *Broker, sequence uint64, kind BreakKind, anchors ...Anchor) {
	t.Helper()
	report, err := b.VerifyAudit(context.Background(), anchors...)
	if err != nil {
		t.Fatal(err)
	}
	if report.Break == nil || report.Break.Sequence != sequence || report.Break.Kind != kind || !strings.Contains(report.Break.What, "record") {
		t.Errorf("break: %+v, want %s at %d", report.Break, kind, sequence)
	}
}

func auditStream(t *testing.T, b *Broker) jetstream.Stream {
	t.Helper()
	s, err := b.js.Stream(context.Background(), AuditStream)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestManyAppendToOneChain(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: t.TempDir(), SyncInterval: "2m", Listen: lab.FreeAddress(t)}
	first, err := Open(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(first.Close)
	ctx := context.Background()
	if err := first.EnsureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	if head, err := first.AuditHead(ctx); err != nil || head != (Anchor{}) {
		t.Errorf("head of an empty audit: %v, %v", head, err)
	}
	second, err := Dial(ctx, clientOf(first), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Close)
	appendConcurrently(t, []*Broker{first, second}, 100)
}

// appendConcurrently appends records through all brokers at the same time and checks that
// none is missing, duplicated or outside the chain.
func appendConcurrently(t *testing.T, brokers []*Broker, each int) {
	t.Helper()
	var wg sync.WaitGroup
	for p, b := range brokers {
		for i := range each {
			wg.Go(func() {
				if err := b.Append(context.Background(), testRecord(1+p*each+i)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	want := len(brokers) * each
	report := requireIntact(t, brokers[0], uint64(want))
	seen := map[uint64]bool{}
	for r, err := range brokers[0].ReadAudit(context.Background(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		seen[r.LetterNumber] = true
		if r.Previous == "" || r.Time.IsZero() || r.Name != "operator" {
			t.Errorf("record %d: %+v", r.Sequence, r)
		}
	}
	if len(seen) != want {
		t.Errorf("%d different records, want %d", len(seen), want)
	}
	head, err := brokers[0].AuditHead(context.Background())
	if err != nil || head != report.Head {
		t.Errorf("head %v, the walk ended at %v, %v", head, report.Head, err)
	}
	if parsed, err := ParseAnchor(head.String()); err != nil || parsed != head {
		t.Errorf("anchor %q read as %v, %v", head, parsed, err)
	}
	requireIntact(t, brokers[0], uint64(want), head)
}

func TestReplicasAppendToOneChain(t *testing.T) {
	t.Parallel()
	c := lab.NewNATSCluster(t)
	var brokers []*Broker
	for range c.URLs {
		b, err := Open(Config{URL: strings.Join(c.URLs, ","), Replicas: 3}, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		brokers = append(brokers, b)
	}
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err = brokers[0].EnsureTopology(ctx)
		cancel()
		if err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	appendConcurrently(t, brokers, 60)
	// Only one of three brokers gets the letter's claim.
	var wg sync.WaitGroup
	var mu sync.Mutex
	got, second := 0, 0
	for _, b := range brokers {
		wg.Go(func() {
			err := b.Begin(context.Background(), AuditRecord{Action: ActionReplayed, Actor: operator, Event: "claimed", Target: "ops", LetterNumber: 7})
			mu.Lock()
			defer mu.Unlock()
			switch taken, ok := err.(*Taken); {
			case err == nil:
				got++
			case ok && taken.Record.LetterNumber == 7:
				second++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got != 1 || second != 2 {
		t.Errorf("%d have the claim, %d were refused", got, second)
	}

	// The stream's leader dies while they write: what was acknowledged is stored, and
	// the chain is intact.
	acknowledged := map[uint64]bool{}
	stop := make(chan struct{})
	for p, b := range brokers {
		wg.Go(func() {
			for n := uint64(1000 * (p + 1)); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if b.Append(context.Background(), testRecord(int(n))) == nil {
					mu.Lock()
					acknowledged[n] = true
					mu.Unlock()
				}
			}
		})
	}
	c.KillLeader(brokers[0].js, AuditStream)
	written := func() int { mu.Lock(); defer mu.Unlock(); return len(acknowledged) }
	for before, end := written(), time.Now().Add(time.Minute); written() < before+100 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	report, err := brokers[0].VerifyAudit(context.Background())
	if err != nil || report.Break != nil {
		t.Fatalf("%+v, %v", report.Break, err)
	}
	for r, err := range brokers[0].ReadAudit(context.Background(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		delete(acknowledged, r.LetterNumber)
	}
	if len(acknowledged) > 0 {
		t.Errorf("acknowledged but not stored: %v", acknowledged)
	}
	t.Logf("%d records", report.Records)
}

// An audit stream of an earlier version gets the settings that the chain needs.
func TestAnOldAuditStreamIsUpdated(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	if err := b.Append(ctx, testRecord(1)); err != nil {
		t.Fatal(err)
	}
	old := auditStream(t, b).CachedInfo().Config
	old.AllowAtomicPublish = false
	if _, err := b.js.UpdateStream(ctx, old); err != nil {
		t.Fatal(err)
	}
	// Until it is updated, many records are appended one by one.
	records := make([]AuditRecord, 2*batchFrom)
	for i := range records {
		records[i] = testRecord(i + 2)
	}
	if err := b.Append(ctx, records...); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	if !auditStream(t, b).CachedInfo().Config.AllowAtomicPublish {
		t.Error("not updated")
	}
	if err := b.Append(ctx, records...); err != nil {
		t.Fatal(err)
	}
	requireIntact(t, b, uint64(1+2*len(records)))
}

func TestAppendingWithoutItsStream(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	if err := b.js.DeleteStream(ctx, AuditStream); err != nil {
		t.Fatal(err)
	}
	if err := b.Append(ctx, testRecord(1)); err == nil || !strings.Contains(err.Error(), AuditStream) {
		t.Errorf("without a stream: %v", err)
	}
	if err := b.EnsureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Append(ctx, testRecord(1)); err != nil {
		t.Errorf("with the stream back: %v", err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Append(over, testRecord(2)); err == nil {
		requireIntact(t, b, 2) // it was already being appended
	}
}
