package broker

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/verdict"
)

func receiptEntry(event string) Entry {
	return Entry{Event: event, Target: "ops", Lane: "relay", State: StateSent, Receipt: &verdict.Receipt{Relay: "relay:25", Recipients: []string{"ops@example.com"}}}
}

// send writes an entry as a delivery does: claimed, then sent.
func send(t testing.TB, l Ledger, event string) (key string, revision uint64) {
	t.Helper()
	key = LedgerKey("ops", event)
	claimed := receiptEntry(event)
	claimed.State, claimed.Receipt = StateSending, nil
	revision, err := l.Put(context.Background(), key, claimed, 0)
	if err == nil {
		revision, err = l.Put(context.Background(), key, receiptEntry(event), revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key, revision
}

func openedLedger(t testing.TB, b *Broker) Ledger {
	t.Helper()
	l, err := b.OpenLedger(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func verifiedReceipts(t *testing.T, b *Broker) *ReceiptReport {
	t.Helper()
	report, receipts, err := b.VerifyReceipts(t.Context())
	if err != nil || report.Break != nil || receipts == nil {
		t.Fatalf("%+v, %+v, %v", report.Break, receipts, err)
	}
	return receipts
}

// Receipts are covered by checkpoints of many, and what a crash left out is covered later; a
// later change by Certpost and an entry from before the key are no breaks.
func TestReceiptsAreCovered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openSigned(t, dir, nil)
	send(t, openedLedger(t, b), "e-before")
	b.Close()
	keys := newKeyring(NewAuditKey())
	b = openSigned(t, dir, keys)
	if err := errors.Join(b.PrepareAudit(t.Context()), b.Seal(t.Context(), operator)); err != nil {
		t.Fatal(err)
	}
	l := openedLedger(t, b)
	for _, event := range []string{"e1", "e2", "e3"} {
		send(t, l, event)
	}
	if r := verifiedReceipts(t, b); r.Unsigned != 1 || r.NotCovered != 3 || r.Broken != 0 {
		t.Errorf("before the checkpoint: %+v", r)
	}
	if err := b.WriteCheckpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	// e2 is sent once more, by a replay with force.
	key := LedgerKey("ops", "e2")
	e, revision, err := l.Get(t.Context(), key)
	if err == nil {
		e.State = StateSending
		revision, err = l.Put(t.Context(), key, e, revision)
	}
	if err == nil {
		_, err = l.Put(t.Context(), key, receiptEntry("e2"), revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	send(t, l, "e4")
	if r := verifiedReceipts(t, b); r.Covered != 2 || r.NotCovered != 2 || r.Broken != 0 {
		t.Errorf("%+v", r)
	}
	b.Close() // a crash: no last checkpoint

	b = openSigned(t, dir, keys)
	if err := b.PrepareAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := b.NewAuditor(nil)
	if _, err := a.verifyAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.pace.recover = 0
	a.recover()
	if err := b.WriteCheckpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := verifiedReceipts(t, b); r.Covered != 4 || r.NotCovered != 0 || r.Broken != 0 {
		t.Errorf("after the recovery: %+v", r)
	}
	var last *Checkpoint
	for r, err := range b.ReadAudit(t.Context(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Checkpoint != nil {
			last = r.Checkpoint
		}
	}
	if last == nil || last.Recovered != 2 || last.Count != 2 {
		t.Errorf("the last checkpoint: %+v", last)
	}
}

// Fault: a NATS client forges, changes, rolls back or deletes entries of the ledger, or wipes it.
// Result: each is named, by the verification and by the running program.
func TestTamperingWithReceiptsIsNamed(t *testing.T) {
	t.Parallel()
	put := func(t *testing.T, b *Broker, key string, value []byte) {
		if _, err := b.js.Publish(t.Context(), "$KV."+LedgerBucket+"."+key, value); err != nil {
			t.Fatal(err)
		}
	}
	stored := func(t *testing.T, b *Broker, key string) []byte {
		raw, err := b.leaderGet(t.Context(), "KV_"+LedgerBucket, getRequest{Last: "$KV." + LedgerBucket + "." + key})
		if err != nil {
			t.Fatal(err)
		}
		return raw.Data
	}
	for _, c := range []struct {
		what   string
		kind   BreakKind
		broken uint64
		do     func(t *testing.T, b *Broker, l Ledger)
	}{
		{"sent without a mail", BreakUnsigned, 1, func(t *testing.T, b *Broker, _ Ledger) {
			value, _ := json.Marshal(receiptEntry("e9"))
			put(t, b, "ops.e9", value)
		}},
		{"another recipient in a receipt", BreakForged, 1, func(t *testing.T, b *Broker, _ Ledger) {
			put(t, b, "ops.e1", []byte(strings.Replace(string(stored(t, b, "ops.e1")), "ops@", "eve@", 1)))
		}},
		{"a receipt without its seal", BreakUnsigned, 1, func(t *testing.T, b *Broker, _ Ledger) {
			value, _, _ := strings.Cut(string(stored(t, b, "ops.e1")), sealAfter)
			put(t, b, "ops.e1", []byte(value+"}"))
		}},
		{"the entry of another delivery", BreakForged, 1, func(t *testing.T, b *Broker, _ Ledger) {
			put(t, b, "ops.e9", stored(t, b, "ops.e1"))
		}},
		{"an old value", BreakRolledBack, 1, func(t *testing.T, b *Broker, l Ledger) {
			old := stored(t, b, "ops.e1")
			e, revision, err := l.Get(t.Context(), "ops.e1")
			if err == nil {
				_, err = l.Put(t.Context(), "ops.e1", e, revision)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := b.WriteCheckpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			put(t, b, "ops.e1", old)
		}},
		{"an entry is deleted", BreakDeleted, 1, func(t *testing.T, b *Broker, l Ledger) {
			if err := l.kv.Delete(t.Context(), "ops.e1"); err != nil {
				t.Fatal(err)
			}
		}},
		{"the ledger is wiped", BreakDeleted, 2, func(t *testing.T, b *Broker, _ Ledger) { // its stream refuses purges and rollups
			if err := b.js.DeleteStream(t.Context(), "KV_"+LedgerBucket); err != nil {
				t.Fatal(err)
			}
			if err := b.EnsureTopology(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			b, _ := newSignedBroker(t)
			l := openedLedger(t, b)
			send(t, l, "e1")
			send(t, l, "e2")
			if err := b.WriteCheckpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r := verifiedReceipts(t, b); r.Covered != 2 || r.Broken != 0 {
				t.Fatalf("before: %+v", r)
			}
			running := startAuditor(t, b)
			c.do(t, b, l)
			r := verifiedReceipts(t, b)
			if r.Broken != c.broken || r.Breaks[0].Kind != c.kind {
				t.Errorf("%+v, want %d of %s", r, c.broken, c.kind)
			}
			running.wants(t, c.kind)
		})
	}
}

// No stored write is added for a delivery: the audit has one record for many of them.
func TestACheckpointCoversManyDeliveries(t *testing.T) {
	t.Parallel()
	b, _ := newSignedBroker(t)
	for i := range 2*checkpointSize + 10 {
		b.noteReceipt(leaf{revision: uint64(i + 1), key: uint64(i)})
	}
	before, err := b.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.receipts.full:
	default:
		t.Error("a checkpoint is not due after 1,000 receipts")
	}
	if err := b.WriteCheckpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := b.AuditHead(t.Context())
	if err != nil || after.Sequence != before.Sequence+3 {
		t.Errorf("%d records for %d receipts, %v", after.Sequence-before.Sequence, 2*checkpointSize+10, err)
	}
	r, err := b.RecordAt(t.Context(), before.Sequence+1)
	if err != nil || r.Checkpoint == nil || r.Checkpoint.Count != checkpointSize || r.Checkpoint.From != 1 || r.Checkpoint.To != checkpointSize {
		t.Fatalf("%+v, %v", r.Checkpoint, err)
	}
	leaves, err := r.Checkpoint.leaves()
	if err != nil || len(leaves) != checkpointSize || leaves[7].revision != 8 || leaves[7].key != 7 {
		t.Errorf("%d leaves, %v", len(leaves), err)
	}
	r.Checkpoint.Leaves[20] ^= 1
	if _, err := r.Checkpoint.leaves(); err == nil {
		t.Error("leaves that do not fit the root are accepted")
	}
}
