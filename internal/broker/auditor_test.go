package broker

import (
	"context"
	"strings"
	"testing"
	"time"
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
