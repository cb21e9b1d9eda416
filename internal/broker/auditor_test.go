package broker

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

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

// TestRotationIsFollowed: the key is replaced between two looks, or while all is verified.
//
// Fault: the key of the audit is replaced while the running program verifies. Result: it reads
// the new key, and reports no break.
func TestRotationIsFollowed(t *testing.T) {
	t.Parallel()
	for name, rotateAtRead := range map[string]int{"between two looks": 0, "while all is verified": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, keys := newSignedBroker(t)
			appendRecords(t, b, 2)
			other := beside(b, keys)
			rotate := sync.OnceFunc(func() {
				keys.set(NewAuditKey(), *keys.text.Load())
				other.ForgetKeys()
				if changed, err := other.Rotate(t.Context(), operator, "", false); !changed || err != nil {
					t.Errorf("rotated %v: %v", changed, err)
				}
				appendRecords(t, other, 4)
			})
			var reads atomic.Int32
			b.cfg.AuditKeys = func(ctx context.Context) (*AuditKeys, error) {
				read, err := keys.read(ctx)
				if n := int(reads.Add(1)); n == rotateAtRead {
					rotate()
				}
				return read, err
			}
			running := startAuditor(t, b)
			rotate()
			lab.Within(t, 20*time.Second, "the verification of the last record", func() bool { return running.State().Report.Head.Sequence >= 4 })
			if found := running.State().Findings; len(found) > 0 {
				t.Errorf("found %+v", found)
			}
		})
	}
}

// A key may reach this process later than the one that signs with it. Until then it is what is missing, and no
// more.
//
// Fault: a key is rotated by another process, and reaches the running program later. Result: it lacks the key, and
// is healthy again when it has it.
func TestAKeyComesLate(t *testing.T) {
	t.Parallel()
	b, ring := newSignedBroker(t)
	before, next := *ring.text.Load(), NewAuditKey()
	running := startAuditor(t, b)
	other := beside(b, newKeyring(next, before))
	if changed, err := other.Rotate(t.Context(), operator, "yearly", false); err != nil || !changed {
		t.Fatalf("%v, %v", changed, err)
	}
	appendRecords(t, other, 2, 3)
	running.wants(t, BreakKey)
	ring.set(next, before)
	lab.Within(t, 20*time.Second, "health", func() bool { return running.Problem() == nil })
}
