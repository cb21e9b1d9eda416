package desk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/legible"
)

// presently returns the state of one delivery, and the command for it in this state: the refusal of
// an order that is for another state. is is the kind of refusal; ErrNotFound if there is no such
// delivery.
func (d *Desk) presently(ctx context.Context, n DeliveryName, is error) error {
	detail, err := d.Delivery(ctx, n.Target, n.Event)
	if errors.Is(err, ErrNotFound) {
		return refused{fmt.Errorf("there is no delivery of event %s to %s: `certpost deliveries show %s` lists those of the event", n.Event, n.Target, legible.ShellWord(n.Event)), ErrNotFound}
	}
	if err != nil {
		return err
	}
	return refused{errors.New(d.stateAndRemedy(&detail.Entry)), is}
}

// stateAndRemedy says in which state a delivery is, and which command is for that.
func (d *Desk) stateAndRemedy(e *broker.Entry) string {
	flags := fmt.Sprintf("--event %s --target %s", legible.ShellWord(e.Event), legible.ShellWord(e.Target))
	show := fmt.Sprintf("certpost deliveries show %s %s", legible.ShellWord(e.Event), legible.ShellWord(e.Target))
	what := fmt.Sprintf("event %s to %s ", e.Event, e.Target)
	why := ""
	if e.Failure != nil {
		why = " (" + string(e.Failure.Code) + ")"
	}
	letter := d.letterOf(e)
	switch {
	case e.State == broker.StateSent:
		return what + "was delivered at " + e.Last.UTC().Format("2006-01-02 15:04:05 UTC") + ": `certpost deliveries resend " + flags + " --reason WHY` sends it again"
	case e.State == broker.StateDead && letter != 0:
		return fmt.Sprintf("%sis dead letter %d%s: `certpost dead-letters replay %d` sends it", what, letter, why, letter)
	case e.State == broker.StateDead:
		return what + "is a dead letter" + why + ": `certpost dead-letters list " + flags + "` has its number, for `certpost dead-letters replay NUMBER`"
	case e.State == broker.StateDiscarded && letter != 0:
		return fmt.Sprintf("%swas discarded as dead letter %d: `certpost dead-letters restore %d` puts it on the list again, for a replay", what, letter, letter)
	case e.State == broker.StateDiscarded:
		return what + "was discarded: `certpost dead-letters list --state discarded " + flags + "` has its number, for `certpost dead-letters restore NUMBER`"
	case e.State == broker.StateSkipped:
		return what + "was skipped: `" + show + "` says why"
	case e.State == broker.StateSending:
		return what + "is being sent now: `" + show + "` says later how that ended"
	}
	reason := ""
	if e.Wait != nil && e.Wait.Reason != "" {
		reason = " for " + strings.TrimSuffix(legible.Clean(e.Wait.Reason, 300), ".")
	}
	return what + "waits" + reason + ": `certpost deliveries retry " + flags + "` tries it now, `certpost deliveries cancel " + flags + " --reason WHY` ends the wait"
}

// letterOf returns the number of the letter of a delivery that is dead or discarded, 0 if the index
// has none.
func (d *Desk) letterOf(e *broker.Entry) uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	x := d.letters
	if e.State == broker.StateDiscarded {
		x = d.discarded.letters
	}
	return x.deliveries[x.hash.of(e.Target, events.Token(e.Event))]
}
