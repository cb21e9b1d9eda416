package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Fault: audit records changed. Result: the break in the chain is named.
func TestTamperingWithTheAuditIsNamed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	filled := func(t *testing.T) (*Broker, Anchor) {
		t.Parallel()
		b := newTestBroker(t)
		for i := range 10 {
			if err := b.Append(ctx, testRecord(i+1)); err != nil {
				t.Fatal(err)
			}
		}
		return b, requireIntact(t, b, 10).Head
	}
	t.Run("a record is removed", func(t *testing.T) {
		b, _ := filled(t)
		if err := auditStream(t, b).SecureDeleteMsg(ctx, 5); err != nil {
			t.Fatal(err)
		}
		checkBreak(t, b, 5, BreakRemoved)
	})
	t.Run("the last ones are removed", func(t *testing.T) {
		b, head := filled(t)
		for seq := uint64(9); seq <= 10; seq++ {
			if err := auditStream(t, b).DeleteMsg(ctx, seq); err != nil {
				t.Fatal(err)
			}
		}
		checkBreak(t, b, 9, BreakTruncated)
		checkBreak(t, b, 9, BreakTruncated, head)
		// Later records do not hide it.
		b.chain.head = nil // as another process
		if err := b.Append(ctx, testRecord(11)); err != nil {
			t.Fatal(err)
		}
		checkBreak(t, b, 9, BreakRemoved)
	})
	t.Run("the first ones are removed", func(t *testing.T) {
		b, _ := filled(t)
		if err := auditStream(t, b).Purge(ctx, jetstream.WithPurgeSequence(4)); err != nil {
			t.Fatal(err)
		}
		checkBreak(t, b, 1, BreakTruncated)
	})
	t.Run("all are removed", func(t *testing.T) {
		b, _ := filled(t)
		if err := auditStream(t, b).Purge(ctx); err != nil {
			t.Fatal(err)
		}
		checkBreak(t, b, 1, BreakTruncated)
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
		if _, err := b.js.Publish(ctx, raw.Subject, []byte(strings.Replace(string(raw.Data), "operator", "nobody", 1))); err != nil {
			t.Fatal(err)
		}
		checkBreak(t, b, 5, BreakRemoved)
	})
	t.Run("records are added by another program", func(t *testing.T) {
		b, _ := filled(t)
		forged, err := json.Marshal(testRecord(99))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.js.Publish(ctx, "certpost.audit.held.ops.e99", forged); err != nil {
			t.Fatal(err)
		}
		if err := b.Append(ctx, testRecord(12)); err != nil { // follows the forged record
			t.Fatal(err)
		}
		checkBreak(t, b, 11, BreakForeign)
	})
	t.Run("a record is put in that claims to follow", func(t *testing.T) {
		b, _ := filled(t)
		r := testRecord(99)
		r.Previous = strings.Repeat("ab", 32)
		forged, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.js.Publish(ctx, "certpost.audit.held.ops.e99", forged); err != nil {
			t.Fatal(err)
		}
		checkBreak(t, b, 11, BreakChanged)
	})
	// As from an edited backup: the same stream, recreated.
	recreated := func(t *testing.T, edit func(msgs []*nats.Msg) []*nats.Msg) (*Broker, Anchor) {
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
		if err := b.EnsureTopology(ctx); err != nil {
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
		b, _ := recreated(t, func(msgs []*nats.Msg) []*nats.Msg {
			msgs[4].Data = []byte(strings.Replace(string(msgs[4].Data), "operator", "nobody", 1))
			return msgs
		})
		checkBreak(t, b, 6, BreakChanged)
	})
	t.Run("the stream is cut off and recreated", func(t *testing.T) {
		b, head := recreated(t, func(msgs []*nats.Msg) []*nats.Msg { return msgs[:7] })
		requireIntact(t, b, 7) // the chain itself cannot show it
		checkBreak(t, b, 10, BreakTruncated, head)
	})
	t.Run("the oldest are left out and the stream is recreated", func(t *testing.T) {
		b, _ := recreated(t, func(msgs []*nats.Msg) []*nats.Msg { return msgs[3:] })
		checkBreak(t, b, 1, BreakTruncated)
	})
	t.Run("the whole chain is forged", func(t *testing.T) {
		b, head := recreated(t, func([]*nats.Msg) []*nats.Msg { return nil })
		for i := range 12 {
			if err := b.Append(ctx, testRecord(100+i)); err != nil {
				t.Fatal(err)
			}
		}
		requireIntact(t, b, 12)
		checkBreak(t, b, 10, BreakAnchor, head)
	})
	t.Run("an intact copy holds", func(t *testing.T) {
		b, head := recreated(t, func(msgs []*nats.Msg) []*nats.Msg { return msgs })
		requireIntact(t, b, 10, head)
	})
}

// Records from before the chain existed, and those that aged out, are no break.
func TestOldRecordsAreNoBreak(t *testing.T) {
	t.Parallel()
	b, ctx := newTestBroker(t), context.Background()
	for i := range 3 {
		old, err := json.Marshal(map[string]any{"action": "replayed", "by": "alice@shell", "time": time.Now(), "letter": DeadLetter{Sequence: uint64(i + 1)}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.js.Publish(ctx, fmt.Sprintf("certpost.audit.replayed.ops.old%d", i), old); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Append(ctx, testRecord(1), testRecord(2)); err != nil {
		t.Fatal(err)
	}
	report := requireIntact(t, b, 5)
	if report.Unchained != 3 {
		t.Errorf("%d unchained, want 3", report.Unchained)
	}
	for r, err := range b.ReadAudit(ctx, 2) {
		if err != nil || r.Name != "alice@shell" || r.LetterNumber != 2 {
			t.Errorf("an old record: %+v, %v", r, err)
		}
		break
	}
	// A walk over a stream that is old enough for three records to have aged out.
	w := walk{anchors: []Anchor{{2, strings.Repeat("0", 64)}}}
	for raw, err := range b.read(ctx, AuditStream, "", 4) {
		if err != nil {
			t.Fatal(err)
		}
		w.step(raw)
	}
	w.end(5)
	if r := w.report; r.Break != nil || r.AgedOut != 3 || r.Records != 2 || len(r.Unchecked) != 1 {
		t.Errorf("aged out: %+v", r)
	}
}
