package desk

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// An order for one delivery that is in a state for another command says the state and that command.
func TestOrdersForAnotherStateNameTheCommand(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 2) // e0 is dead letter 1, e1 is 2
	if done, err := d.Discard(ctx, me, d.Freeze(Query{}, []uint64{2}, true), "not needed"); done != 1 || err != nil {
		t.Fatal(done, err)
	}
	x.courier.fail("busy", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPTransient, Phase: verdict.PhaseRcpt, Reason: "mailbox is busy", ReplyCode: 450}})
	x.publish(event("w", "busy"))
	x.publish(event("s", "fine"))
	state := func(target, id string, want broker.State) {
		t.Helper()
		x.until(target+" is "+string(want), func() bool {
			e, err := d.Delivery(ctx, target, id)
			return err == nil && e.State == want && (e.Attempts > 0 || want != broker.StateWaiting)
		})
	}
	state("fine", "s", broker.StateSent)
	state("busy", "w", broker.StateWaiting)
	amid := make(chan struct{})
	x.courier.mu.Lock()
	x.courier.amid = amid
	x.courier.mu.Unlock()
	t.Cleanup(func() { close(amid) })
	x.publish(event("d", "slow"))
	state("slow", "d", broker.StateSending)

	resend := func(target, id string) error {
		s := ResendSelection{Query: DeliveryQuery{Target: target, Event: id}}
		_, dry := d.ResendContents(ctx, s, true)
		_, err := d.Resend(ctx, me, s, "", "lost")
		if dry == nil || dry.Error() != err.Error() {
			t.Errorf("%s to %s: the dry run says %v, the order %v", id, target, dry, err)
		}
		return err
	}
	retry := func(target, id string) error {
		_, err := d.RetryNow(ctx, me, WaitSelection{Named: []DeliveryName{{target, id}}}, "")
		return err
	}
	cancel := func(target, id string) error {
		_, err := d.Cancel(ctx, me, WaitSelection{Query: DeliveryQuery{Target: target, Event: id}}, "the wrong one")
		return err
	}
	for _, c := range []struct {
		order      func(target, id string) error
		target, id string
		status     int
		want       string
	}{
		{resend, "ops", "e0", http.StatusConflict, "event e0 to ops is dead letter 1 (SMTP_AUTH): `certpost dead-letters replay 1` sends it"},
		{retry, "ops", "e0", http.StatusConflict, "`certpost dead-letters replay 1`"},
		{cancel, "ops", "e0", http.StatusConflict, "`certpost dead-letters replay 1`"},
		{resend, "ops", "e1", http.StatusConflict, "event e1 to ops was discarded as dead letter 2: `certpost dead-letters restore 2` puts it on the list again"},
		{resend, "busy", "w", http.StatusConflict, "event w to busy waits for SMTP_TRANSIENT: mailbox is busy: `certpost deliveries retry --event w --target busy` tries it now"},
		{retry, "fine", "s", http.StatusConflict, "`certpost deliveries resend --event s --target fine --reason WHY` sends it again"},
		{cancel, "fine", "s", http.StatusConflict, "event s to fine was delivered at "},
		{resend, "slow", "d", http.StatusConflict, "event d to slow is being sent now: `certpost deliveries show d slow` says later how that ended"},
		{cancel, "slow", "d", http.StatusConflict, "event d to slow was not cancelled, because an attempt is sending it now"},
		{resend, "ops", "none", http.StatusNotFound, "there is no delivery of event none to ops"},
		{retry, "ops", "it's", http.StatusNotFound, `certpost deliveries show 'it'\''s'`},
	} {
		err := c.order(c.target, c.id)
		if err == nil || StatusOf(err) != c.status || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s to %s: %v, want %d with %q", c.id, c.target, err, c.status, c.want)
		}
	}
	if _, err := d.Resend(ctx, me, ResendSelection{Query: DeliveryQuery{Target: "ops"}}, "", "lost"); !errors.Is(err, broker.ErrNotResendable) || !strings.Contains(err.Error(), "no delivery in state sent matches") {
		t.Errorf("a filter: %v", err)
	}
}
