package legible

import (
	"testing"
	"time"
)

func TestDays(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	for _, c := range []struct {
		to   time.Time
		want int
	}{
		{now, 0}, {now.Add(24*time.Hour - time.Second), 0}, {now.Add(24 * time.Hour), 1}, {now.Add(-36 * time.Hour), -1}, {now.AddDate(400, 0, 0), 146097}, {end, 2912380},
	} {
		if got := Days(now, c.to); got != c.want {
			t.Errorf("to %v: got %d days, want %d", c.to, got, c.want)
		}
	}
	if !Endless(end) || Endless(end.Add(time.Second)) || Endless(now) {
		t.Error("only 9999-12-31 23:59:59 is no end")
	}
}
