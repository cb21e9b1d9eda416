package dashboard

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// Edit says what an admin may change about a letter before replaying it.
type Edit struct {
	// Targets are the targets to which a letter may be sent instead of its own.
	Targets []string
	// Recipients are the addresses to which a letter may be sent instead of the target's
	// recipients; *@example.com stands for a whole domain. Pages only show them; Allows
	// decides.
	Recipients []string
	// Allows reports whether the mail for a target may go to an address; own are the
	// recipients that the target defines. It is the courier's rule, and the courier
	// enforces it for every caller.
	Allows func(own []string, address string) bool
}

// editView is the form, and after it was submitted the comparison with a plain replay.
type editView struct {
	desk.Detail
	Targets    []string // to choose from, the letter's own first
	Allowed    []string // recipients
	Target     string
	Recipients string // as typed
	Reason     string
	Fault      string
	Wrong      string       // the name of the field that Fault is about
	Rows       []difference // before and after; nil until the form is submitted
	Commands   []command
}

// editForm is the first of three steps: enter the changes, review them, replay.
func (p *pages) editForm(r *request) (view, error) {
	v, err := p.newEdit(r)
	v.Recipients = strings.Join(v.Detail.Recipients, ", ")
	return v.view(http.StatusOK), err
}

func (p *pages) newEdit(r *request) (editView, error) {
	d, err := p.desk.Letter(r.Context(), r.number())
	if err != nil {
		return editView{}, err
	}
	if d.End != nil {
		return editView{}, &desk.Conflict{Number: d.Sequence, Record: *d.End}
	}
	v := editView{Detail: d, Target: d.Target, Allowed: p.edit.Recipients, Commands: []command{onLetter("show", []uint64{d.Sequence})}}
	if d.Target != "" {
		v.Targets = append(v.Targets, d.Target)
	}
	for _, t := range p.desk.Targets() {
		if t.ID != d.Target && !t.Disabled && slices.Contains(p.edit.Targets, t.ID) {
			v.Targets = append(v.Targets, t.ID)
		}
	}
	return v, nil
}

func (v editView) view(status int) view {
	return view{template: "edit", title: "Edit and replay letter " + strconv.FormatUint(v.Sequence, 10), status: status, data: v}
}

// editReplay shows the differences, and with confirm=yes replays the letter as edited.
func (p *pages) editReplay(r *request) (view, error) {
	v, err := p.newEdit(r)
	if err != nil {
		return view{}, err
	}
	v.Target, v.Recipients, v.Reason = r.PostFormValue("target"), strings.TrimSpace(r.PostFormValue("recipients")), r.reason()
	recipients := strings.FieldsFunc(v.Recipients, func(c rune) bool { return strings.ContainsRune(",; \t\r\n", c) })
	if v.Wrong, v.Fault = p.refuseEdit(v, recipients); v.Fault != "" {
		return v.view(http.StatusUnprocessableEntity), nil
	}
	switch r.PostFormValue("confirm") {
	case "yes":
	case "again": // back to the form, as it was filled in
		return v.view(http.StatusOK), nil
	default:
		v.Rows = v.differences(recipients)
		return v.view(http.StatusOK), nil
	}
	edit := desk.Edit{Target: v.Target, Recipients: recipients}
	err = p.desk.ReplayEdited(r.Context(), r.actor(), v.Sequence, edit, r.PostFormValue("uncertain") == "yes", v.Reason)
	switch {
	case errors.Is(err, desk.ErrUncertain):
		v.Fault = "The mail may have been sent. Tick the box to confirm the replay."
	case errors.Is(err, desk.ErrNoReason):
		v.Fault = "A reason is required for a change."
	default:
		return done(v.Sequence, "edited"), err
	}
	v.Rows = v.differences(recipients)
	return v.view(http.StatusConflict), nil
}

// refuseEdit returns the first field of the form that is not allowed, and why; "" when
// all are allowed.
func (p *pages) refuseEdit(v editView, recipients []string) (field, why string) {
	if !slices.Contains(v.Targets, v.Target) {
		return "target", "Letters may not be sent to this target. Choose one from the list."
	}
	if v.Reason == "" {
		return "reason", "A reason is required for a change."
	}
	own := p.recipientsOf(v.Target)
	for _, recipient := range recipients {
		if !p.edit.Allows(own, recipient) {
			return "recipients", recipient + " is not allowed: it is neither a recipient of the target nor in http.edit_and_replay.recipients."
		}
	}
	return "", ""
}

// recipientsOf are the recipients that a target defines.
func (p *pages) recipientsOf(target string) []string {
	for _, t := range p.desk.Targets() {
		if t.ID == target {
			return t.To
		}
	}
	return nil
}

// differences compares the edited replay with a replay without changes.
func (v *editView) differences(recipients []string) []difference {
	to := func(list []string) string {
		if len(list) == 0 {
			return "all recipients of the target"
		}
		return strings.Join(list, ", ")
	}
	rows := []difference{
		{What: "target", Values: []string{v.Detail.Target, v.Target}},
		{What: "recipients", Values: []string{to(v.Detail.Recipients), to(recipients)}},
	}
	for i := range rows {
		rows[i].Changed = rows[i].Values[0] != rows[i].Values[1]
	}
	return rows
}

// mayEdit reports whether a letter's page offers "Edit and replay".
func (p *pages) mayEdit(d desk.Detail) bool {
	return p.edit != nil && d.Fate == desk.Open && d.Replay == "" && d.Code != verdict.EventInvalid
}
