package payload

import (
	"regexp"
	"strings"
	"testing"
)

// Fault: ids and file names. Result: safe file names.
func TestFileName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"web1.example.com":               "web1.example.com",
		"*.example.com":                  "_wildcard.example.com",
		"Web1.Example.com":               "Web1.Example.com",
		"xn--bcher-kva.example":          "xn--bcher-kva.example",
		"bücher.example":                 "xn--bcher-kva.example",
		"*.bücher.example":               "_wildcard.xn--bcher-kva.example",
		"2001:db8::1":                    "2001_db8__1",
		"ops@example.com":                "ops_example.com",
		"My Certificate":                 "My_Certificate",
		"../../etc/passwd":               "_._etc_passwd",
		"..":                             "certificate",
		".hidden":                        "hidden",
		"-rf":                            "rf",
		"":                               "certificate",
		"\u202e\x00":                     "certificate",
		"名前":                             "xn--ldr85b",
		"con":                            "_con",
		"CON.example.com":                "_CON.example.com",
		"com1.example.com":               "_com1.example.com",
		"lpt9":                           "_lpt9",
		"console.example.com":            "console.example.com",
		"com10.example.com":              "com10.example.com",
		"trailing.":                      "trailing",
		`C:\x|y"<z>?*`:                   "C__x_y__z___",
		strings.Repeat("a", 300):         strings.Repeat("a", maxFileName),
		strings.Repeat("a", 99) + ".com": strings.Repeat("a", 99),
	} {
		if got := FileName(in); got != want {
			t.Errorf("fileName(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzFileName(f *testing.F) {
	for _, s := range []string{"*.example.com", "..\\..", "CON", "bücher.example", "a\r\nb", "\xff"} {
		f.Add(s)
	}
	allowed := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
	f.Fuzz(func(t *testing.T, s string) {
		got := FileName(s)
		if !allowed.MatchString(got) || len(got) > maxFileName+1 || strings.HasSuffix(got, ".") || strings.Contains(got, "..") || device(got) {
			t.Fatalf("fileName(%q) = %q", s, got)
		}
	})
}
