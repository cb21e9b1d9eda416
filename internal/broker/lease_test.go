package broker

import (
	"testing"
	"time"
)

// A lease lasts as long as its owner meant, from when the server stored it, whatever the
// clocks of owner and reader say.
func TestLeaseByTheServersClock(t *testing.T) {
	t.Parallel()
	_, l := openLedgerForTest(t)
	const length = time.Hour
	for name, off := range map[string]time.Duration{"right": 0, "ten minutes ahead": 10 * time.Minute, "ten minutes late": -10 * time.Minute, "a day late": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			claimed := time.Now().Add(off)
			key := LedgerKey("ops", "e"+off.String())
			if _, err := l.Put(t.Context(), key, Entry{State: StateSending, Claimed: claimed, Lease: claimed.Add(length)}, 0); err != nil {
				t.Fatal(err)
			}
			e, _, err := l.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			left, err := l.LeaseLeft(t.Context(), e)
			if err != nil || left > length || left < length-5*time.Minute {
				t.Errorf("left: %v, %v; want nearly %v", left, err, length)
			}
			e.Stored = e.Stored.Add(-2 * length) // as if it had been stored two hours ago
			if left, err := l.LeaseLeft(t.Context(), e); err != nil || left > 0 {
				t.Errorf("left after two hours: %v, %v", left, err)
			}
		})
	}
}
