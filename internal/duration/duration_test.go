package duration

import (
	"regexp"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	pattern := regexp.MustCompile(Pattern)
	for text, want := range map[string]time.Duration{
		"0": 0, "30s": 30 * time.Second, "1h30m": 90 * time.Minute, "500ms": 500 * time.Millisecond, "31d": 31 * Day, "1d12h": 36 * time.Hour, "0.5d": 12 * time.Hour, "0d": 0,
		"7d1s": 7*Day + time.Second, "-5m": -5 * time.Minute, "-1d12h": -36 * time.Hour, "106751d": 106751 * Day,
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", text, got, err, want)
		}
		if text[0] != '-' && !pattern.MatchString(text) {
			t.Errorf("%s does not match the pattern", text)
		}
		if again, err := Parse(Format(got)); err != nil || again != got {
			t.Errorf("%s is written as %s", text, Format(got))
		}
	}
	for _, text := range []string{"", "d", "3", "3D", "3 d", "3days", "1d2d", "12h1d", "1d-2h", "1d+2h", "--1d", "+1d", "1e3d", "NaNd", "Infd", "-d", ".d", "106752d", "106751d24h", "99999999999999999999d", "1w", "1d ", "0x1d"} {
		if got, err := Parse(text); err != errSyntax {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 30 * Day: "30d", 36 * time.Hour: "1d12h", time.Hour: "1h", 90 * time.Second: "1m30s", Day + time.Minute: "1d1m", 10 * time.Second: "10s", 10 * time.Minute: "10m"} {
		if got := Format(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
