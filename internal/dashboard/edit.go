package dashboard

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

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
	if err := p.desk.EditsAllowed(); err != nil {
		return editView{}, err
	}
	d, err := p.desk.Letter(r.Context(), r.number())
	if err != nil {
		return editView{}, err
	}
	if d.Status != desk.Open {
		return editView{}, desk.Gone(d)
	}
	return editView{Detail: d, Target: d.Target, Targets: p.desk.EditTargets(d), Allowed: p.desk.EditRules().Recipients,
		Commands: []command{onLetter("show", []uint64{d.Sequence})}}, nil
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
	edit := desk.Edit{Target: v.Target, Recipients: recipients}
	if _, err := broker.CheckReason(v.Reason, true); err != nil {
		return v.refuse(err)
	}
	if err := p.desk.CheckEdit(v.Detail, edit); err != nil {
		return v.refuse(err)
	}
	switch r.PostFormValue("confirm") {
	case "yes":
	case "again": // back to the form, as it was filled in
		return v.view(http.StatusOK), nil
	default:
		v.Rows = v.differences(recipients)
		return v.view(http.StatusOK), nil
	}
	err = p.desk.ReplayEdited(r.Context(), r.actor(), v.Sequence, edit, r.PostFormValue("uncertain") == "yes", v.Reason)
	if errors.Is(err, desk.ErrUncertain) {
		v.Fault = "The mail may have been sent. Tick the box to confirm the replay."
		v.Rows = v.differences(recipients)
		return v.view(http.StatusConflict), nil
	}
	if err != nil {
		return v.refuse(err)
	}
	return done(v.Sequence, "edited"), nil
}

// refuse shows the form with the field that was refused, and why. What is no refusal of a
// field has a page of its own.
func (v editView) refuse(err error) (view, error) {
	var field *desk.EditRefused
	switch {
	case errors.As(err, &field):
		v.Wrong = field.Field
	case errors.Is(err, desk.ErrNoEdit):
		v.Wrong = "target"
	case errors.Is(err, broker.ErrNoReason), errors.Is(err, broker.ErrReasonTooLong):
		v.Wrong = "reason"
	default:
		return view{}, err
	}
	v.Fault = says(err)
	return v.view(desk.StatusOf(err)), nil
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
