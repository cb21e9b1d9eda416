package queue

import (
	"context"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// FollowLanes reports each change of the lanes: a process begins to serve a lane (which it
// stores at once, not with its next regular heartbeat), a lane is suspended or resumed,
// and a process ends.
func TestLanesAreFollowed(t *testing.T) {
	t.Parallel()
	b := start(t, newFakeCourier("quiet@relay1"), nil)
	infos := func() []broker.LaneInfo {
		all, err := b.broker.LaneInfos(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatalf("lanes: %+v, %v", all, err)
		}
		return all
	}
	b.until("the lane is served", func() bool {
		all, err := b.broker.LaneInfos(t.Context())
		return err == nil && len(all) == 1 && all[0].Replicas == 1
	})

	told := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- b.broker.FollowLanes(ctx, func() {
			select {
			case told <- struct{}{}:
			default:
			}
		})
	}()
	// until waits for the state of the lane, and reads it only when a change is reported.
	until := func(what string, is func(broker.LaneInfo) bool) {
		t.Helper()
		late := time.After(time.Minute)
		for {
			select {
			case <-told:
				if is(infos()[0]) {
					return
				}
			case <-late:
				t.Fatalf("%s: no change was reported", what)
			}
		}
	}
	until("the first state", func(l broker.LaneInfo) bool { return l.Replicas == 1 })

	second := NewRunner(b.broker, b.fake, b.set, newTestMetrics())
	second.replicas.every = time.Hour
	living, stop := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- second.Run(living) }()
	until("a second process", func(l broker.LaneInfo) bool { return l.Replicas == 2 })

	if err := b.broker.Suspend(t.Context(), broker.Suspension{Lane: "relay1", Reason: "maintenance"}, tester); err != nil {
		t.Fatal(err)
	}
	until("the suspension", func(l broker.LaneInfo) bool { return l.Suspension != nil })
	if err := b.broker.Resume(t.Context(), "relay1", tester, ""); err != nil {
		t.Fatal(err)
	}
	until("its end", func(l broker.LaneInfo) bool { return l.Suspension == nil })

	stop()
	if err := <-gone; err != nil {
		t.Fatal(err)
	}
	until("the second one has gone", func(l broker.LaneInfo) bool { return l.Replicas == 1 })
	cancel()
	if err := <-ended; err == nil {
		t.Error("FollowLanes returned no error when its context ended")
	}
}
