package desk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// EditRules are the changes that operators may make to a letter for its replay. The zero
// value allows none.
type EditRules struct {
	Enabled bool
	// Unknown is why this process does not know the rules; nil if it does.
	Unknown error
	// Targets are the targets to which a letter may be sent instead of its own.
	Targets []string
	// Recipients are the addresses to which it may be sent besides the target's own;
	// *@example.com stands for a domain. They are only shown; Allows decides.
	Recipients []string
	// Allows reports whether the mail for a target may go to an address; own are the
	// recipients that the target defines. The courier checks each delivery with the same
	// rule.
	Allows func(own []string, address string) bool
	// Opens returns why an event that was published on a subject may not go to a target, nil
	// if it may; nil means that sources are not limited. The courier checks each delivery
	// with the same rule.
	Opens func(subject, target string) error
}

// AllowEdits sets the rules. It must be called before the desk is used.
func (d *Desk) AllowEdits(rules EditRules) { d.edits = rules }

// EditRules returns the rules in force.
func (d *Desk) EditRules() EditRules { return d.edits }

// Edit is the change of a letter for its replay.
type Edit struct {
	Target     string   // "": the letter's own
	Recipients []string // the only ones to get the mail; nil: the target's
}

// EditRefused is the refusal of one field of an edit.
type EditRefused struct {
	Field string // target or recipients
	error
}

func (e *EditRefused) Unwrap() error { return e.error }

// Editable reports whether a letter can be edited.
func (d *Desk) Editable(letter Detail) bool {
	return d.edits.Enabled && letter.Status == Open && letter.NotReplayable == "" && letter.Code != verdict.EventInvalid
}

// EditTargets returns the targets to which a letter may be sent, its own first.
func (d *Desk) EditTargets(letter Detail) (ids []string) {
	own := d.currentTarget(letter.Target)
	if own != "" {
		ids = append(ids, own)
	}
	for _, t := range d.deliverer.Targets() {
		if t.ID != own && !t.Disabled && slices.Contains(d.edits.Targets, t.ID) {
			ids = append(ids, t.ID)
		}
	}
	return ids
}

// EditsAllowed returns nil, ErrNotAllowed if editing is disabled, or why that is unknown.
func (d *Desk) EditsAllowed() error {
	switch {
	case d.edits.Unknown != nil:
		return fmt.Errorf("editing: %w", d.edits.Unknown)
	case !d.edits.Enabled:
		return refused{errors.New("editing is disabled: http.edit_and_replay.enabled is not set"), ErrNotAllowed}
	}
	return nil
}

// CheckEdit returns nil if an edit is allowed, otherwise ErrNotAllowed if editing is
// disabled, ErrNoEdit, an *EditRefused, or the error of Gone if the letter is not open.
func (d *Desk) CheckEdit(letter Detail, edit Edit) error {
	if err := d.EditsAllowed(); err != nil {
		return err
	}
	own := d.currentTarget(letter.Target)
	edit.Target = d.currentTarget(edit.Target)
	other := edit.Target != "" && edit.Target != own && edit.Target != letter.Target
	switch {
	case letter.Status != Open:
		return Gone(letter)
	case !other && len(edit.Recipients) == 0:
		return ErrNoEdit
	}
	target := own
	if other {
		target = edit.Target
		if !slices.Contains(d.edits.Targets, target) {
			return &EditRefused{"target", refused{fmt.Errorf("target %q is not in http.edit_and_replay.targets", legible.Clean(target, 80)), ErrNotAllowed}}
		}
		if view, defined := d.targetView(target); !defined {
			return &EditRefused{"target", refused{fmt.Errorf("target %q is not defined", legible.Clean(target, 80)), ErrNotFound}}
		} else if view.Disabled {
			return &EditRefused{"target", refused{fmt.Errorf("target %q is disabled", legible.Clean(target, 80)), ErrNotAllowed}}
		}
	}
	if d.edits.Opens != nil {
		if err := d.edits.Opens(letter.EventSubject, target); err != nil {
			return &EditRefused{"target", refused{err, ErrNotAllowed}}
		}
	}
	view, _ := d.targetView(target)
	if target == own && sameSet(edit.Recipients, view.To) {
		return ErrNoEdit
	}
	for _, recipient := range edit.Recipients {
		if d.edits.Allows == nil || !d.edits.Allows(view.To, recipient) {
			return &EditRefused{"recipients", refused{fmt.Errorf("recipient %s is neither a recipient of the target nor in http.edit_and_replay.recipients", legible.Clean(recipient, 100)), ErrNotAllowed}}
		}
	}
	return nil
}

func (d *Desk) targetView(id string) (verdict.TargetView, bool) {
	t, known := d.deliverer.Target(id)
	if !known || t.ID != id { // it had the id before
		return verdict.TargetView{}, false
	}
	return t, true
}

// ReplayEdited replays one letter for another target, or to other recipients. The
// errors are those of Replay and CheckEdit, and ErrNoReason: a change requires a reason.
func (d *Desk) ReplayEdited(ctx context.Context, by broker.Actor, number uint64, edit Edit, uncertain bool, reason string) error {
	reason, err := broker.CheckReason(reason, true)
	if err != nil {
		return err
	}
	detail, err := d.Letter(ctx, number)
	if err != nil {
		return err
	}
	if err := d.CheckEdit(detail, edit); err != nil {
		return err
	}
	letter, err := d.b.DeadLetter(ctx, number)
	if err != nil {
		return d.refusal(number, err)
	}
	edit.Target = d.currentTarget(edit.Target)
	how := broker.Replay{Uncertain: uncertain, Reason: reason, Recipients: edit.Recipients}
	if edit.Target != "" && edit.Target != letter.Target {
		view, _ := d.targetView(edit.Target)
		how.Target, how.Lane = edit.Target, view.Lane
	}
	return d.replay(ctx, by, letter, how)
}

// sameSet reports whether two lists hold the same addresses.
func sameSet(a, b []string) bool {
	lower := func(all []string) []string {
		out := make([]string, len(all))
		for i, one := range all {
			out[i] = strings.ToLower(one)
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return slices.Equal(lower(a), lower(b))
}
