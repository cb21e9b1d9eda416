package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
)

// Ready is what the work shows: a stream that no delivery needs does not matter, and one
// that all need does, whether or not there is work at the moment.
//
// Fault: a stream or consumer without a leader. Result: not ready if events or deliveries
// need it, with the reason, and answered at once; a late heartbeat, or one lane of several
// for less than a minute, is degraded.
func TestReadinessIsWhatTheWorkShows(t *testing.T) {
	t.Parallel()
	const info = "$JS.API.STREAM.INFO."
	cases := []struct {
		name  string
		lost  []string // prefixes of the subjects of requests
		lanes []string
		// ready and degraded are parts of what is said; "" if nothing is.
		ready, degraded string
	}{
		{"the bucket of heartbeats has no leader", []string{"$KV." + broker.RelaysBucket, info + "KV_" + broker.RelaysBucket}, []string{"ops@one"}, "", "heartbeat is late"},
		{"the ledger has no leader", []string{"$KV." + broker.LedgerBucket, info + "KV_" + broker.LedgerBucket}, []string{"ops@one"}, "KV_" + broker.LedgerBucket, ""},
		{"the letters have no leader", []string{"certpost.dead.", info + broker.DeadLettersStream}, []string{"ops@one"}, broker.DeadLettersStream, ""},
		{"the events have no leader", []string{info + broker.EventsStream, "$JS.API.CONSUMER.MSG.NEXT." + broker.EventsStream}, []string{"ops@one"}, "events are not fetched", ""},
		{"the only lane has no leader", []string{"$JS.API.CONSUMER.MSG.NEXT." + broker.DeliveriesStream + ".lane-one"}, []string{"ops@one"}, "deliveries are not fetched from lane one", ""},
		{"one of two lanes has no leader", []string{"$JS.API.CONSUMER.MSG.NEXT." + broker.DeliveriesStream + ".lane-one"}, []string{"a@one", "ops@two"}, "", "deliveries are not fetched from lane one"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := lab.NATS(t, lab.FreeAddress(t), "")
			link := lab.NewNATSLink(t, srv.Addr().String())
			b := &fixture{t: t, fake: newFakeCourier(c.lanes...), set: quick(), cfg: broker.Config{URL: link.URL}}
			b.start()
			b.until("all lanes are served", func() bool { return len(b.runner.LaneStatus()) == len(c.lanes) })
			link.Lose(func(m lab.NATSMessage) bool {
				for _, prefix := range c.lost {
					if m.ToServer && strings.HasPrefix(m.Subject, prefix) {
						return true
					}
				}
				return false
			})
			says := func(err error, part string) bool {
				return err != nil && strings.Contains(err.Error(), part)
			}
			if c.ready != "" {
				b.until("not ready", func() bool { return says(b.runner.Ready(t.Context()), c.ready) })
			} else {
				b.until("degraded", func() bool { return says(b.runner.Degraded(), c.degraded) })
				// On a busy machine a fetch may miss the server's heartbeats for a moment.
				ready := func() bool { return b.runner.Ready(t.Context()) == nil }
				b.until("ready all the same", ready)
				b.publish(event("e1", "ops")) // mails go
				b.until("a mail", func() bool { return len(b.fake.mails("e1")) == 1 })
				b.until("ready while mails go", ready)
			}
			link.Lose(nil)
			b.until("ready, and nothing is wrong", func() bool { return b.runner.Ready(t.Context()) == nil && b.runner.Degraded() == nil })
			b.publish(event("e2", "ops"))
			b.until("a mail", func() bool { return len(b.fake.mails("e2")) == 1 })
		})
	}
}

// Fault: a stream or consumer without a leader. Result: not ready if events or deliveries
// need it, with the reason, and answered at once; a late heartbeat, or one lane of several
// for less than a minute, is degraded.
func TestProgress(t *testing.T) {
	t.Parallel()
	now := time.Now()
	broken := errors.New("broken")
	p := newProgress()
	p.note(fetchLane("one"), broken)
	p.note(fetchLane("two"), nil)
	if stands, hurts := p.state(now); stands != nil || hurts == nil || !strings.Contains(hurts.Error(), "lane one") || !strings.Contains(hurts.Error(), "broken") {
		t.Errorf("one of two lanes: stands %v, hurts %v", stands, hurts)
	}
	if stands, hurts := p.state(now.Add(loneLane + 10*time.Second)); stands == nil || hurts != nil {
		t.Errorf("for more than a minute: stands %v, hurts %v", stands, hurts)
	}
	if stands, hurts := p.state(now.Add(forgetAfter + 10*time.Second)); stands != nil || hurts != nil {
		t.Errorf("not tried again: stands %v, hurts %v", stands, hurts)
	}
	p.note(fetchLane("one"), broken)
	p.note(fetchLane("two"), broken)
	if stands, _ := p.state(time.Now()); stands == nil {
		t.Error("no lane gets on, and nothing is said")
	}
	p.rest(fetchLane("one"))
	if _, hurts := p.state(time.Now()); hurts == nil || strings.Contains(hurts.Error(), "lane one") {
		t.Errorf("lane one is suspended: %v", hurts)
	}

	p = newProgress()
	p.note(keepLedger, fmt.Errorf("write: %w", context.DeadlineExceeded))
	p.note(keepLedger, context.Canceled) // a shutdown proves nothing
	if stands, _ := p.state(time.Now()); stands == nil || !strings.Contains(stands.Error(), "no answer in time") {
		t.Errorf("the ledger does not answer: %v", stands)
	}
	p.note(keepLedger, broker.ErrClaimLost) // an answer
	if stands, hurts := p.state(time.Now()); stands != nil || hurts != nil {
		t.Errorf("the ledger answers: %v, %v", stands, hurts)
	}
	if silent := p.silent(time.Now()); len(silent) != 3 { // all but the ledger
		t.Errorf("silent: %v", silent)
	}
}
