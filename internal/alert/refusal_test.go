package alert

import (
	"errors"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/webhook"
)

// Fault: the receiver of alerts.webhook refuses what a message says (400). Result: the next try is a new message, with later alerts in it, and after three
// of them one without details; the alerts are told, each once.
func TestRefusedMessageHoldsUpNoOtherAlert(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.process("a")
	refused := &webhook.Failure{Err: errors.New("alerts.webhook: the receiver did not take the message (400 Bad Request)"), Refused: true}
	w.fail = refused
	w.facts.Shared = []Condition{letters("one")}
	w.pass(40*time.Second, e)
	w.told("dead_letters/one|")
	w.facts.Shared = append(w.facts.Shared, letters("two"))
	w.pass(6*time.Minute, e)
	if len(w.got) < 3 {
		t.Fatalf("%d messages", len(w.got))
	}
	ids := map[string]bool{}
	for _, m := range w.got {
		ids[m.ID] = true
	}
	last := w.got[len(w.got)-1]
	if len(ids) != len(w.got) || len(last.Firing) != 2 || last.Firing[0].Summary != "An alert of kind dead_letters, without details because they were refused." || w.got[0].Firing[0].Summary != "3 dead letters one." {
		t.Fatalf("%+v", w.got)
	}
	if err := e.Health(); err == nil {
		t.Error("the channel counts as working")
	}
	w.got, w.fail = nil, nil
	w.pass(40*time.Minute, e)
	w.told("dead_letters/one dead_letters/two|")
	if err := e.Health(); err != nil {
		t.Error(err)
	}
}

// Fault: the receiver of alerts.webhook answers 429 or 503 with Retry-After. Result: the same message is sent after that time, and not before.
func TestRetryAfterOfAlerts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.process("a")
	w.fail = &webhook.Failure{Err: errors.New("429"), Away: true, RetryAfter: 20 * time.Minute}
	w.facts.Shared = []Condition{letters("one")}
	w.pass(time.Minute, e)
	first := w.got
	w.told("dead_letters/one|")
	w.fail = nil
	w.pass(19*time.Minute, e)
	w.told()
	w.pass(2*time.Minute, e)
	if len(w.got) != 1 || w.got[0].ID != first[0].ID {
		t.Errorf("%+v", w.got)
	}
	w.told("dead_letters/one|")
}
