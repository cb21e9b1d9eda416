package desk

import (
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// TestLanesSayWhatIsKnown: a lane delivers only if mails were accepted; that its relay answers is
// not enough.
func TestLanesSayWhatIsKnown(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name          string
		activity      *broker.LaneActivity
		words, lately string
	}{
		{"no attempt", nil, "ready", ""},
		{"refused, all of them", &broker.LaneActivity{Failed: 80, LastFailed: at, Failure: verdict.SMTPPermanent}, "nothing succeeds",
			"0 of 80 attempts in the last hour succeeded; last failure SMTP_PERMANENT at 2026-11-29 08:00 UTC"},
		{"some", &broker.LaneActivity{Accepted: 3, Failed: 1, LastAccepted: at, LastFailed: at.Add(-time.Minute), Failure: verdict.SMTPTransient}, "delivers",
			"3 of 4 attempts in the last hour succeeded, the last at 2026-11-29 08:00 UTC; last failure SMTP_TRANSIENT at 2026-11-29 07:59 UTC"},
		{"yesterday", &broker.LaneActivity{LastAccepted: at}, "ready", "no attempt in the last hour, the last at 2026-11-29 08:00 UTC"},
	} {
		state := StateOf(broker.LaneInfo{Lane: "relay", Replicas: 1, Activity: c.activity})
		if state.Words != c.words || state.Lately != c.lately {
			t.Errorf("%s: %q, %q, want %q, %q", c.name, state.Words, state.Lately, c.words, c.lately)
		}
		if (c.words == NothingSucceeds) != strings.Contains(state.Why, "none of") {
			t.Errorf("%s: why: %q", c.name, state.Why)
		}
	}
	away := StateOf(broker.LaneInfo{Lane: "relay", Replicas: 1, Activity: &broker.LaneActivity{Accepted: 1, LastAccepted: at},
		Statuses: []broker.LaneStatus{{Breaker: broker.BreakerOpen}}})
	if away.Words != "relay does not answer" || !strings.HasPrefix(away.Lately, "1 of 1 attempts") {
		t.Errorf("a relay that does not answer any more: %+v", away)
	}
}
