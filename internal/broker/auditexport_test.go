package broker

import (
	"bytes"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// exported returns the export of an audit with ten signed records, one of them a checkpoint, and
// its keys.
func exported(t *testing.T) (lines []string, keys *AuditKeys) {
	t.Helper()
	b, ring := newSignedBroker(t)
	appendRecords(t, b, 2, 3, 4)
	send(t, openedLedger(t, b), "e1")
	if err := b.WriteCheckpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	appendRecords(t, b, 6, 7, 8)
	old := *ring.text.Load()
	ring.set(NewAuditKey(), old)
	b.ForgetKeys()
	if _, err := b.Rotate(t.Context(), operator, "yearly", false); err != nil {
		t.Fatal(err)
	}
	appendRecords(t, b, 10)
	var out bytes.Buffer
	if err := b.ExportAudit(t.Context(), 1, &out); err != nil {
		t.Fatal(err)
	}
	keys, _ = ring.read(t.Context())
	return strings.SplitAfter(strings.TrimSuffix(out.String(), "\n"), "\n"), keys
}

// Fault: lines of an export are removed, changed or put in, or its end is cut off. Result: each is
// named, without NATS.
func TestAnExportIsVerifiedElsewhere(t *testing.T) {
	t.Parallel()
	lines, keys := exported(t)
	if len(lines) != 11 {
		t.Fatalf("%d lines, want 10 records and the end", len(lines))
	}
	verify := func(lines []string, keys *AuditKeys, anchors ...Anchor) AuditReport {
		report, _, err := VerifyExport(strings.NewReader(strings.Join(lines, "")), keys, anchors...)
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	report, end, err := VerifyExport(strings.NewReader(strings.Join(lines, "")), keys)
	if err != nil || report.Break != nil || report.Records != 10 || report.Signed != 10 || end == nil || !end.Signed || end.Head != report.Head {
		t.Fatalf("%+v %+v %+v, %v", report, report.Break, end, err)
	}
	with := func(n int, line string) []string {
		changed := append([]string{}, lines...)
		changed[n] = line
		return changed
	}
	without := func(n ...int) (left []string) {
		for i, line := range lines {
			if len(n) == 0 || i < n[0] || i > n[len(n)-1] {
				left = append(left, line)
			}
		}
		return left
	}
	stranger, _ := newKeyring(NewAuditKey()).read(t.Context())
	for _, c := range []struct {
		what     string
		lines    []string
		keys     *AuditKeys
		sequence uint64
		kind     BreakKind
	}{
		{"a gap", without(4, 5), keys, 5, BreakRemoved},
		{"no beginning", without(0, 1), keys, 1, BreakTruncated},
		{"no end", without(10), keys, 11, BreakTruncated},
		{"the last records are missing", without(8, 9), keys, 9, BreakTruncated},
		{"another word", with(6, strings.Replace(lines[6], "operator", "mallory!", 1)), keys, 7, BreakForged},
		{"another subject", with(6, strings.Replace(lines[6], `"subject":"certpost.audit.`, `"subject":"certpost.audit.x.`, 1)), keys, 7, BreakForged},
		{"no HMAC", with(6, strings.Replace(lines[6], `"hmac"`, `"mac"`, 1)), keys, 7, BreakUnsigned},
		{"two lines changed places", append(append(without(6, 10), lines[7], lines[6]), lines[8:]...), keys, 7, BreakRemoved},
		{"another end", with(10, strings.Replace(lines[10], `"records":10`, `"records":11`, 1)), keys, 10, BreakForged},
		{"an unsigned end", with(10, strings.Replace(lines[10], `"hmac"`, `"mac"`, 1)), keys, 10, BreakUnsigned},
		{"lines after the end", append(without(), "\n"+lines[9]), keys, 11, BreakForeign},
		{"not an export", []string{"{}\n"}, keys, 1, BreakForeign},
		{"an empty file", nil, keys, 1, BreakTruncated},
		{"another key", lines, stranger, 1, BreakKey},
		{"no key, another word", with(6, strings.Replace(lines[6], "operator", "mallory!", 1)), nil, 8, BreakChanged},
	} {
		if got := verify(c.lines, c.keys).Break; got == nil || got.Kind != c.kind || got.Sequence != c.sequence {
			t.Errorf("%s: %+v, want %s at %d", c.what, got, c.kind, c.sequence)
		}
	}
	if got := verify(lines, keys, Anchor{3, strings.Repeat("ab", 32)}).Break; got == nil || got.Kind != BreakAnchor {
		t.Errorf("another anchor: %+v", got)
	}
}

// What is not JSON on one line is exported byte for byte, and a part of an audit can be verified.
func TestAnExportKeepsEveryByte(t *testing.T) {
	t.Parallel()
	b, _ := newSignedBroker(t)
	for _, data := range []string{"{\n}", "\xff\x00", ""} {
		m := nats.NewMsg(auditPrefix + "held.ops.e")
		m.Data = []byte(data)
		if _, err := b.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := b.ExportAudit(t.Context(), 1, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for n, want := range map[int]string{1: `"bytes":"ewp9"`, 2: `"bytes":"/wA="`} {
		if len(lines) != 5 || !strings.Contains(lines[n], want) {
			t.Errorf("line %d: %s, want %s", n+1, lines[n], want)
		}
	}
	b, ring := newSignedBroker(t)
	appendRecords(t, b, 2, 3, 4)
	out.Reset()
	if err := b.ExportAudit(t.Context(), 3, &out); err != nil {
		t.Fatal(err)
	}
	keys, _ := ring.read(t.Context())
	report, _, err := VerifyExport(bytes.NewReader(out.Bytes()), keys)
	if err != nil || report.Break != nil || report.First != 3 || report.Records != 2 || report.AgedOut != 0 {
		t.Errorf("a part: %+v %+v, %v", report, report.Break, err)
	}
}
