package verdict

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Rate is how many mails may go to a relay in any span of time that is Per long.
// The zero Rate is no limit.
type Rate struct {
	Count int           `yaml:"-"`
	Per   time.Duration `yaml:"-"`
}

var units = []struct {
	name string
	per  time.Duration
}{{"s", time.Second}, {"min", time.Minute}, {"h", time.Hour}, {"day", 24 * time.Hour}}

// maxCount keeps a typing mistake from being a limit.
const maxCount = 1_000_000

// UnmarshalYAML reads a number and a span: 14/s, 100/min, 1000/h, 500/day.
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
	return errors.New("want a number of mails and a span (s, min, h, day), such as 14/s or 500/day")
}

// String is the rate as it is written; "" when there is no limit.
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

// MarshalText writes the rate as String does.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText writes; no text is no limit.
func (r *Rate) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*r = Rate{}
		return nil
	}
	return r.UnmarshalYAML(func(into any) error { *into.(*string) = string(text); return nil })
}

// IsZero reports that there is no limit.
func (r Rate) IsZero() bool { return r.Count == 0 }
