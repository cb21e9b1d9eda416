// Package duration reads and writes durations as people type them, in configuration, flags, forms and requests: Go's
// syntax, and days.
package duration

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// Pattern matches what Parse reads, for JSON Schemas. Signs are left out: no setting takes them.
const Pattern = `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h|d))+)$`

// Day is 24 hours, also where a clock is changed on that day.
const Day = 24 * time.Hour

var errSyntax = errors.New("want a duration such as 30s, 5m, 72h or 3d")

// Parse reads a duration such as 90s, 1h30m or 31d, 1d12h. The days come first. The error quotes nothing.
func Parse(text string) (time.Duration, error) {
	unsigned, negative := strings.CutPrefix(text, "-")
	days, rest, found := strings.Cut(unsigned, "d")
	if !found {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, errSyntax
		}
		return d, nil
	}
	n, err := strconv.ParseFloat(days, 64)
	if err != nil || strings.Trim(days, ".0123456789") != "" || n > float64(math.MaxInt64/Day) {
		return 0, errSyntax
	}
	d := time.Duration(n * float64(Day))
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil || strings.ContainsAny(rest[:1], "+-") || more > math.MaxInt64-d {
			return 0, errSyntax
		}
		d += more
	}
	if negative {
		d = -d
	}
	return d, nil
}

// Format writes a duration as Parse reads it, without units that are zero: 30d, 1d12h, 1h, 90s as 1m30s.
func Format(d time.Duration) string {
	if d < Day {
		return trimmed(d.String())
	}
	text := strconv.FormatInt(int64(d/Day), 10) + "d"
	if rest := d % Day; rest != 0 {
		text += trimmed(rest.String())
	}
	return text
}

func trimmed(text string) string {
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
