package desk

import (
	"math/rand/v2"
	"testing"
	"time"
)

// The counts do not depend on the order in which mails are counted.
func TestLately(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Date(2026, 1, 2, 3, 4, 30, 0, time.UTC)
	for range 200 {
		l := throughput{map[string]*minutes{}}
		var all []int64
		clock := now
		for range rng.IntN(300) {
			clock = clock.Add(time.Duration(rng.IntN(90)) * time.Second)
			at := clock.Add(-time.Duration(rng.IntN(150)) * time.Second).Unix() // the clocks of replicas and the order of the ledger differ
			l.add("a", at)
			all = append(all, at)
			if rng.IntN(50) == 0 {
				clock = clock.Add(time.Duration(rng.IntN(100)) * time.Minute)
			}
		}
		want := 0
		for _, at := range all {
			if minute, last := at/60, clock.Unix()/60; minute > last-5 && minute <= last {
				want++
			}
		}
		if got := l.of("a", clock); got != want {
			t.Fatalf("%d mails, want %d", got, want)
		}
	}
	l := throughput{map[string]*minutes{}}
	if l.add("a", now.Unix()); l.of("a", now.Add(time.Hour)) != 0 || l.of("b", now) != 0 {
		t.Error("mails of another time or lane are counted")
	}
}
