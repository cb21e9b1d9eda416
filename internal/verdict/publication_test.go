package verdict

import (
	"testing"
	"time"
)

// Sequences decide within one stream, times across streams: a new stream, or one restored from a
// backup, begins with low sequences again.
//
// Fault: the stream of events is made anew or restored from a backup. Result: its events count as newer than all
// before.
func TestPublicationOrder(t *testing.T) {
	t.Parallel()
	at := func(sequence uint64, after time.Duration) Publication {
		return Publication{Sequence: sequence, At: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(after)}
	}
	for _, c := range []struct {
		name         string
		first, later Publication
		unordered    bool
	}{
		{"one stream", at(7, 0), at(8, time.Hour), false},
		{"a leader whose clock is behind", at(7, 20*time.Second), at(8, 0), false},
		{"a stream made anew", at(900, 0), at(1, time.Hour), false},
		{"sequences only", Publication{Sequence: 7}, at(8, 0), false},
		{"times only", Publication{At: at(0, 0).At}, at(3, time.Second), false},
		{"the same event", at(7, 0), at(7, 0), true},
		{"nothing is known of one", Publication{}, at(8, 0), true},
		{"nothing in common", Publication{Sequence: 7}, Publication{At: at(0, 0).At}, true},
	} {
		if got := c.first.Before(c.later); got == c.unordered {
			t.Errorf("%s: before is %v", c.name, got)
		}
		if c.later.Before(c.first) {
			t.Errorf("%s: the later one counts as earlier", c.name)
		}
		if got := c.later.Earlier(c.first); !c.unordered && got != c.first || c.unordered && got != c.later {
			t.Errorf("%s: the earlier one is %v", c.name, got)
		}
		for _, p := range []Publication{c.first, c.later} {
			if got := ParsePublication(p.String()); got != p {
				t.Errorf("%s: %q is read as %v, want %v", c.name, p, got, p)
			}
		}
	}
	for _, text := range []string{"", "x", "-1", "7 yesterday", " ", "7 "} {
		if got := ParsePublication(text); got.Known() {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}
