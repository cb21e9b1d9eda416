package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/lab"
)

// noted is some record; n tells it from others.
func noted(n int) AuditRecord {
	return AuditRecord{Action: ActionHeld, Actor: tester, Event: fmt.Sprintf("e%d", n), Target: "ops", LetterNumber: uint64(n)}
}

func holds(t *testing.T, b *Broker, records uint64, anchors ...Anchor) AuditReport {
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

func breaksAt(t *testing.T, b *Broker, sequence uint64, kind BreakKind, anchors ...Anchor) {
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
	first, err := Open(cfg, nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(first.Close)
	ctx := context.Background()
	if err := first.ensureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	if head, err := first.AuditHead(ctx); err != nil || head != (Anchor{}) {
		t.Errorf("head of an empty audit: %v, %v", head, err)
	}
	second, err := Dial(ctx, Config{URL: first.URL()}, nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Close)
	appendFromAll(t, []*Broker{first, second}, 100)
}

// appendFromAll lets many write to the chain at the same time through each broker,
// and checks that nothing is missing, doubled or out of the chain.
func appendFromAll(t *testing.T, brokers []*Broker, each int) {
	t.Helper()
	var wg sync.WaitGroup
	for p, b := range brokers {
		for i := range each {
			wg.Go(func() {
				if err := b.Append(context.Background(), noted(1+p*each+i)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	want := len(brokers) * each
	report := holds(t, brokers[0], uint64(want))
	seen := map[uint64]bool{}
	for r, err := range brokers[0].ReadAudit(context.Background(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		seen[r.LetterNumber] = true
		if r.Previous == "" || r.Time.IsZero() || r.Name != "tester" {
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
	holds(t, brokers[0], uint64(want), head)
}

func TestReplicasAppendToOneChain(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var brokers []*Broker
	for range c.urls {
		b, err := Open(Config{URL: strings.Join(c.urls, ","), Replicas: 3}, nop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		brokers = append(brokers, b)
	}
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err = brokers[0].ensureTopology(ctx)
		cancel()
		if err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	appendFromAll(t, brokers, 60)
	// The letter's claim goes to one of three.
	var wg sync.WaitGroup
	var mu sync.Mutex
	got, second := 0, 0
	for _, b := range brokers {
		wg.Go(func() {
			err := b.Begin(context.Background(), AuditRecord{Action: ActionReplayed, Actor: tester, Event: "claimed", Target: "ops", LetterNumber: 7})
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
		t.Errorf("%d have the claim, %d came second", got, second)
	}

	// The stream's leader dies while they write: what was acknowledged is there, and
	// the chain holds.
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
				if b.Append(context.Background(), noted(int(n))) == nil {
					mu.Lock()
					acknowledged[n] = true
					mu.Unlock()
				}
			}
		})
	}
	c.killLeader(brokers[0], AuditStream)
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
		t.Errorf("acknowledged and not there: %v", acknowledged)
	}
	t.Logf("%d records", report.Records)
}

func TestTamperingWithTheAuditIsNamed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	filled := func(t *testing.T) (*Broker, Anchor) {
		t.Parallel()
		b := quiet(t)
		for i := range 10 {
			if err := b.Append(ctx, noted(i+1)); err != nil {
				t.Fatal(err)
			}
		}
		return b, holds(t, b, 10).Head
	}
	t.Run("a record is removed", func(t *testing.T) {
		b, _ := filled(t)
		if err := auditStream(t, b).SecureDeleteMsg(ctx, 5); err != nil {
			t.Fatal(err)
		}
		breaksAt(t, b, 5, BreakRemoved)
	})
	t.Run("the last ones are removed", func(t *testing.T) {
		b, head := filled(t)
		for seq := uint64(9); seq <= 10; seq++ {
			if err := auditStream(t, b).DeleteMsg(ctx, seq); err != nil {
				t.Fatal(err)
			}
		}
		breaksAt(t, b, 9, BreakTruncated)
		breaksAt(t, b, 9, BreakTruncated, head)
		// What is recorded from now on does not hide it.
		b.chain.head = nil // as another process
		if err := b.Append(ctx, noted(11)); err != nil {
			t.Fatal(err)
		}
		breaksAt(t, b, 9, BreakRemoved)
	})
	t.Run("the first ones are removed", func(t *testing.T) {
		b, _ := filled(t)
		if err := auditStream(t, b).Purge(ctx, jetstream.WithPurgeSequence(4)); err != nil {
			t.Fatal(err)
		}
		breaksAt(t, b, 1, BreakTruncated)
	})
	t.Run("all are removed", func(t *testing.T) {
		b, _ := filled(t)
		if err := auditStream(t, b).Purge(ctx); err != nil {
			t.Fatal(err)
		}
		breaksAt(t, b, 1, BreakTruncated)
	})
	t.Run("a record is replaced by another wording", func(t *testing.T) {
		b, _ := filled(t)
		raw, err := auditStream(t, b).GetMsg(ctx, 5)
		if err != nil {
			t.Fatal(err)
		}
		if err := auditStream(t, b).SecureDeleteMsg(ctx, 5); err != nil {
			t.Fatal(err)
		}
		if _, err := b.js.Publish(ctx, raw.Subject, []byte(strings.Replace(string(raw.Data), "tester", "nobody", 1))); err != nil {
			t.Fatal(err)
		}
		breaksAt(t, b, 5, BreakRemoved)
	})
	t.Run("records are put in by somebody else", func(t *testing.T) {
		b, _ := filled(t)
		forged, err := json.Marshal(noted(99))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.js.Publish(ctx, "certpost.audit.held.ops.e99", forged); err != nil {
			t.Fatal(err)
		}
		if err := b.Append(ctx, noted(12)); err != nil { // goes on behind it
			t.Fatal(err)
		}
		breaksAt(t, b, 11, BreakForeign)
	})
	t.Run("a record is put in that claims to follow", func(t *testing.T) {
		b, _ := filled(t)
		r := noted(99)
		r.Previous = strings.Repeat("ab", 32)
		forged, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.js.Publish(ctx, "certpost.audit.held.ops.e99", forged); err != nil {
			t.Fatal(err)
		}
		breaksAt(t, b, 11, BreakChanged)
	})
	// As from a backup that somebody edited: the same stream, made anew.
	anew := func(t *testing.T, edit func(msgs []*nats.Msg) []*nats.Msg) (*Broker, Anchor) {
		b, head := filled(t)
		var msgs []*nats.Msg
		for raw, err := range b.read(ctx, AuditStream, "", 1) {
			if err != nil {
				t.Fatal(err)
			}
			msgs = append(msgs, &nats.Msg{Subject: raw.Subject, Data: raw.Data})
		}
		if err := b.js.DeleteStream(ctx, AuditStream); err != nil {
			t.Fatal(err)
		}
		if err := b.ensureTopology(ctx); err != nil {
			t.Fatal(err)
		}
		for _, m := range edit(msgs) {
			if _, err := b.js.PublishMsg(ctx, m); err != nil {
				t.Fatal(err)
			}
		}
		return b, head
	}
	t.Run("a record is changed where it stands", func(t *testing.T) {
		b, _ := anew(t, func(msgs []*nats.Msg) []*nats.Msg {
			msgs[4].Data = []byte(strings.Replace(string(msgs[4].Data), "tester", "nobody", 1))
			return msgs
		})
		breaksAt(t, b, 6, BreakChanged)
	})
	t.Run("the stream is cut off and made anew", func(t *testing.T) {
		b, head := anew(t, func(msgs []*nats.Msg) []*nats.Msg { return msgs[:7] })
		holds(t, b, 7) // the chain alone cannot show it
		breaksAt(t, b, 10, BreakTruncated, head)
	})
	t.Run("the whole chain is forged", func(t *testing.T) {
		b, head := anew(t, func([]*nats.Msg) []*nats.Msg { return nil })
		for i := range 12 {
			if err := b.Append(ctx, noted(100+i)); err != nil {
				t.Fatal(err)
			}
		}
		holds(t, b, 12)
		breaksAt(t, b, 10, BreakAnchor, head)
	})
	t.Run("an intact copy holds", func(t *testing.T) {
		b, head := anew(t, func(msgs []*nats.Msg) []*nats.Msg { return msgs })
		holds(t, b, 10, head)
	})
}

// Records from before there was a chain, and those that aged out, are no break.
func TestOldRecordsAreNoBreak(t *testing.T) {
	t.Parallel()
	b, ctx := quiet(t), context.Background()
	for i := range 3 {
		old, err := json.Marshal(map[string]any{"action": "replayed", "by": "alice@shell", "time": time.Now(), "letter": DeadLetter{Sequence: uint64(i + 1)}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.js.Publish(ctx, fmt.Sprintf("certpost.audit.replayed.ops.old%d", i), old); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Append(ctx, noted(1), noted(2)); err != nil {
		t.Fatal(err)
	}
	report := holds(t, b, 5)
	if report.Unchained != 3 {
		t.Errorf("%d unchained, want 3", report.Unchained)
	}
	for r, err := range b.ReadAudit(ctx, 2) {
		if err != nil || r.Name != "alice@shell" || r.LetterNumber != 2 {
			t.Errorf("an old record: %+v, %v", r, err)
		}
		break
	}
	// The walk of a stream that is old enough, three records later.
	w := walk{anchors: []Anchor{{2, strings.Repeat("0", 64)}}}
	for raw, err := range b.read(ctx, AuditStream, "", 4) {
		if err != nil {
			t.Fatal(err)
		}
		w.step(raw.Sequence, raw.Data)
	}
	w.end(5)
	if r := w.report; r.Break != nil || r.AgedOut != 3 || r.Records != 2 || len(r.Unchecked) != 1 {
		t.Errorf("aged out: %+v", r)
	}
}

// A stream from before is given what the chain needs.
func TestAnOldAuditStreamIsUpdated(t *testing.T) {
	t.Parallel()
	b, ctx := quiet(t), context.Background()
	if err := b.Append(ctx, noted(1)); err != nil {
		t.Fatal(err)
	}
	old := auditStream(t, b).CachedInfo().Config
	old.AllowAtomicPublish = false
	if _, err := b.js.UpdateStream(ctx, old); err != nil {
		t.Fatal(err)
	}
	// Until somebody updates it, many records go one by one.
	records := make([]AuditRecord, 2*batchFrom)
	for i := range records {
		records[i] = noted(i + 2)
	}
	if err := b.Append(ctx, records...); err != nil {
		t.Fatal(err)
	}
	if err := b.ensureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	if !auditStream(t, b).CachedInfo().Config.AllowAtomicPublish {
		t.Error("not updated")
	}
	if err := b.Append(ctx, records...); err != nil {
		t.Fatal(err)
	}
	holds(t, b, uint64(1+2*len(records)))
}

func TestAppendingWithoutItsStream(t *testing.T) {
	t.Parallel()
	b, ctx := quiet(t), context.Background()
	if err := b.js.DeleteStream(ctx, AuditStream); err != nil {
		t.Fatal(err)
	}
	if err := b.Append(ctx, noted(1)); err == nil || !strings.Contains(err.Error(), AuditStream) {
		t.Errorf("without a stream: %v", err)
	}
	if err := b.ensureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Append(ctx, noted(1)); err != nil {
		t.Errorf("with the stream back: %v", err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Append(over, noted(2)); err == nil {
		holds(t, b, 2) // its turn had come
	}
}
