package queue

import (
	"testing"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// TestActivity: attempts count for an hour, those that were not made do not, and the times of the
// last ones stay.
func TestActivity(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 12, 0, 30, 0, time.UTC)
	a := &activity{now: func() time.Time { return now }}
	if a.lately() != nil {
		t.Error("there was activity before the first attempt")
	}
	a.note(nil, &verdict.Failure{Untried: true})
	a.note(nil, &verdict.Failure{Skip: true})
	if a.lately() != nil {
		t.Error("an attempt that was not made counts")
	}
	a.note(&verdict.Receipt{}, nil)
	a.note(nil, verdict.Fail(verdict.SMTPPermanent, verdict.PhaseRcpt, "no"))
	first := now
	now = now.Add(59 * time.Minute)
	a.note(nil, verdict.Fail(verdict.SMTPTransient, verdict.PhaseRcpt, "later"))
	if got := a.lately(); got.Accepted != 1 || got.Failed != 2 || !got.LastAccepted.Equal(first) || !got.LastFailed.Equal(now) || got.Failure != verdict.SMTPTransient {
		t.Errorf("within the hour: %+v", got)
	}
	now = now.Add(time.Minute) // the first minute is over an hour ago
	if got := a.lately(); got.Accepted != 0 || got.Failed != 1 || !got.LastAccepted.Equal(first) {
		t.Errorf("after an hour: %+v", got)
	}
	now = now.Add(24 * time.Hour)
	if got := a.lately(); got.Accepted != 0 || got.Failed != 0 || got.LastFailed.IsZero() {
		t.Errorf("a day later: %+v", got)
	}
}
