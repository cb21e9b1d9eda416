package main

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/service"
)

// A program that is killed during a replay of a thousand letters continues it. Every mail
// arrives; only those whose outcome was unknown may arrive twice, marked as duplicates.
//
// Fault: kill -9 during a replay of many dead letters, or another action on one. Result:
// the replay continues; each is sent once, none is lost.
func TestKilledAmidAReplay(t *testing.T) {
	t.Parallel()
	n := 1000
	if testing.Short() {
		n = 100
	}
	relay, err := devrelay.Start(devrelay.Config{MaxMails: 2 * n, Rules: []devrelay.Rule{{Stage: devrelay.StageRcpt, Code: 550, Enhanced: "5.1.1", Text: "not yet"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relay.Close() })
	p := newProgram(t, anyPorts+"targets:\n"+smtpTarget("ops", relay.Plain()))
	p.start()
	p.ready()
	publish(t, p.connection(), n)
	p.accountsFor(n, tally{dead: n})
	if err := relay.SetRules([]devrelay.Rule{}); err != nil {
		t.Fatal(err)
	}

	var started service.OrderAnswer
	if err := json.Unmarshal([]byte(p.certpost("dead-letters", "replay", "--all", "--yes", "--reason", "fixed", "-o", "json")), &started); err != nil || started.Run == nil {
		t.Fatalf("%v, %+v", err, started)
	}
	for _, share := range []int{10, 2} { // killed after a tenth, and after half
		p.until("some of the mails", func() bool { return relay.Count() >= n/share })
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait() // an error: it was killed
		p.start()
		p.ready()
	}
	p.accountsFor(n, tally{accepted: n})
	var run desk.RunPage
	p.until("the end of the run", func() bool {
		return json.Unmarshal([]byte(p.certpost("replays", "show", started.Run.ID, "-o", "json")), &run) == nil && run.Over()
	})
	if run.State != desk.RunDone || run.Failed != 0 || run.DeadAgain != 0 {
		t.Errorf("the run: %+v", run.Run)
	}
	mails, again := map[string]int{}, 0
	for _, m := range relay.Mails() {
		msg, err := m.Message()
		if err != nil {
			t.Fatal(err)
		}
		id := msg.Header.Get("X-Certpost-Event-Id")
		if mails[id]++; mails[id] > 1 {
			again++
			if msg.Header.Get("X-Certpost-Possible-Duplicate") != "yes" {
				t.Errorf("%s was sent twice, and the second mail does not say so", id)
			}
		}
	}
	if len(mails) != n {
		t.Errorf("mails for %d events, want %d", len(mails), n)
	}
	if again > 2*16 {
		t.Errorf("%d mails were sent twice: more than were in progress when it was killed", again)
	}
	t.Logf("%d of %d mails were sent twice, and say so", again, n)
}

// publish publishes n events for the target ops.
func publish(t *testing.T, connection broker.Config, n int) {
	t.Helper()
	b, err := broker.Dial(context.Background(), connection, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	certificate := issued(t, "www.example.com")
	for i := range n {
		ev := &events.Event{ID: fmt.Sprintf("e%d", i), Certificate: events.Certificate{PEM: certificate}, Targets: []string{"ops"}}
		if _, _, err := b.Publish(context.Background(), ev); err != nil {
			t.Fatal(err)
		}
	}
}
