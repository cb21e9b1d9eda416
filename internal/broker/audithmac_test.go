package broker

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/verdict"
)

// keyring holds the text of keys, newest first, as a file or a secret would.
type keyring struct{ text atomic.Pointer[string] }

func newKeyring(keys ...string) *keyring {
	k := &keyring{}
	k.set(keys...)
	return k
}

func (k *keyring) set(keys ...string) {
	text := strings.Join(keys, "\n")
	k.text.Store(&text)
}

func (k *keyring) read(context.Context) (*AuditKeys, error) {
	return ParseAuditKeys([]byte(*k.text.Load()))
}

// openSigned opens a store; without keys, as a version before them did.
func openSigned(t testing.TB, dir string, keys *keyring) *Broker {
	t.Helper()
	cfg := Config{DataDir: dir, Listen: "none", SyncInterval: "2m"}
	if keys != nil {
		cfg.AuditKeys, cfg.AuditMemory = keys.read, filepath.Join(dir, "audit.head")
	}
	b, err := Open(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.EnsureTopology(context.Background()); err != nil {
		t.Fatal(err)
	}
	return b
}

// newSignedBroker is newTestBroker with a key that is in force.
func newSignedBroker(t testing.TB) (*Broker, *keyring) {
	t.Helper()
	keys := newKeyring(NewAuditKey())
	b := openSigned(t, t.TempDir(), keys)
	if err := errors.Join(b.PrepareAudit(t.Context()), b.Seal(t.Context(), operator)); err != nil {
		t.Fatal(err)
	}
	return b, keys
}

// beside is another process on the same server.
func beside(b *Broker, keys *keyring) *Broker {
	other := newBroker(b.cfg, zerolog.Nop())
	other.cfg.AuditKeys, other.cfg.AuditMemory = nil, ""
	if keys != nil {
		other.cfg.AuditKeys = keys.read
	}
	other.nc, other.js = b.nc, b.js
	return other
}

func appendRecords(t testing.TB, b *Broker, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		if err := b.Append(context.Background(), testRecord(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// forgeRecord publishes a record that fits the chain, as a NATS client could.
func forgeRecord(t *testing.T, b *Broker, number int, header nats.Header) {
	t.Helper()
	head, err := b.readHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := testRecord(number)
	r.Name, r.Previous = "mallory", head.Hash
	m := nats.NewMsg(auditPrefix + "discarded.ops.e")
	m.Data, _ = json.Marshal(r)
	for name, values := range header {
		m.Header[name] = values
	}
	if _, err := b.js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

func wantBreak(t *testing.T, b *Broker, sequence uint64, kind BreakKind) {
	t.Helper()
	report, err := b.VerifyAudit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if report.Break == nil || report.Break.Kind != kind || report.Break.Sequence != sequence {
		t.Errorf("break %+v, want %s at %d", report.Break, kind, sequence)
	}
}

// An audit from before there was a key is accepted up to the record that says so.
func TestAnAuditIsSignedFromOneRecordOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openSigned(t, dir, nil)
	appendRecords(t, b, 1, 2, 3)
	b.Close()

	b = openSigned(t, dir, newKeyring(NewAuditKey()))
	for range 2 { // only the first call writes a record
		if err := errors.Join(b.PrepareAudit(t.Context()), b.Seal(t.Context(), operator)); err != nil {
			t.Fatal(err)
		}
	}
	appendRecords(t, b, 5, 6)
	report, err := b.VerifyAudit(t.Context())
	if err != nil || report.Break != nil || report.Records != 6 || report.SignedFrom != 4 || report.Signed != 3 {
		t.Fatalf("%+v, %v", report, err)
	}
	if without := beside(b, nil); !errors.Is(without.PrepareAudit(t.Context()), ErrAuditKey) {
		t.Error("a process without the key may work on a signed audit")
	} else if err := without.Append(t.Context(), testRecord(7)); !errors.Is(err, ErrAuditKey) {
		t.Errorf("it may append a record: %v", err)
	}
}

// Fault: a NATS client appends to the audit records that fit the chain. Result: the first one is
// named.
func TestAForgedTailIsNamed(t *testing.T) {
	t.Parallel()
	b, _ := newSignedBroker(t)
	appendRecords(t, b, 2)
	stolen, err := auditStream(t, b).GetMsg(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		proof string
		kind  BreakKind
	}{
		{"without HMAC", "", BreakUnsigned},
		{"with the HMAC of another record", stolen.Header.Get(headerProof), BreakForged},
		{"with a key of its own", "00000000:" + strings.Repeat("A", 43), BreakForged},
	} {
		t.Run(c.what, func(t *testing.T) {
			b, _ := newSignedBroker(t)
			appendRecords(t, b, 2)
			forgeRecord(t, b, 3, nats.Header{headerProof: {c.proof}})
			wantBreak(t, b, 3, c.kind)
			appendRecords(t, b, 4) // what is recorded later does not hide it
			wantBreak(t, b, 3, c.kind)
		})
	}
}

// Fault: the audit is deleted and written anew without HMACs, its chain right. Result: noticed by
// what the process remembers outside of NATS.
func TestStrippedHMACsAreNoticed(t *testing.T) {
	t.Parallel()
	b, _ := newSignedBroker(t)
	appendRecords(t, b, 2, 3)
	w, err := b.verifyAudit(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.NewAuditor(nil).remember(w); err != nil {
		t.Fatal(err)
	}
	config := auditStream(t, b).CachedInfo().Config
	if err := b.js.DeleteStream(t.Context(), AuditStream); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	appendRecords(t, beside(b, nil), 1, 2, 3, 4)
	wantBreak(t, b, 3, BreakAnchor)
}

// A key is replaced while another process runs, which takes the new one over; what is signed with
// the old key afterwards is a break.
func TestRotationOfTheKey(t *testing.T) {
	t.Parallel()
	b, keys := newSignedBroker(t)
	old := *keys.text.Load()
	other := beside(b, keys)
	appendRecords(t, b, 2)
	appendRecords(t, other, 3)
	if changed, err := b.Rotate(t.Context(), operator, "", false); changed || err != nil {
		t.Fatalf("there is no new key: %v, %v", changed, err)
	}
	keys.set(NewAuditKey(), old)
	b.ForgetKeys()
	if changed, err := b.Rotate(t.Context(), operator, "yearly", false); !changed || err != nil {
		t.Fatalf("%v, %v", changed, err)
	}
	appendRecords(t, other, 5)
	appendRecords(t, b, 6)
	report, err := b.VerifyAudit(t.Context())
	if err != nil || report.Break != nil || report.Signed != 6 {
		t.Fatalf("%+v %+v, %v", report, report.Break, err)
	}
	_, newest := b.Sealed()
	if _, has := other.Sealed(); has != newest {
		t.Errorf("the other process signs with %s, not %s", has, newest)
	}
	late := beside(b, newKeyring(old))
	if err := late.PrepareAudit(t.Context()); !errors.Is(err, ErrAuditKey) || !strings.Contains(err.Error(), newest) {
		t.Errorf("a process that has only the old key: %v", err)
	}
	thief, _ := newKeyring(old).read(t.Context())
	head, _ := b.readHead(t.Context())
	r := testRecord(7)
	r.Previous = head.Hash
	data, _ := json.Marshal(r)
	subject := auditPrefix + "replayed.ops.e"
	m := nats.NewMsg(subject)
	m.Data = data
	m.Header.Set(headerProof, thief.all[0].proof(labelRecord, 7, subject, data))
	if _, err := b.js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	wantBreak(t, b, 7, BreakForged)
}

// Fault: replicas have different keys. Result: the second one does not start, and says what to
// do; a lost key can be replaced, and what it signed counts as not verified.
func TestProcessesNeedTheSameKey(t *testing.T) {
	t.Parallel()
	b, _ := newSignedBroker(t)
	appendRecords(t, b, 2)
	other := beside(b, newKeyring(NewAuditKey()))
	err := other.PrepareAudit(t.Context())
	if !errors.Is(err, ErrAuditKey) || !strings.Contains(err.Error(), "give all processes the same keys") {
		t.Fatalf("another key: %v", err)
	}
	report, err := other.VerifyAudit(t.Context())
	if err != nil || report.Break == nil || report.Break.Kind != BreakKey {
		t.Errorf("verified without the key: %+v, %v", report, err)
	}
	if changed, err := other.Rotate(t.Context(), operator, "the disk is gone", true); !changed || err != nil {
		t.Fatalf("%v, %v", changed, err)
	}
	appendRecords(t, other, 4)
	report, err = other.VerifyAudit(t.Context())
	if err != nil || report.Break != nil || report.Unverified != 2 || report.Signed != 2 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestAuditKeysAreNotPrintedAndCheckedWell(t *testing.T) {
	t.Parallel()
	key := NewAuditKey()
	for text, want := range map[string]string{
		"": "there is no key", "# only a comment\n": "there is no key", "abc": "line 1 is not a key", key + "\n" + key[:20] + "\n": "line 2 is not a key",
	} {
		if _, err := ParseAuditKeys([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), key[:20]) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	keys, err := ParseAuditKeys([]byte("# comment\n" + key + " # and " + NewAuditKey() + "\n\n" + NewAuditKey()))
	if err != nil || len(keys.IDs()) != 2 {
		t.Fatalf("%v, %v", keys, err)
	}
	raw, _ := base64.StdEncoding.DecodeString(key)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		printed := fmt.Sprintf(format+format, keys, *keys)
		if strings.Contains(printed, key) || strings.Contains(printed, string(raw)) || strings.Contains(printed, hex.EncodeToString(raw)) {
			t.Errorf("a key in %s", printed)
		}
	}
}

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

// Fault: a NATS client forges the tail of the audit, or deletes the stream, while the program runs.
// Result: the running program notices.
func TestTheRunningProgramNoticesAForgedAudit(t *testing.T) {
	t.Parallel()
	t.Run("a forged record", func(t *testing.T) {
		b, _ := newSignedBroker(t)
		running := startAuditor(t, b)
		forgeRecord(t, b, 2, nil)
		running.wants(t, BreakUnsigned)
	})
	t.Run("the stream is emptied", func(t *testing.T) {
		b, _ := newSignedBroker(t)
		appendRecords(t, b, 2, 3)
		running := startAuditor(t, b)
		if err := b.js.DeleteStream(t.Context(), AuditStream); err != nil {
			t.Fatal(err)
		}
		if err := b.EnsureTopology(t.Context()); err != nil {
			t.Fatal(err)
		}
		running.wants(t, BreakTruncated)
	})
}

// runningAuditor is an Auditor whose process reads the ledger for its index, as the desk does.
type runningAuditor struct {
	*Auditor
	found chan AuditFinding
}

func startAuditor(t *testing.T, b *Broker) runningAuditor {
	t.Helper()
	found := make(chan AuditFinding, 10*mostBreaks)
	a := runningAuditor{b.NewAuditor(func(f AuditFinding) { found <- f }), found}
	a.pace = auditorPace{look: 20 * time.Millisecond, full: 20 * time.Millisecond, share: 1, recover: time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { a.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	for a.State().Verified.IsZero() {
		time.Sleep(5 * time.Millisecond)
	}
	if err := a.Problem(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		next, known := uint64(1), map[string]uint64{}
		for first := true; ctx.Err() == nil; first = false {
			for c, err := range b.ReadEntries(ctx, next) {
				if err != nil {
					break
				}
				if c.Sealed && c.After < known[c.Key] {
					b.RolledBack(&c, known[c.Key])
				}
				next, known[c.Key] = c.Revision+1, c.Revision
			}
			if first {
				close(read)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	<-read
	return a
}

func (a runningAuditor) wants(t *testing.T, kind BreakKind) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case f := <-a.found:
			if f.Kind == kind {
				if err := a.Problem(); err == nil || !strings.Contains(err.Error(), "is not as Certpost wrote it") {
					t.Errorf("health: %v", err)
				}
				return
			}
			t.Logf("also found: %+v", f)
		case <-timeout:
			t.Fatalf("the running program did not notice; want %s", kind)
		}
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
