package queue

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// A relay that is down, with more deliveries waiting than a lane may have pending, does
// not stop the other relays of a shared lane.
func TestSharedLaneGoesOn(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("down@shared-007", "up@shared-007"), func(s *Settings) { s.Concurrency = 32 })
	var back atomic.Bool
	b.fake.plan("down", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		if back.Load() {
			return nil, nil
		}
		return nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPConnect, Phase: verdict.PhaseConnect, Reason: "breaker open"}, Relay: true, Untried: true, After: 20 * time.Second}
	})
	open := verdict.RelayStatus{Relay: "down:25", Breaker: verdict.Open, Wait: 20 * time.Second, Reason: "it does not answer"}
	closed := verdict.RelayStatus{Relay: "up:25", Breaker: verdict.Closed}
	b.fake.setRelays("shared-007", []verdict.RelayStatus{open}, []verdict.RelayStatus{closed})
	const dead, alive = 1_200, 50 // a lane's consumer may have 1,000 pending
	for i := range dead {
		b.publish(event(fmt.Sprintf("d%d", i), "down"))
	}
	for i := range alive {
		b.publish(event(fmt.Sprintf("u%d", i), "up"))
	}
	b.until("the other relay's mails", func() bool {
		b.fake.mu.Lock()
		defer b.fake.mu.Unlock()
		return len(b.fake.mailbox) == alive
	})
	b.laneState("the lane's breakers", "shared-007", func(s broker.LaneStatus) bool {
		return s.Breaker == broker.BreakerPartly && s.Paused == "" && len(s.Relays) == 1 && s.Relays[0].Relay == "down:25"
	})
	back.Store(true)
	b.fake.setRelays("shared-007", []verdict.RelayStatus{closed})
	b.settled()
	b.fake.mu.Lock()
	defer b.fake.mu.Unlock()
	if len(b.fake.mailbox) != dead+alive {
		t.Errorf("%d mails, want each of %d once", len(b.fake.mailbox), dead+alive)
	}
}

// With a relay that never answers again, all deliveries that are too old expire, not only
// one per pause of the breaker.
func TestTooOldForARelayThatIsAway(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops@relay1"), func(s *Settings) { s.GiveUpAfter = time.Nanosecond })
	halfOpen := verdict.RelayStatus{Relay: "relay1:25", Breaker: verdict.HalfOpen, Reason: "it does not answer"}
	b.fake.setRelays("relay1", []verdict.RelayStatus{halfOpen})
	b.fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		open := halfOpen
		open.Breaker, open.Wait = verdict.Open, time.Hour
		b.fake.setRelays("relay1", []verdict.RelayStatus{open})
		return nil, &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPConnect, Phase: verdict.PhaseConnect, Reason: "it does not answer"}, Relay: true, After: time.Hour}
	})
	for i := range 20 {
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	b.settled()
	if l := b.letters(); len(l) != 20 || l[0].Code != verdict.DeliveryExpired {
		t.Errorf("%d letters: %+v", len(l), l)
	}
}

// The first relay of the target is down and its fallback is not: the lane continues.
func TestLaneWithAFallbackGoesOn(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops@relay1"), nil)
	b.fake.setRelays("relay1", []verdict.RelayStatus{
		{Relay: "first:25", Breaker: verdict.Open, Wait: time.Hour, Reason: "it does not answer"}, {Relay: "second:25", Breaker: verdict.Closed},
	})
	b.publish(event("e1", "ops"))
	b.settled()
	b.laneState("the lane's breakers", "relay1", func(s broker.LaneStatus) bool { return s.Breaker == broker.BreakerPartly })
}

