package legible

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, in string
		max      int
		want     string
	}{
		{"plain", "web1.example.com", 100, "web1.example.com"},
		{"empty", "", 100, ""},
		{"line ends", "a\r\nBcc: b", 100, "a Bcc: b"},
		{"unicode line ends", "a\u2028b\u2029c\u0085d", 100, "a b c d"},
		{"outer and doubled spaces", "  a \t\n b\u00a0 ", 100, "a b"},
		{"only spaces", " \r\n\t ", 100, ""},
		{"NUL", "paypal.com\x00.evil.example", 100, "paypal.com\ufffd.evil.example"},
		{"escape sequences", "\x1b[31mred", 100, "\ufffd[31mred"},
		{"bidi override", "cert\u202egpj.exe", 100, "cert\ufffdgpj.exe"},
		{"isolates", "\u2066a\u2069", 100, "\ufffda\ufffd"},
		{"zero width", "exa\u200bmp\u200d\ufeffle", 100, "exa\ufffdmp\ufffdle"},
		{"tags", "a\U000e0041\U000e0042b", 100, "a\ufffdb"},
		{"letters without ink", "a\u3164b\u115fc", 100, "a\ufffdb\ufffdc"},
		{"soft hyphen", "ex\u00adample", 100, "ex\ufffdample"},
		{"invalid UTF-8", "a\xff\xfeb\xc3", 100, "a\ufffdb\ufffd"},
		{"umlauts stay", "bücher.example", 100, "bücher.example"},
		{"right to left letters stay", "דוגמה", 100, "דוגמה"},
		{"cut", strings.Repeat("a", 101), 100, strings.Repeat("a", 97) + "…"},
		{"just fits", strings.Repeat("a", 100), 100, strings.Repeat("a", 100)},
		{"cut at a rune", strings.Repeat("ü", 10), 10, "üüü…"},
		{"cut before a space", "aaaa bbbb", 8, "aaaa…"},
		{"no room for an ellipsis", "abcd", 2, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := Clean(c.in, c.max); got != c.want {
				t.Errorf("Clean(%q, %d) = %q, want %q", c.in, c.max, got, c.want)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	f.Add("web1.example.com", 100)
	f.Add("a\r\n\u202e\x00\xff", 7)
	f.Add(strings.Repeat("ü ", 60), 11)
	f.Fuzz(func(t *testing.T, s string, max int) {
		max = min(max&0xffff, 4096)
		got := Clean(s, max)
		if len(got) > max {
			t.Fatalf("Clean(%q, %d) has %d bytes", s, max, len(got))
		}
		if !utf8.ValidString(got) {
			t.Fatalf("Clean(%q, %d) = %q is not UTF-8", s, max, got)
		}
		for _, r := range got {
			if r != utf8.RuneError && (r != ' ' && unicode.IsSpace(r) || Hidden(r)) {
				t.Fatalf("Clean(%q, %d) = %q holds %U", s, max, got, r)
			}
		}
		if strings.Contains(got, "  ") || strings.TrimSpace(got) != got {
			t.Fatalf("Clean(%q, %d) = %q has double, leading or trailing spaces", s, max, got)
		}
		if again := Clean(got, max); again != got {
			t.Fatalf("Clean(%q, %d) = %q, and cleaned again %q", s, max, got, again)
		}
	})
}

func TestHeaderDefusesEncodedWords(t *testing.T) {
	t.Parallel()
	got := Header("=?utf-8?q?=0D=0ABcc=3A_x@evil.example?= =\x00?utf-8?q?x?=", 200)
	if strings.Contains(got, "=?") {
		t.Errorf("%q would be decoded by a mail program", got)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add("=?utf-8?q?x?=", 100)
	f.Add("a\r\n\u202e\x00\xff", 7)
	f.Fuzz(func(t *testing.T, s string, max int) {
		max = min(max&0xffff, 4096)
		if header := Header(s, max); strings.Contains(header, "=?") || strings.ContainsAny(header, "\r\n") || len(header) > max {
			t.Fatalf("Header(%q, %d) = %q", s, max, header)
		}
	})
}
