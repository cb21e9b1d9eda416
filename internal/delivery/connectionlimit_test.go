package delivery

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// busy returns how many deliveries have a permit to try the relay.
func (o *fixture) busy() int {
	lane, _ := o.LaneOf(o.target.ID)
	return o.Relays(lane)[0][0].Busy
}

// Without max_connections a relay gets no more connections from a process than
// connectionsPerProcess, however many deliveries are in work.
func TestConnectionsWithoutALimit(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtDot: {Wait: gate, Reply: "250 2.0.0 queued"}}})
	o := newFixture(t, server.Address(), RelayLimits{}, nil)
	var all sync.WaitGroup
	for range 2 * connectionsPerProcess {
		all.Go(func() {
			_, _ = o.deliver(context.WithoutCancel(t.Context()))
		})
	}
	lab.Eventually(t, "all connections to be in use, and all deliveries in work", func() bool {
		server.Mu.Lock()
		defer server.Mu.Unlock()
		return server.Seen[lab.AtDot] == connectionsPerProcess && o.busy() == 2*connectionsPerProcess
	})
	close(gate)
	all.Wait()
	if _, most := server.Dials(); most != connectionsPerProcess {
		t.Errorf("%d connections at a time, want %d", most, connectionsPerProcess)
	}
}

// Deliveries that wait for a connection when the relay's breaker opens do not dial.
func TestWaitersLearnThatTheBreakerHasOpened(t *testing.T) {
	t.Parallel()
	const all = 10
	gate := make(chan struct{})
	server := lab.StartRelay(t, lab.RelayScript{Acts: map[string]lab.RelayAct{lab.AtBanner: {Wait: gate, Drop: true}}})
	o := newFixture(t, server.Address(), RelayLimits{MaxConnections: 1}, nil)
	failures := make(chan *verdict.Failure, all)
	for range all {
		go func() {
			_, f := o.deliver(context.WithoutCancel(t.Context()))
			failures <- f
		}()
	}
	lab.Eventually(t, "all to have a permit", func() bool { return o.busy() == all })
	close(gate)
	untried := 0
	for range all {
		f := <-failures
		if f == nil || !f.Relay || f.Certainty != verdict.NotSent {
			t.Fatalf("got %+v", f)
		}
		if f.Untried {
			untried++
			if f.After <= 0 || strings.Count(f.Reason, "is skipped for") != 1 {
				t.Errorf("after %v: %s", f.After, f.Reason)
			}
		}
	}
	if dials, _ := server.Dials(); dials != smtp.BreakerThreshold || untried != all-smtp.BreakerThreshold {
		t.Errorf("%d dials, %d deliveries untried, want %d and %d", dials, untried, smtp.BreakerThreshold, all-smtp.BreakerThreshold)
	}
}
