package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/service"
)

// afterLoss says what may have happened to a request that began at a time and was never answered,
// because the connection was lost, and what to do.
func afterLoss(name string, request []byte, began time.Time) string {
	var o struct {
		DryRun bool   `json:"dry_run"`
		To     string `json:"to"` // of a resend
		Force  bool   `json:"force"`
	}
	_ = json.Unmarshal(request, &o) // an endpoint may have other fields, and then these are not its
	const part = "the program may have stopped amid the order, and part of it may be done: see "
	switch {
	case o.DryRun, name == "dead.preflight", name == "deliveries.plan", slices.Contains(service.Reads(), name):
		return "this request changes nothing, and can be repeated"
	case name == "deliveries.cancel":
		return part + "`certpost audit list --action withdrawn` and `certpost deliveries list --state waiting`; give the order again for what still waits"
	case name == "deliveries.retry":
		return part + "`certpost audit list --action retried` and `certpost deliveries list --state waiting`; give the order again for what still waits"
	case name == "deliveries.resend" && o.To == "":
		return part + fmt.Sprintf("`certpost audit list --action resent`; give the order again for the rest with --to %s, so that what was sent again since is left out", began.UTC().Format(time.RFC3339))
	case name == "deliveries.resend" && o.Force:
		return part + "`certpost audit list --action resent`; the same order would send that a second time, so choose the rest with other filters"
	case name == "deliveries.resend":
		return part + "`certpost audit list --action resent`; give the order again for the rest: what was delivered to the target is refused"
	case name == "dead.replay":
		return part + "`certpost replays list` (a run that is there goes on by itself), `certpost dead-letters list` and `certpost audit list`; give the order again for the rest: what was replayed, or is in a run, is left out or refused"
	case name == "dead.discard", name == "dead.restore", name == "dead.hold", name == "dead.release":
		return part + "`certpost dead-letters list` and `certpost audit list`; give the order again for the rest"
	}
	return "the program may have stopped before or after it carried out the order: see `certpost audit list` before you give it again"
}

// toItsEnd returns a context for an order, or a part of one, that an interrupt does not cancel, so
// that its result is known. The first interrupt says so; the second ends the process. finished ends it.
func (a *app) toItsEnd(c *client, what string) (ctx context.Context, finished func()) {
	said := make(chan struct{})
	stop := context.AfterFunc(a.ctx, func() {
		defer close(said)
		if c.works.Load() {
			a.say(what + " is being finished; press Ctrl-C again to end amid it")
			return
		}
		a.say(what + " goes on in the program; press Ctrl-C again to stop waiting")
	})
	return context.WithoutCancel(a.ctx), func() {
		if !stop() {
			<-said
		}
	}
}

// give sends an order and waits for its result, also after an interrupt: an order that was sent is
// carried out.
func give[A any](a *app, c *client, name string, order any) (A, error) {
	ctx, finished := a.toItsEnd(c, "the order")
	defer finished()
	return ask[A](ctx, c, name, order)
}

// say prints a message while a command waits, in place of a progress bar that may be there.
func (a *app) say(message string) {
	if screenOf(a.stderr).moves {
		message = "\r\x1b[Kcertpost: " + message
	} else {
		message = "certpost: " + message
	}
	fmt.Fprintln(a.stderr, message)
}
