package verdict

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Rate limits mails to a relay: at most Count in any period of length Per (a
// sliding window). The zero Rate means no limit.
type Rate struct {
	Count int           `yaml:"-"`
	Per   time.Duration `yaml:"-"`
}

var units = []struct {
	name string
	per  time.Duration
}{{"s", time.Second}, {"min", time.Minute}, {"h", time.Hour}, {"day", 24 * time.Hour}}

// maxCount bounds Count: a larger number is taken for a typing mistake.
const maxCount = 1_000_000

// UnmarshalYAML reads a number of mails and a period: 14/s, 100/min, 1000/h, 500/day.
func (r *Rate) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return err
	}
	count, span, _ := strings.Cut(text, "/")
	n, err := strconv.Atoi(strings.TrimSpace(count))
	if err == nil && n > 0 && n <= maxCount {
		for _, u := range units {
			if strings.TrimSpace(span) == u.name {
				*r = Rate{n, u.per}
				return nil
			}
		}
	}
	return errors.New("want a number of mails and a period (s, min, h, day), such as 14/s or 500/day")
}

// String returns the rate as UnmarshalYAML reads it, such as 14/s; "" when there is
// no limit.
func (r Rate) String() string {
	if r.IsZero() {
		return ""
	}
	for _, u := range units {
		if r.Per == u.per {
			return strconv.Itoa(r.Count) + "/" + u.name
		}
	}
	return strconv.Itoa(r.Count) + "/" + r.Per.String()
}

// MarshalText returns the text of String.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the text of MarshalText; an empty text means no limit.
func (r *Rate) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*r = Rate{}
		return nil
	}
	return r.UnmarshalYAML(func(into any) error { *into.(*string) = string(text); return nil })
}

// IsZero reports whether there is no limit.
func (r Rate) IsZero() bool { return r.Count == 0 }
