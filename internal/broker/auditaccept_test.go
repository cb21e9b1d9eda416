package broker

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// An operator accepts breaks of the audit one by one; what is signed later is verified, and the
// same kind of break elsewhere is one again. The running program becomes healthy.
//
// Fault: a NATS client writes a record that accepts the break which it made. Result: both are
// breaks; what an operator accepts counts only with the key.
func TestABreakIsAccepted(t *testing.T) {
	t.Parallel()
	b, ring := newSignedBroker(t)
	appendRecords(t, b, 2, 3)
	running := startAuditor(t, b)
	forgeRecord(t, b, 4, nil)
	appendRecords(t, b, 5)
	running.wants(t, BreakUnsigned)
	for record, reason := range map[uint64]string{3: "why", 4: ""} {
		if _, err := b.AcceptBreak(t.Context(), operator, record, 0, reason); err == nil {
			t.Errorf("record %d with reason %q is accepted", record, reason)
		}
	}
	if _, err := b.AcceptBreak(t.Context(), operator, 0, 7, "why"); err == nil {
		t.Error("a revision is accepted that is no break")
	}
	if left, err := b.AcceptBreak(t.Context(), operator, 4, 0, "a test of our monitoring"); left != nil || err != nil {
		t.Fatalf("%+v, %v", left, err)
	}
	report, err := b.VerifyAudit(t.Context())
	if err != nil || report.Break != nil || len(report.Accepted) != 1 || report.Accepted[0].Reason != "a test of our monitoring" || report.Accepted[0].Sequence != 6 {
		t.Fatalf("%+v %+v, %v", report, report.Break, err)
	}
	for deadline := time.Now().Add(20 * time.Second); running.Problem() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the running program is not healthy: %v", running.Problem())
		}
	}
	var out bytes.Buffer
	if err := b.ExportAudit(t.Context(), 1, &out); err != nil {
		t.Fatal(err)
	}
	keys, _ := ring.read(t.Context())
	if report, _, err := VerifyExport(bytes.NewReader(out.Bytes()), keys); err != nil || report.Break != nil || len(report.Accepted) != 1 {
		t.Errorf("the export: %+v %+v, %v", report, report.Break, err)
	}

	// A client cannot accept what it did, nor is another break covered.
	stolen, err := auditStream(t, b).GetMsg(t.Context(), 6)
	if err != nil {
		t.Fatal(err)
	}
	forgeRecord(t, b, 7, nil)
	m := nats.NewMsg(stolen.Subject)
	m.Data, m.Header = bytes.Replace(stolen.Data, []byte(`"record":4`), []byte(`"record":7`), 1), stolen.Header
	m.Header.Del(nats.MsgIdHdr)
	m.Header.Del("Nats-Expected-Last-Sequence")
	if _, err := b.js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	wantBreak(t, b, 7, BreakUnsigned)
	running.wants(t, BreakUnsigned)
	if left, err := b.AcceptBreak(t.Context(), operator, 7, 0, "another test"); err != nil || left == nil || left.Sequence != 8 {
		t.Errorf("%+v, %v, want the break at record 8", left, err)
	}
}

// Records that are gone, at the end or between others, and entries of the ledger are accepted, too.
func TestWhatIsMissingIsAccepted(t *testing.T) {
	t.Parallel()
	b, _ := newSignedBroker(t, func(c *Config) { c.Unprotected = true })
	appendRecords(t, b, 2, 3, 4)
	l := openedLedger(t, b)
	key, _ := send(t, l, "e1")
	if err := b.WriteCheckpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	appendRecords(t, b, 6)
	for _, sequence := range []uint64{3, 6} {
		if err := auditStream(t, b).DeleteMsg(t.Context(), sequence); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.kv.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	b.chain.head = nil // as another process
	if left, err := b.AcceptBreak(t.Context(), operator, 3, 0, "a disk"); err != nil || left == nil || left.Sequence != 6 {
		t.Fatalf("%+v, %v, want the break at record 6", left, err)
	}
	if _, err := b.AcceptBreak(t.Context(), operator, 0, 2, "a disk"); err == nil || errors.Is(err, ErrNoBreak) {
		t.Errorf("the ledger before the audit: %v", err)
	}
	if left, err := b.AcceptBreak(t.Context(), operator, 6, 0, "a disk"); err != nil || left != nil {
		t.Fatalf("%+v, %v", left, err)
	}
	report, receipts, err := b.VerifyReceipts(t.Context())
	if err != nil || report.Break != nil || len(report.Accepted) != 2 || receipts.Broken != 1 || receipts.Breaks[0].Kind != BreakDeleted {
		t.Fatalf("%+v %+v, %v", report, receipts, err)
	}
	if left, err := b.AcceptBreak(t.Context(), operator, 0, receipts.Breaks[0].Revision, "a disk"); err != nil || left != nil {
		t.Fatalf("%+v, %v", left, err)
	}
	if receipts := verifiedReceipts(t, b); receipts.Broken != 0 || receipts.Accepted != 1 {
		t.Errorf("%+v", receipts)
	}
}
