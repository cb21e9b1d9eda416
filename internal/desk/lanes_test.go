package desk

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
)

// A lane that no process reports counts as starting for a while, and then as not served.
func TestLanesStart(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	served := func() broker.LaneInfo {
		lanes, err := d.Relays(t.Context())
		if err != nil || len(lanes) == 0 {
			return broker.LaneInfo{}
		}
		return lanes[0].LaneInfo
	}
	x.publish(event("e1", "ops"))
	x.until("the lane is served", func() bool { return served().Replicas == 1 })
	if served().Starting {
		t.Error("a served lane is reported as starting")
	}

	// A lane with a consumer that no process reports is not served yet.
	kv, err := x.js.KeyValue(t.Context(), broker.RelaysBucket)
	if err != nil {
		t.Fatal(err)
	}
	changes := d.Changes(t.Context())
	x.until("it is starting", func() bool {
		keys, err := kv.Keys(t.Context()) // again: the next heartbeat may have come
		if err != nil && !errors.Is(err, jetstream.ErrNoKeysFound) {
			t.Fatal(err)
		}
		for _, key := range keys {
			if err := kv.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		return served().Starting
	})
	x.until("the change is reported", func() bool {
		select {
		case c := <-changes:
			return c.Lanes
		default:
			return false
		}
	})
	d.mu.Lock()
	d.began = time.Now().Add(-d.pace.start)
	d.mu.Unlock()
	x.until("it is not served, or the next heartbeat has come", func() bool { l := served(); return l.Lane != "" && !l.Starting })
	o, err := d.Overview(t.Context())
	if err != nil || len(o.Lanes) == 0 || o.Lanes[0].Starting {
		t.Errorf("the overview: %+v, %v", o.Lanes, err)
	}
}
