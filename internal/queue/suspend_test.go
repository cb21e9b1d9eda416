package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/nats-io/nats.go/jetstream"
)

// laneState waits until every runner reports this state of the lane.
func (b *fixture) laneState(what, lane string, is func(broker.LaneStatus) bool, runners ...*Runner) {
	b.t.Helper()
	for _, r := range append(runners, b.runner) {
		b.until(what, func() bool {
			return slices.ContainsFunc(r.LaneStatus(), func(s broker.LaneStatus) bool { return s.Lane == lane && is(s) })
		})
	}
}

func pausedFor(why string) func(broker.LaneStatus) bool {
	return func(s broker.LaneStatus) bool { return s.Paused == why && s.InFlight == 0 }
}

// untouched fails unless that many deliveries wait in the lane and no process has fetched
// one of them.
func (b *fixture) untouched(lane string, deliveries uint64) {
	b.t.Helper()
	c, err := b.broker.JetStream().Consumer(context.Background(), broker.DeliveriesStream, broker.LaneConsumerPrefix+lane)
	if err != nil {
		b.t.Fatal(err)
	}
	info := c.CachedInfo()
	if info.NumAckPending != 0 || info.NumPending != deliveries {
		b.t.Errorf("lane %s: %d taken, %d waiting, want none and %d", lane, info.NumAckPending, info.NumPending, deliveries)
	}
}

func TestSuspendedLaneWaitsAndLosesNothing(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("quiet@relay1", "loud@relay2"), nil)
	ctx := context.Background()
	second := b.replica()
	b.laneState("both lanes", "relay1", func(broker.LaneStatus) bool { return true }, second.runner)

	if err := b.broker.Suspend(ctx, broker.Suspension{Lane: "relay1"}, tester); err == nil {
		t.Error("suspended without a reason")
	}
	if err := b.broker.Suspend(ctx, broker.Suspension{Lane: "relay9", Reason: "typing"}, tester); err == nil || err.Error() != `unknown lane "relay9": want one of relay1, relay2` {
		t.Errorf("suspending a lane that is not there: %v", err)
	}
	if err := b.broker.Suspend(ctx, broker.Suspension{Lane: "relay1", Reason: "maintenance"}, tester); err != nil {
		t.Fatal(err)
	}
	b.laneState("the suspension", "relay1", pausedFor(broker.PausedSuspended), second.runner)
	const n = 30
	for i := range n {
		b.publish(event(fmt.Sprintf("e%d", i), "quiet", "loud"))
	}
	b.until("the other lane's mails", func() bool {
		backlog, err := b.broker.Backlog(ctx)
		return err == nil && backlog.Events == 0 && backlog.Deliveries == n
	})
	b.untouched("relay1", n)

	// It stays in force for a process that starts later.
	second.stop()
	b.stop()
	b.run()
	b.laneState("the suspension after a restart", "relay1", pausedFor(broker.PausedSuspended))
	b.untouched("relay1", n)
	if tried := b.fake.tried("quiet"); tried != 0 {
		t.Fatalf("tried %d times while suspended", tried)
	}

	infos, err := b.broker.LaneInfos(ctx)
	if err != nil || len(infos) != 2 || infos[0].Waiting != n || infos[0].Suspension == nil || infos[0].Suspension.Reason != "maintenance" || infos[1].Suspension != nil {
		t.Errorf("lanes: %+v, %v", infos, err)
	}
	if err := b.broker.Resume(ctx, "relay1", tester, ""); err != nil {
		t.Fatal(err)
	}
	if err := b.broker.Resume(ctx, "relay1", tester, ""); !errors.Is(err, broker.ErrNotSuspended) {
		t.Errorf("resumed twice: %v", err)
	}
	b.settled()
	for i := range n {
		id := fmt.Sprintf("e%d", i)
		if got := len(b.fake.mails(id)); got != 2 {
			t.Errorf("event %s: %d mails, want one for each target", id, got)
		}
		if e := b.entry("quiet", id); e.Attempts != 1 {
			t.Errorf("event %s: %d attempts", id, e.Attempts)
		}
	}
	if s, r := audits(t, b, "suspended"), audits(t, b, "resumed"); s != 1 || r != 1 {
		t.Errorf("audit: %d suspended, %d resumed", s, r)
	}
}

