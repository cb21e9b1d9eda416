package queue

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// A target gets another id, and says which it had. What was delivered under the former id is not
// delivered again, by whatever id the event finds the target; what waits under it becomes a dead letter
// whose replay goes to the target.
//
// Fault: a target is renamed while events are published again and deliveries wait. Result: one mail for each event; what waited is a dead letter, delivered once by its replay.
func TestARenamedTarget(t *testing.T) {
	t.Parallel()
	relay := relayAt(t, devrelay.Config{})
	defined := func(ids string) Courier {
		courier, _ := realCourier(t, fmt.Sprintf("targets:\n  - {%s, host: 127.0.0.1, port: %s, tls_mode: plaintext, from_address: a@example.com, to: [b@example.com, c@example.com]}\n", ids, portOf(relay.Plain())))
		return courier
	}
	b := startWith(t, defined("id: old"))
	b.set.DeadLetterUnknown = true
	b.publish(event("e1", "old"))
	b.settled()
	lane := b.entry("old", "e1").Lane
	// As a process leaves it that dies while it sends.
	now := time.Now()
	sending := broker.Entry{Event: "e3", Target: "old", Digest: event("e3").Digest(), State: broker.StateSending, Owner: "another", Attempts: 1, Generation: 1,
		Lane: lane, Claimed: now, Lease: now}
	// As it leaves one that has reached some recipients.
	partly := broker.Entry{Event: "e4", Target: "old", Digest: event("e4").Digest(), State: broker.StateWaiting, Attempts: 1, Generation: 1, Lane: lane, Accepted: []string{"b@example.com"}}
	for _, e := range []broker.Entry{sending, partly} {
		if _, err := b.runner.ledger.Put(t.Context(), broker.LedgerKey(e.Target, events.Token(e.Event)), e, 0); err != nil {
			t.Fatal(err)
		}
	}

	b.stop()
	m := nats.NewMsg(broker.DeliverySubject(lane, "old")) // one that waits
	m.Data = event("e2", "old").Encode()
	if _, err := b.broker.JetStream().PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	b.courier = defined("id: new, former_ids: [old, older]")
	b.run()
	b.settled()
	letters := b.letters()
	if len(letters) != 1 || letters[0].Event != "e2" || letters[0].Code != verdict.TargetUnknown || !strings.Contains(letters[0].Reason, "is a former id of new, where the replay goes") {
		t.Fatalf("what waited: %+v", letters)
	}
	for _, names := range [][]string{{"old"}, {"new"}, {"older", "new", "old"}} {
		b.publish(event("e1", names...))
		b.settled()
	}
	onceEach(t, relay, 1)
	if e := b.entry("new", "e1"); e.State != "" {
		t.Errorf("an entry of what was delivered before: %+v", e)
	}
	for range 2 {
		b.publish(event("e5", "old", "new", "older"))
		b.settled()
	}
	onceEach(t, relay, 2)
	if old, now := b.entry("old", "e5"), b.entry("new", "e5"); old.State != "" || now.State != broker.StateSent {
		t.Errorf("an event for all ids: %q and %q", old.State, now.State)
	}
	for range 2 { // the second finds it delivered
		if err := b.broker.Replay(t.Context(), letters[0], tester, broker.Replay{Target: "new", Lane: lane}); err != nil && len(b.letters()) > 0 {
			t.Fatal(err)
		}
		b.settled()
		onceEach(t, relay, 3)
	}
	if e := b.entry("new", "e2"); e.State != broker.StateSent || e.Generation != 2 || e.Target != "new" {
		t.Errorf("the replay: %+v", e)
	}

	b.publish(event("e3", "new"))
	b.publish(event("e4", "new"))
	b.settled()
	letters = b.letters()
	if len(letters) != 1 || letters[0].Event != "e3" || letters[0].Target != "new" || letters[0].Certainty != verdict.MaybeSent {
		t.Errorf("an unknown outcome under the former id: %+v", letters)
	}
	if e := b.entry("new", "e4"); e.State != broker.StateSent || !slices.Equal(e.Accepted, []string{"b@example.com", "c@example.com"}) || e.Attempts != 2 {
		t.Errorf("what some recipients had: %+v", e)
	}
	onceEach(t, relay, 4)
	if last := relay.Mails()[3]; !slices.Equal(last.Recipients, []string{"c@example.com"}) {
		t.Errorf("what some recipients had went to %q", last.Recipients)
	}
}
