package desk

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// Edit is what somebody changes of a letter for its replay. Whether he may is for
// the caller to know.
type Edit struct {
	Target     string   // "" leaves the letter's own
	Recipients []string // the only ones to get the mail; nil leaves it to the target
}

// ReplayEdited replays one letter for another target, or to other recipients. The
// errors are those of Replay, and ErrNoReason: what is changed has to be explained.
func (d *Desk) ReplayEdited(ctx context.Context, by broker.Actor, number uint64, edit Edit, uncertain bool, reason string) error {
	if strings.TrimSpace(reason) == "" {
		return ErrNoReason
	}
	letter, err := d.b.DeadLetter(ctx, number)
	if err != nil {
		return d.refusal(number, err)
	}
	how := broker.Replay{Uncertain: uncertain, Reason: reason, Recipients: edit.Recipients}
	if edit.Target != "" && edit.Target != letter.Target {
		targets := d.around.Targets()
		i := slices.IndexFunc(targets, func(t verdict.TargetView) bool { return t.ID == edit.Target })
		if i < 0 {
			return fmt.Errorf("target %q is not defined: %w", edit.Target, ErrNotFound)
		}
		how.Target, how.Lane = edit.Target, targets[i].Lane
	}
	return d.replay(ctx, by, letter, how)
}