// Messages of a fetch that was open when the suspension began are NAKed without an
// attempt.
func TestSuspensionHoldsBackWhatAnOpenFetchBrings(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("quiet@relay1"), nil)
	b.laneState("an idle lane", "relay1", func(broker.LaneStatus) bool { return true })
	b.until("its fetch is open", func() bool {
		c, err := b.broker.JetStream().Consumer(context.Background(), broker.DeliveriesStream, "lane-relay1")
		return err == nil && c.CachedInfo().NumWaiting > 0
	})
	if err := b.broker.Suspend(context.Background(), broker.Suspension{Lane: "relay1", Reason: "now"}, tester); err != nil {
		t.Fatal(err)
	}
	b.until("the runner knows", func() bool { _, s := b.runner.replicas.suspension("relay1", time.Now()); return s })
	b.publish(event("e1", "quiet"))
	b.laneState("the suspension", "relay1", pausedFor(broker.PausedSuspended))
	if tried := b.fake.tried("quiet"); tried != 0 {
		t.Fatalf("tried %d times", tried)
	}
	if err := b.broker.Resume(context.Background(), "relay1", tester, ""); err != nil {
		t.Fatal(err)
	}
	b.settled()
	if e := b.entry("quiet", "e1"); e.State != broker.StateSent || e.Attempts != 1 {
		t.Errorf("ledger: %+v", e)
	}
}

func TestSuspensionEndsByItselfOrByAnyHand(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("quiet@relay1"), nil)
	b.laneState("the lane", "relay1", func(broker.LaneStatus) bool { return true })
	ctx := context.Background()
	suspend := func(until time.Time) {
		t.Helper()
		if err := b.broker.Suspend(ctx, broker.Suspension{Lane: "relay1", Reason: "a while", Until: until}, tester); err != nil {
			t.Fatal(err)
		}
	}
	end := time.Now().Add(2 * fetchWait)
	suspend(end)
	b.laneState("the suspension", "relay1", pausedFor(broker.PausedSuspended))
	b.publish(event("e1", "quiet"))
	b.settled()
	if first := b.entry("quiet", "e1").First; first.Before(end) {
		t.Errorf("tried %v before the end of the suspension", end.Sub(first))
	}
	b.runner.tidy(ctx)
	kv, err := b.broker.OpenRelays(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(ctx, "suspended.relay1"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the entry of a suspension that is over: %v", err)
	}
	if n := audits(t, b, "resumed"); n != 1 {
		t.Errorf("%d records of its end", n)
	}

	suspend(time.Time{})
	b.laneState("the suspension", "relay1", pausedFor(broker.PausedSuspended))
	b.publish(event("e2", "quiet"))
	if err := kv.Delete(ctx, "suspended.relay1"); err != nil { // as `nats kv del` does
		t.Fatal(err)
	}
	b.settled()
	// An entry that cannot be read suspends the lane too.
	if _, err := kv.PutString(ctx, "suspended.relay1", "stop!"); err != nil {
		t.Fatal(err)
	}
	b.laneState("the suspension by hand", "relay1", pausedFor(broker.PausedSuspended))
}

// A watch does not report that its bucket was deleted and created again.
//
// Fault: streams and consumers deleted. Result: noticed within seconds.
func TestSuspensionIsNoticedInABucketMadeAgain(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("quiet@relay1"), nil)
	b.stop()
	b.runner = NewRunner(b.broker, b.fake, b.set, newTestMetrics())
	b.runner.replicas.rewatch = 200 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.runner.Run(ctx) }()
	b.stop = func() { cancel(); <-done }
	b.laneState("the lane", "relay1", func(broker.LaneStatus) bool { return true })
	if err := b.broker.Suspend(ctx, broker.Suspension{Lane: "relay1", Reason: "before"}, tester); err != nil {
		t.Fatal(err)
	}
	b.laneState("the suspension", "relay1", pausedFor(broker.PausedSuspended))
	if err := b.broker.JetStream().DeleteStream(ctx, "KV_"+broker.RelaysBucket); err != nil {
		t.Fatal(err)
	}
	b.runner.lanes.trigger <- struct{}{}
	b.laneState("the end of the deleted suspension", "relay1", func(s broker.LaneStatus) bool { return s.Paused == "" })
	if err := b.broker.Suspend(ctx, broker.Suspension{Lane: "relay1", Reason: "after"}, tester); err != nil {
		t.Fatal(err)
	}
	b.laneState("the suspension in the new bucket", "relay1", pausedFor(broker.PausedSuspended))
}
