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
		name     string
		activity *broker.LaneActivity
		words    string
		why      bool   // the text is the reason of the state
		said     string // once, as the reason or for itself
	}{
		{"no attempt", nil, "ready", false, ""},
		{"refused, all of them", &broker.LaneActivity{Failed: 80, LastFailed: at, Failure: verdict.SMTPPermanent}, "nothing succeeds", true,
			"0 of 80 attempts in the last hour succeeded; last failure SMTP_PERMANENT at 2026-11-29 08:00 UTC"},
		{"some", &broker.LaneActivity{Accepted: 3, Failed: 1, LastAccepted: at, LastFailed: at.Add(-time.Minute), Failure: verdict.SMTPTransient}, "delivers", false,
			"3 of 4 attempts in the last hour succeeded, the last at 2026-11-29 08:00 UTC; last failure SMTP_TRANSIENT at 2026-11-29 07:59 UTC"},
		{"yesterday", &broker.LaneActivity{LastAccepted: at}, "ready", false, "no attempt in the last hour, the last at 2026-11-29 08:00 UTC"},
	} {
		state := StateOf(broker.LaneInfo{Lane: "relay", Replicas: 1, Activity: c.activity})
		want := LaneState{Words: c.words, Lately: c.said}
		if c.why {
			want.Why, want.Lately = c.said, ""
		}
		if state != want {
			t.Errorf("%s: %+v, want %+v", c.name, state, want)
		}
	}
	waits := StateOf(broker.LaneInfo{Lane: "relay", Replicas: 1, Waiting: 1})
	if waits.Words != "waits for the next try" || !strings.Contains(waits.Why, "deliveries list --state waiting") {
		t.Errorf("a lane in which a delivery waits, after a restart: %+v", waits)
	}
	away := StateOf(broker.LaneInfo{Lane: "relay", Replicas: 1, Activity: &broker.LaneActivity{Accepted: 1, LastAccepted: at},
		Statuses: []broker.LaneStatus{{Breaker: broker.BreakerOpen}}})
	if away.Words != "relay does not answer" || !strings.HasPrefix(away.Lately, "the only attempt in the last hour succeeded") {
		t.Errorf("a relay that does not answer any more: %+v", away)
	}
}
