package queue

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
	"github.com/rs/zerolog"
)

// rated makes the target take each mail from the rate, as the real courier does; given
// returns the times at which it got one.
func (p *fakeCourier) rated(target string, limit func() verdict.Rate) (given func() []time.Time) {
	var mu sync.Mutex
	var times []time.Time
	p.plan(target, func(_ int, a verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if wait := a.Limits.Take("relay1:25", limit()); wait > 0 {
			return nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseConnect, Reason: "limit"}, Untried: true, After: wait}
		}
		mu.Lock()
		defer mu.Unlock()
		times = append(times, time.Now())
		return nil, nil
	})
	return func() []time.Time {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(times)
	}
}

// Fault: two replicas. Result: share the rates of relays.
func TestReplicasShareARate(t *testing.T) {
	t.Parallel()
	limit := verdict.Rate{Count: 40, Per: time.Hour}
	fake := newFakeCourier("ops@relay1")
	fake.setRelays("relay1", []verdict.RelayStatus{{Relay: "relay1:25", Breaker: verdict.Closed, MaxRate: limit}})
	given := fake.rated("ops", func() verdict.Rate { return limit })
	b := start(t, fake, nil)
	second := b.replica()
	defer second.stop()
	const n = 150
	for i := range n {
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	b.until("both wait for the rate", func() bool {
		for _, s := range append(b.runner.LaneStatus(), second.runner.LaneStatus()...) {
			if s.Paused != broker.PausedRate || s.InFlight > 0 {
				return false
			}
		}
		return len(given()) >= limit.Count
	})
	mails, started := 0, 0
	for i := range n {
		id := fmt.Sprintf("e%d", i)
		got := len(b.fake.mails(id))
		mails += got
		e := b.entry("ops", id)
		if started += e.Attempts; got > 1 || e.Attempts != got {
			t.Errorf("event %s: %d mails, %d attempts", id, got, e.Attempts)
		}
	}
	if got := len(given()); got != 40 || mails != 40 || started != 40 {
		t.Errorf("%d permits, %d mails, %d attempts; want the 40 of this hour from both together", got, mails, started)
	}
}

func TestRatePerDaySurvivesRestarts(t *testing.T) {
	t.Parallel()
	limit := verdict.Rate{Count: 5, Per: 24 * time.Hour}
	var now atomic.Pointer[verdict.Rate]
	set := func(r verdict.Rate, fake *fakeCourier) {
		now.Store(&r)
		fake.setRelays("relay1", []verdict.RelayStatus{{Relay: "relay1:25", Breaker: verdict.Closed, MaxRate: r}})
	}
	fake := newFakeCourier("ops@relay1")
	set(limit, fake)
	given := fake.rated("ops", func() verdict.Rate { return *now.Load() })
	b := start(t, fake, nil)
	const n = 12
	for i := range n {
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	b.until("five mails", func() bool { return len(given()) == limit.Count })
	b.laneState("the limit", "relay1", pausedFor(broker.PausedRate))
	b.close()
	b.open()
	b.run()
	b.laneState("the limit after a restart", "relay1", pausedFor(broker.PausedRate))
	b.until("nothing is in work", func() bool {
		c, err := b.broker.JetStream().Consumer(context.Background(), broker.DeliveriesStream, "lane-relay1")
		return err == nil && c.CachedInfo().NumPending+uint64(c.CachedInfo().NumAckPending) == n-5
	})
	if got := len(given()); got != limit.Count {
		t.Fatalf("%d mails, want %d a day", got, limit.Count)
	}
	set(verdict.Rate{Count: n, Per: 24 * time.Hour}, fake)
	b.runner.lanes.wakeAll()
	b.settled()
	for i := range n {
		if e := b.entry("ops", fmt.Sprintf("e%d", i)); e.State != broker.StateSent || e.Attempts != 1 {
			t.Errorf("event e%d: %+v", i, e)
		}
	}
}

// While the rate is exhausted nothing is fetched: no acknowledgement wait runs.
func TestNothingIsFetchedWithoutRoom(t *testing.T) {
	t.Parallel()
	limit := verdict.Rate{Count: 3, Per: time.Hour}
	fake := newFakeCourier("ops@relay1")
	fake.setRelays("relay1", []verdict.RelayStatus{{Relay: "relay1:25", Breaker: verdict.Closed, MaxRate: limit}})
	b := start(t, fake, nil)
	for range limit.Count {
		if wait := b.runner.meter.take("relay1:25", limit); wait != 0 {
			t.Fatalf("wait %v", wait)
		}
	}
	b.laneState("the limit", "relay1", pausedFor(broker.PausedRate))
	for i := range 10 {
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	b.until("all wait", func() bool {
		backlog, err := b.broker.Backlog(context.Background())
		return err == nil && backlog.Events == 0 && backlog.Deliveries == 10
	})
	b.untouched("relay1", 10)
	if n := b.fake.tried("ops"); n != 0 {
		t.Errorf("tried %d times", n)
	}
}

// An entry that cannot be read counts as the whole limit, from the time at which it was
// written.
func TestRateEntryThatCannotBeRead(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops@relay1"), nil)
	limit := verdict.Rate{Count: 100, Per: 500 * time.Millisecond}
	if _, err := b.runner.meter.kv.PutString(context.Background(), relayKey(broker.RatePrefix, "relay1:25"), "what?"); err != nil {
		t.Fatal(err)
	}
	if wait := b.runner.meter.take("relay1:25", limit); wait <= 0 || wait > windowLength(limit) {
		t.Fatalf("wait %v", wait)
	}
	b.until("the span is over", func() bool { return b.runner.meter.take("relay1:25", limit) == 0 })
}

func TestRateKeys(t *testing.T) {
	t.Parallel()
	for relay, want := range map[string]string{"smtp.example.com:587": "rate.smtp.example.com=587", "[2001:db8::1]:25": "rate.2001=db8==1=25"} {
		if got := relayKey(broker.RatePrefix, relay); got != want {
			t.Errorf("%s: %s", relay, got)
		}
	}
	if key := relayKey(broker.RatePrefix, "[fe80::1%eth0]:25"); !validKey.MatchString(key) {
		t.Errorf("%s is not a valid key", key)
	}
}

// The count is right when several callers ask at the same time, here in two processes.
func TestThoseWhoAskAtOnceAreCounted(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops@relay1"), nil)
	other := newMeter(b.runner.meter.kv, zerolog.Nop(), func(string, string, error) {}, func(string, int) {})
	limit := verdict.Rate{Count: 100, Per: time.Hour}
	var wg sync.WaitGroup
	var refused atomic.Int32
	for i := range 150 {
		wg.Go(func() {
			if []*meter{b.runner.meter, other}[i%2].take("relay1:25", limit) > 0 {
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if n := refused.Load(); n != 50 {
		t.Errorf("%d of 150 were refused, want 50", n)
	}
}
