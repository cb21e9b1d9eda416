package desk

import (
	"context"
	"errors"
	"fmt"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// redirected returns the target that has a letter's target among its former ids; false if there is
// none, or if it is disabled.
func (d *Desk) redirected(target string) (verdict.TargetView, bool) {
	t, known := d.deliverer.Target(target)
	return t, known && t.ID != target && !t.Disabled
}

// idNow returns the id of the target that has an id, or had it before; the id itself if none has.
func (d *Desk) idNow(id string) string {
	if t, known := d.deliverer.Target(id); known {
		return t.ID
	}
	return id
}

// currentTarget returns the id of the target that a replay of a letter goes to, if it is not edited.
func (d *Desk) currentTarget(target string) string {
	if t, renamed := d.redirected(target); renamed {
		return t.ID
	}
	return target
}

// formerEntries returns what the ledger has of an event under the former ids of a target.
func (d *Desk) formerEntries(ctx context.Context, target, event string) ([]broker.Entry, error) {
	view, _ := d.targetView(target)
	e, err := d.b.FormerEntry(ctx, target, view.FormerIDs, events.Token(event))
	switch {
	case errors.Is(err, broker.ErrNoEntry):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return []broker.Entry{e}, nil
}

// redirect makes the replay of a letter for a former id one for the target that had it, unless an
// operator has chosen another target. It is then published, recorded and followed as a replay that was
// edited to go there is; the definitions allow it, so it needs no permission to edit.
func (d *Desk) redirect(letter broker.DeadLetter, how *broker.Replay) {
	if t, renamed := d.redirected(letter.Target); renamed && how.Target == "" {
		how.Target, how.Lane = t.ID, t.Lane
	}
}

// aboutRedirect is the finding that a replay goes to another target than that of its letter.
func aboutRedirect(from, to string) verdict.Finding {
	return verdict.Finding{What: "target", Status: verdict.OK, Message: fmt.Sprintf("redirected to %s, of which %s is a former id", to, legible.Clean(from, 80))}
}
