package desk

import (
	"slices"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// Who got a key also names those who may have it: a mail whose outcome is unknown, until a later one
// has arrived, and also after its letter was discarded because the mail was found at the relay.
func TestWhoMayHaveTheKey(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	ctx := t.Context()
	x.courier.fail("may", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.DeliveryUncertain, Phase: verdict.PhaseContent, Reason: "the connection was lost", Certainty: verdict.MaybeSent}})
	for i, id := range []string{"e1", "e2"} {
		x.publish(event(id, "may"))
		x.until("the letter", func() bool { return d.Balance().Open == i+1 })
	}
	if _, err := d.Discard(ctx, me, d.Freeze(Query{AsOf: 1}, nil, false), "it is at the relay"); err != nil {
		t.Fatal(err)
	}
	x.courier.succeed("may")
	if err := d.Replay(ctx, me, 2, true, false, "it is not at the relay"); err != nil {
		t.Fatal(err)
	}
	want := map[string]verdict.Certainty{"e1": verdict.MaybeSent, "e2": verdict.Accepted}
	x.until("both mails, with their certainty", func() bool {
		for _, key := range []bool{false, true} {
			found, err := d.Who(ctx, WhoQuery{Name: "*.example.com", Key: key}, 0, 0)
			if err != nil || len(found.Handovers) != 2 {
				return false
			}
			for _, h := range found.Handovers {
				if h.Certainty != want[h.Event] || h.Target != "may" || h.At.IsZero() || h.Name == "" || h.PrivateKey != "" {
					return false
				}
			}
		}
		return true
	})
}

// Of a mail that may have been sent, those who may have it are the ones that it was sent to.
func TestMaybeHave(t *testing.T) {
	t.Parallel()
	e := broker.Entry{Uncertain: true, Owed: []string{"a@example.com", "refused@example.com"}, Refused: []verdict.Refusal{{Recipient: "refused@example.com"}}}
	if got := e.MaybeHave(); !slices.Equal(got, []string{"a@example.com"}) {
		t.Errorf("got %q", got)
	}
}
