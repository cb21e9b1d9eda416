package broker

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Records that expire are announced. Afterwards they may be missing, and nothing else.
//
// Fault: records at the front of the audit are removed, not by their age. Result: a break, unless
// a signed record has announced that they expire.
func TestRetentionIsAnnounced(t *testing.T) {
	t.Parallel()
	b, _ := newSignedBroker(t, func(c *Config) { c.Unprotected = true })
	appendRecords(t, b, 2, 3, 4, 5)
	old := time.Now().Add(auditAge)
	for _, now := range []time.Time{time.Now(), old.Add(-3 * closingAhead), old.Add(-closingAhead / 2)} {
		if err := b.closeOld(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	appendRecords(t, b, 7, 8)
	r, err := b.RecordAt(t.Context(), 6)
	if err != nil || r.Action != ActionClosed || r.Closing == nil || r.Closing.From != 1 || r.Closing.To != 5 || r.Closing.Count != 5 {
		t.Fatalf("%+v, %v", r, err)
	}
	var all []*jetstream.RawStreamMsg
	for raw, err := range b.read(t.Context(), AuditStream, "", 1) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, raw)
	}
	if len(all) != 8 {
		t.Fatalf("%d records, want 8: one closing", len(all))
	}
	keys, _ := b.cfg.AuditKeys(t.Context())
	for _, c := range []struct {
		what       string
		first      int
		now        time.Time
		remembered uint64
		kind       BreakKind
	}{
		{"all there", 1, time.Now(), 0, ""},
		{"some have expired", 4, old, 0, ""},
		{"all that were announced have expired", 6, old.Add(time.Hour), 0, ""},
		{"removed before their time", 6, time.Now(), 0, BreakTruncated},
		{"more removed than announced", 7, old.Add(time.Hour), 5, BreakTruncated},
		{"from before closings", 7, old.Add(time.Hour), 0, ""},
	} {
		w := newWalk(keys, nil)
		w.remembered = &auditMemory{Closed: c.remembered}
		for _, raw := range all[c.first-1:] {
			w.step(raw)
		}
		w.checkFront(c.now)
		switch found := w.report.Break; {
		case c.kind == "" && (found != nil || (w.report.Closing != nil) != (c.first > 1 && c.first < 7)):
			t.Errorf("%s: %+v, closing %+v", c.what, found, w.report.Closing)
		case c.kind != "" && (found == nil || found.Kind != c.kind || found.To != uint64(c.first-1)):
			t.Errorf("%s: %+v, want %s", c.what, found, c.kind)
		}
	}
}
