package broker

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
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

// storedOver returns the audit's records as if they had been stored some days after a first one. The server's time is not part of what is signed.
func storedOver(t *testing.T, b *Broker, first time.Time, days ...int) (all []*jetstream.RawStreamMsg) {
	t.Helper()
	for raw, err := range b.read(t.Context(), AuditStream, "", 1) {
		if err != nil {
			t.Fatal(err)
		}
		if i := len(all); i < len(days) {
			raw.Time = first.AddDate(0, 0, days[i])
		}
		all = append(all, raw)
	}
	return all
}

// While only some of the records of a closing have expired, none of them may be gone more than a day
// early; the record after the last one that expired is the one that was announced.
//
// Fault: records at the front of the audit are removed while others of the same closing expire. Result: a
// break, if they had more than a day left.
func TestRetentionInPart(t *testing.T) {
	t.Parallel()
	first := time.Date(2023, time.December, 30, 12, 0, 0, 0, time.UTC)
	days := []int{0, 0, 1, 2, 2, 4}
	expires := func(record int) time.Time { return first.AddDate(0, 0, days[record-1]).Add(auditAge) }
	closed := func(change func(*Closing)) (*AuditKeys, []*jetstream.RawStreamMsg) {
		b, ring := newSignedBroker(t)
		appendRecords(t, b, 2, 3, 4, 5, 6)
		stored := func(yield func(*jetstream.RawStreamMsg, error) bool) {
			for _, raw := range storedOver(t, b, first, days...) {
				if !yield(raw, nil) {
					return
				}
			}
		}
		c, err := closingOf(stored, auditAge, first.Add(auditAge-closingAhead/2))
		if err != nil || c.From != 1 || c.To != 6 || c.Count != 6 || !c.Expires.Equal(expires(6)) || len(c.Days) != 3 || c.Days[0].To != 2 || c.Days[1].To != 3 || c.Days[2].To != 5 || !c.Days[2].Expires.Equal(expires(5)) {
			t.Fatalf("%+v, %v", c, err)
		}
		change(&c)
		if err := b.Append(t.Context(), AuditRecord{Action: ActionClosed, Actor: operator, Closing: &c}); err != nil {
			t.Fatal(err)
		}
		keys, err := ring.read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return keys, storedOver(t, b, first, days...)
	}
	keys, asStored := closed(func(*Closing) {})
	otherKeys, other := closed(func(c *Closing) { c.Head = hashOf([]byte("another record")) })
	for _, test := range []struct {
		what  string
		gone  int // records up to this one
		now   time.Time
		other bool // the closing has another hash
		kind  BreakKind
	}{
		{"the first day", 2, expires(2), false, ""},
		{"the first day, by a clock that is late", 2, expires(2).Add(-closingSlack / 2), false, ""},
		{"the second day with the first", 3, expires(2), false, BreakTruncated},
		{"within the day that expires", 4, expires(3).Add(time.Hour), false, ""},
		{"two days early", 5, expires(3), false, BreakTruncated},
		{"all of them", 6, expires(6), false, ""},
		{"all of them, the last one early", 6, expires(5), false, BreakTruncated},
		{"another record has expired than was announced", 6, expires(6), true, BreakChanged},
	} {
		w, records := newWalk(keys, nil), asStored
		if test.other {
			w, records = newWalk(otherKeys, nil), other
		}
		for _, raw := range records[test.gone:] {
			w.step(raw)
		}
		w.checkFront(test.now)
		switch found := w.report.Break; {
		case test.kind == "" && found != nil:
			t.Errorf("%s: %+v", test.what, found)
		case test.kind != "" && (found == nil || found.Kind != test.kind || found.Sequence != 1 || found.To != uint64(test.gone)):
			t.Errorf("%s: %+v, want %s of records 1 to %d", test.what, found, test.kind, test.gone)
		}
	}
}

// A closing that a NATS client wrote does not stop the announcements, also after an operator has
// accepted it.
//
// Fault: a NATS client announces that all records expire. Result: a break; with it accepted, the next
// records are announced as before.
func TestForgedClosing(t *testing.T) {
	t.Parallel()
	b, _ := newSignedBroker(t)
	appendRecords(t, b, 2, 3)
	forged := nats.NewMsg(auditPrefix + string(ActionClosed) + "." + auditSubjectSuffix(AuditRecord{}))
	head, err := b.readHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	forged.Data, err = json.Marshal(AuditRecord{Action: ActionClosed, Actor: operator, Previous: head.Hash, Closing: &Closing{From: 1, To: 1 << 40, Count: 1 << 40}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.PublishMsg(t.Context(), forged); err != nil {
		t.Fatal(err)
	}
	wantBreak(t, b, 4, BreakUnsigned)
	if left, err := b.AcceptBreak(t.Context(), operator, 4, 0, "a test of our monitoring"); err != nil || left != nil {
		t.Fatalf("%+v, %v", left, err)
	}
	soon := time.Now().Add(auditAge - closingAhead/2)
	if err := b.closeOld(t.Context(), soon); err != nil {
		t.Fatal(err)
	}
	r, err := b.RecordAt(t.Context(), 6)
	if err != nil || r.Action != ActionClosed || r.Closing == nil || r.Closing.From != 1 || r.Closing.To != 5 {
		t.Fatalf("%+v, %v", r, err)
	}
	if report, err := b.VerifyAudit(t.Context()); err != nil || report.Break != nil {
		t.Errorf("%+v, %v", report.Break, err)
	}
}
