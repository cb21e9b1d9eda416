package desk

import (
	"net/http"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// renamed is a deliverer of target ops, which was called prod before.
type renamed struct {
	fakeDeliverer
	disabled bool
}

func (r renamed) Targets() []verdict.TargetView {
	return []verdict.TargetView{{ID: "ops", Lane: "relay", FormerIDs: []string{"prod"}, Disabled: r.disabled}}
}

func (r renamed) Target(id string) (verdict.TargetView, bool) { return named(r.Targets(), id) }

// Letters for a former id go to the target that had it: one, a run of several, and what is sent again.
// Letter, preflight and audit say where. A disabled target gets nothing.
//
// Fault: a dead letter for the former id of a target. Result: its replay goes to the target.
func TestReplaysOfAFormerIDGoToItsTarget(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(func(d *Desk) { d.deliverer = renamed{} })
	x.courier.succeed("prod")
	x.publish(event("sent", "prod"))
	x.until("it is sent", func() bool { return x.courier.mails("prod", "sent") == 1 })
	x.letters(d, "prod", 0, 4)
	letters := d.Freeze(Query{}, nil, false).Numbers

	one, err := d.Letter(t.Context(), letters[0])
	if err != nil || one.Target != "prod" || one.RedirectedTo != "ops" {
		t.Fatalf("target %q, redirected to %q, %v", one.Target, one.RedirectedTo, err)
	}
	found, err := d.Preflight(t.Context(), letters[0], false)
	if err != nil || len(found.Findings) < 2 || found.Findings[0].Message != "redirected to ops, of which prod is a former id" || found.Findings[1].What != "ops" {
		t.Errorf("preflight: %+v, %v", found, err)
	}
	if err := d.Replay(t.Context(), me, letters[0], false, false, "renamed"); err != nil {
		t.Fatal(err)
	}
	x.until("the mail", func() bool { return x.courier.mails("ops", "e0") == 1 })
	h, _ := d.History(HistoryQuery{Action: broker.ActionReplayed}, 0, 10)
	if len(h) == 0 {
		t.Error("no record of the replay")
	}
	for _, r := range h { // intent and outcome
		if r.Target != "prod" || r.NewTarget != "ops" {
			t.Errorf("audit: %+v", r)
		}
	}
	if one, err = d.Letter(t.Context(), letters[0]); err != nil || one.RedirectedTo != "" {
		t.Errorf("a letter that was replayed is redirected to %q, %v", one.RedirectedTo, err)
	}

	f := d.Freeze(Query{}, nil, false)
	r := x.run(d, RunSpec{Frozen: f})
	if r = x.reaches(d, r.ID, RunDone); r.Delivered != 3 || r.DeadAgain != 0 {
		t.Errorf("the run: %+v", r)
	}
	x.onceEach("ops", 4)

	resend := ResendSelection{Query: DeliveryQuery{Target: "prod", Event: "sent"}}
	if out, err := d.Resend(t.Context(), me, resend, "", "lost"); err != nil || out.Done != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	x.until("what was sent is sent again", func() bool { return x.courier.mails("ops", "sent") == 1 })
	for i, event := range []string{"e0", "sent"} {
		x.until("the ledger has it", func() bool {
			e, err := d.Delivery(t.Context(), "ops", event)
			return err == nil && e.State == broker.StateSent && e.Generation == 2
		})
		if x.courier.mails("prod", event) != i {
			t.Errorf("%s: %d mails under the former id", event, x.courier.mails("prod", event))
		}
	}

	// An edit that names a former id means the target.
	x.letters(d, "other", 10, 1)
	foreign := d.Freeze(Query{}, nil, false).Numbers[0]
	if err := d.ReplayEdited(t.Context(), me, foreign, Edit{Target: "prod"}, false, "moved"); StatusOf(err) != http.StatusForbidden {
		t.Errorf("an edit that is not allowed: %v", err)
	}
	d.edits.Enabled, d.edits.Targets = true, []string{"ops"}
	if err := d.ReplayEdited(t.Context(), me, foreign, Edit{Target: "prod"}, false, "moved"); err != nil {
		t.Errorf("an edit for a former id: %v", err)
	}
	x.until("the mail of the edit", func() bool { return x.courier.mails("ops", "e10") == 1 })

	off := New(x.b, renamed{disabled: true}, d.log)
	if got := off.currentTarget("prod"); got != "prod" {
		t.Errorf("a disabled target gets replays: %q", got)
	}
	if _, err := off.howToResend(t.Context(), broker.Entry{Target: "prod"}, ResendSelection{}, ""); err == nil || !strings.Contains(err.Error(), "not defined") {
		t.Errorf("a disabled target: %v", err)
	}
}
