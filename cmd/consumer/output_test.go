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
		{40, 6 + 16 + 11 + 16 + 3*columnGap}, // no narrower than that
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