// There are never more deliveries in work than this process may have connections.
//
// Fault: accepts few connections. Result: no more are opened than the limits allow.
func TestLaneKeepsToItsConnections(t *testing.T) {
	t.Parallel()
	fake := newFakeCourier("ops@relay1")
	fake.setRelays("relay1", []verdict.RelayStatus{{Relay: "relay1:25", Breaker: verdict.Closed, MaxConnections: 3}})
	var now, most atomic.Int32
	fake.plan("ops", func(int, verdict.Attempt) (*verdict.Receipt, *verdict.Failure) {
		defer now.Add(-1)
		n := now.Add(1)
		for {
			before := most.Load()
			if n <= before || most.CompareAndSwap(before, n) {
				break
			}
		}
		time.Sleep(time.Millisecond) // the relay's work
		return nil, nil
	})
	b := start(t, fake, func(s *Settings) { s.Concurrency = 16 })
	for i := range 100 {
		b.publish(event(fmt.Sprintf("e%d", i), "ops"))
	}
	b.settled()
	if n := most.Load(); n > 3 {
		t.Errorf("%d deliveries at a time", n)
	}
}

func TestSharesOfConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sets := make([]*replicaSet, 3)
		for i, id := range []string{"a", "b", "c"} {
			sets[i] = newReplicaSet(zerolog.Nop(), newRelayPauses(nil, zerolog.Nop()), func() {})
			sets[i].id, sets[i].joined = id, time.Now()
		}
		hear := func(who *replicaSet, of ...string) {
			for _, id := range of {
				who.others[id] = peer{1, time.Now()}
			}
		}
		shares := func(total int) (list []int) {
			for _, o := range sets {
				list = append(list, o.share(total, time.Now()))
			}
			return list
		}
		if got := shares(10); !slices.Equal(got, []int{10, 10, 10}) {
			t.Errorf("alone: %v", got)
		}
		hear(sets[0], "b", "c")
		hear(sets[1], "a", "c")
		hear(sets[2], "a", "b")
		if got := shares(10); !slices.Equal(got, []int{0, 0, 0}) {
			t.Errorf("processes that just started have %v", got)
		}
		time.Sleep(broker.HeartbeatEvery)
		for total, want := range map[int][]int{10: {4, 3, 3}, 9: {3, 3, 3}, 2: {1, 1, 0}, 1: {1, 0, 0}} {
			if got := shares(total); !slices.Equal(got, want) {
				t.Errorf("%d: %v, want %v", total, got, want)
			}
		}
		time.Sleep(broker.ReplicaGoneAfter) // without any heartbeat
		if got := shares(10); !slices.Equal(got, []int{10, 10, 10}) {
			t.Errorf("after silence: %v", got)
		}
		if left := sets[0].takeGone(time.Now().Add(time.Minute)); !slices.Equal(left, []string{"b", "c"}) {
			t.Errorf("ended processes: %v", left)
		}
	})
}

// Processes find each other in the bucket, divide a total among them, and leave no keys
// behind when they end.
func TestProcessesKnowEachOther(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("ops@relay1"), nil)
	second := b.replica()
	b.until("they know each other", func() bool {
		return len(b.runner.replicas.live(time.Now())) == 2 && len(second.runner.replicas.live(time.Now())) == 2
	})
	later := time.Now().Add(broker.HeartbeatEvery)
	if a, c := b.runner.replicas.share(5, later), second.runner.replicas.share(5, later); a+c != 5 || a == 0 || c == 0 {
		t.Errorf("shares of 5: %d and %d", a, c)
	}
	second.stop()
	b.until("the first is alone again", func() bool { return len(b.runner.replicas.live(time.Now())) == 1 })
	b.until("only this process's entry is in the bucket", func() bool {
		b.runner.tidy(context.Background())
		stream, err := b.broker.JetStream().Stream(context.Background(), "KV_"+broker.RelaysBucket)
		if err != nil {
			return false
		}
		info, err := stream.Info(context.Background(), jetstream.WithSubjectFilter("$KV."+broker.RelaysBucket+"."+broker.ReplicaPrefix+">"))
		return err == nil && len(info.State.Subjects) == 1
	})
}
