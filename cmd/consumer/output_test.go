package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestTablesFitTheTerminal: one long cell does not make every row as wide.
func TestTablesFitTheTerminal(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ö", 200)
	rows := func() [][]string {
		return [][]string{{"NUMBER", "EVENT", "TARGET", "REASON"}, {"1", "e1", "ops-archive", "refused"}, {"2", long, "ops-archive", "the relay refused " + strings.Repeat("x", 40)}}
	}
	for _, test := range []struct{ width, want int }{
		{0, 6 + 200 + 11 + 58 + 3*columnGap}, {500, 6 + 200 + 11 + 58 + 3*columnGap}, {160, 160}, {100, 100}, {57, 57},
		{55, 55},
	} {
		got := rows()
		fitColumns(got, test.width)
		total := 0
		for i := range got[0] {
			widest := 0
			for _, row := range got {
				widest = max(widest, utf8.RuneCountInString(row[i]))
			}
			total += widest + columnGap
		}
		if total-columnGap != test.want {
			t.Errorf("width %d: got %d, want %d: %q", test.width, total-columnGap, test.want, got)
		}
		if fitColumns(rows(), 54) {
			t.Error("54 columns are too narrow, as no column has fewer than 16")
		}
		if !slices.Equal(got[1], rows()[1]) || got[2][2] != "ops-archive" {
			t.Errorf("width %d: short cells have changed: %q", test.width, got)
		}
		if test.width == 100 && !strings.HasSuffix(got[2][1], "ö…") {
			t.Errorf("width %d: %q does not say that it is cut", test.width, got[2][1])
		}
	}
	var out bytes.Buffer // not a terminal: whole texts, for scripts
	if err := table(&out, rows()[0], rows()[1:]); err != nil || !strings.Contains(out.String(), long) {
		t.Errorf("%v\n%s", err, &out)
	}
}

// A list that does not fit the terminal is printed as records, in whole: in 80 columns the
// groups of dead letters have eleven fields.
func TestWideTablesBecomeRecords(t *testing.T) {
	t.Parallel()
	head := []string{"GROUP", "COUNT", "CODE", "PHASE", "RELAY", "LAST SEEN", "TARGETS", "HELD", "SUPERSEDED", "EXPIRES", "WHAT TO DO"}
	remedy := "Check username, password and auth_method of the target, then replay."
	rows := [][]string{
		{"abcdef123456", "300", "SMTP_AUTH", "auth", "smtp-example-com-587", "2026-11-29 02:00:00Z", "3", "", "", "2027-11-29 02:00:00Z", remedy},
		{"bbcdef123456", "1", "SMTP_AUTH", "auth", "smtp-example-com-465", "2026-11-29 02:00:00Z", "1", "", "", "2027-11-29 02:00:00Z", remedy},
	}
	var out bytes.Buffer
	if err := tableWithin(&out, head, rows, rows, 80); err != nil {
		t.Fatal(err)
	}
	records := strings.Split(out.String(), "\n\n")
	if len(records) != 2 || strings.Contains(out.String(), "HELD") || strings.Contains(out.String(), "…") ||
		!strings.HasPrefix(records[0], "GROUP       abcdef123456\nCOUNT       300\n") || !strings.HasSuffix(records[0], "\nWHAT TO DO  "+remedy) {
		t.Errorf("got\n%s", &out)
	}
	out.Reset()
	if err := tableWithin(&out, head, rows, rows, 160); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 3 || strings.Contains(lines[0], "HELD") || utf8.RuneCountInString(lines[1]) > 160 {
		t.Errorf("got\n%s", &out)
	}
	// The lanes have a table in 80 columns.
	out.Reset()
	lanes := [][]string{{"smtp-example-com-587", "smtp.example.com:587 backup.example.com:587", "12000", "16", "at the relay's own limit", ""}}
	if err := tableWithin(&out, []string{"LANE", "RELAYS", "WAITING", "IN FLIGHT", "STATE", "RATE AND CONNECTIONS"}, lanes, lanes, 80); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 2 || utf8.RuneCountInString(lines[1]) > 80 || !strings.Contains(lines[1], "12000") {
		t.Errorf("got\n%s", &out)
	}
}

// Records have the whole text, not the one that was shortened for a table, and wrap it between words.
func TestRecordsHaveTheWholeText(t *testing.T) {
	t.Parallel()
	const whole = "localhost:40497 answered 550 5.1.1 to RCPT TO; the relay's reply has the cause; remove the cause, then replay"
	head := []string{"NUMBER", "TARGET", "EVENT", "CODE", "TIME", "REASON"}
	row := func(reason string) [][]string {
		return [][]string{{"1", "wrong-address", "demo-3", "SMTP_PERMANENT", "2026-11-29 02:24:50Z", reason}}
	}
	var out bytes.Buffer
	if err := tableWithin(&out, head, row("localhost:40497 answered 550…"), row(whole), 32); err != nil {
		t.Fatal(err)
	}
	want := "TIME    2026-11-29 02:24:50Z\n" +
		"REASON  localhost:40497 answered\n" +
		"        550 5.1.1 to RCPT TO;\n" +
		"        the relay's reply has\n" +
		"        the cause; remove the\n" +
		"        cause, then replay\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("got\n%s", &out)
	}
	link := "https://example.com/" + strings.Repeat("x", 80)
	for text, want := range map[string][]string{"short": {"short"}, "see " + link + " first": {"see", link, "first"}} {
		if got := wrapped(text, 40); !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	}
	if got := wrapped(whole, -12); len(got) != 1 || got[0] != whole {
		t.Errorf("without a terminal: %q", got)
	}
}

// A record whose names leave no room beside them has its values below, and the line about columns
// that are left out fits, too.
func TestNarrowRecords(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := pairsWithin(&b, 40, [2]string{"pkcs12_certificate_chain_order", "from the leaf to the last intermediate (default)"}, [2]string{"none", ""}, [2]string{"id", "ops"}); err != nil {
		t.Fatal(err)
	}
	if want := "pkcs12_certificate_chain_order\n  from the leaf to the last intermediate\n  (default)\nid\n  ops\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	b.Reset()
	if err := pairsWithin(&b, 0, [2]string{"pkcs12_certificate_chain_order", "x"}); err != nil || b.String() != "pkcs12_certificate_chain_order  x\n" {
		t.Errorf("without a terminal: %q, %v", b.String(), err)
	}
	b.Reset()
	head, row := []string{"ID", "VIA", "PROOF", "FILES", "SERIAL", "TYPE", "WHERE"}, strings.Fields("aaaaaaaaaa bbbbbbbbbbbbbbb ccccccccccccccc ddddddddddddddd eeeeeeeeeeeeeeee ffffffffffffffff ggggggggggggg")
	if err := tableWithin(&b, head, [][]string{row}, [][]string{row}, 80, "; -o wide prints all, with nothing shortened"); err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(b.String(), "\n") {
		if len(line) > 80 {
			t.Errorf("too long: %q", line)
		}
	}
	if !strings.Contains(b.String(), "left out, as the terminal is narrow: ") {
		t.Errorf("%s", b.String())
	}
}
