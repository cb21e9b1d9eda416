package delivery

import (
	"strings"
	"testing"
)

func TestHeaderTextDefusesEncodedWords(t *testing.T) {
	t.Parallel()
	got := headerText("=?utf-8?q?=0D=0ABcc=3A_x@evil.example?= =\x00?utf-8?q?x?=", 200)
	if strings.Contains(got, "=?") {
		t.Errorf("%q would be decoded by a mail program", got)
	}
}

func FuzzHeaderText(f *testing.F) {
	f.Add("=?utf-8?q?x?=", 100)
	f.Add("a\r\n\u202e\x00\xff", 7)
	f.Fuzz(func(t *testing.T, s string, max int) {
		max = min(max&0xffff, 4096)
		if header := headerText(s, max); strings.Contains(header, "=?") || strings.ContainsAny(header, "\r\n") || len(header) > max {
			t.Fatalf("headerText(%q, %d) = %q", s, max, header)
		}
	})
}
