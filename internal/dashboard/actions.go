package dashboard

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// action is a form on a letter's page: what it does, and the same from a shell.
type action struct {
	Name     string // the last part of its address
	Label    string // of its button
	Says     string
	Kind     string // the class of its button
	Reason   bool   // a reason is required
	Fault    string // why the submitted form was refused
	Open     bool
	Asks     bool // has the box that asks the relay about the recipients
	Commands []command
}

// actions are the actions that the letter's state allows.
func actions(d desk.Detail) []action {
	n := []uint64{d.Sequence}
	const because = "--reason=WHY"
	switch {
	case d.Status == desk.Discarded:
		return []action{{Name: "restore", Label: "Restore", Reason: true, Kind: "primary", Open: true, Says: "Puts the letter on the list again, under a new number.",
			Commands: []command{onLetter("restore", n, because), service("restore", d.Sequence, true)}}}
	case d.Status != desk.Open:
		return nil
	}
	var all []action
	if d.NotReplayable == "" && d.Hold == nil {
		replay := action{Name: "replay", Label: "Replay", Open: true, Says: "Publishes the event again for this target, then removes the letter from the list.",
			Commands: []command{onLetter("replay", n), replayWithNATS(d.Sequence, d.ReplaySubject)}}
		if d.Certainty == verdict.MaybeSent {
			replay.Label, replay.Commands[0] = "Replay…", onLetter("replay", n, "--may-have-been-sent")
			replay.Says += " The mail may already have been sent, so you must confirm on the next page."
		}
		all = append(all, replay)
	}
	if d.NotReplayable == "" {
		all = append(all, action{Name: "preflight", Label: "Preflight", Kind: "primary", Open: true, Asks: true, Says: "Checks the target, its secrets, its relay up to the login, the key and the certificate. Sends nothing.",
			Commands: []command{onLetter("preflight", n), service("preflight", d.Sequence, false)}})
	}
	if d.Hold == nil {
		all = append(all,
			action{Name: "discard", Label: "Discard", Kind: "danger", Reason: true, Says: "Removes the letter from the list. You can restore it until its audit record expires.",
				Commands: []command{onLetter("discard", n, because), discardWithNATS(d.Sequence)}},
			action{Name: "hold", Label: "Hold", Reason: true, Says: "Prevents replay and discard while you work on the letter.",
				Commands: []command{onLetter("hold", n, because), service("hold", d.Sequence, true)}})
	} else {
		all = append(all, action{Name: "release", Label: "Release", Open: true, Says: "Ends the hold, so that the letter can be replayed and discarded again.",
			Commands: []command{onLetter("release", n), service("release", d.Sequence, false)}})
	}
	return all
}

// replayIsNext makes the replay the primary action in place of the preflight: the cause is fixed.
func replayIsNext(all []action) {
	for i := range all {
		switch all[i].Name {
		case "replay":
			all[i].Kind = "primary"
		case "preflight":
			all[i].Kind = ""
		}
	}
}

// service is a request to Certpost's own NATS service, as a shell command.
func service(action string, number uint64, reason bool) command {
	body := fmt.Sprintf(`{"numbers": [%d]}`, number)
	switch {
	case action == "preflight":
		body = fmt.Sprintf(`{"number": %d}`, number)
	case reason:
		body = fmt.Sprintf(`{"numbers": [%d], "reason": "WHY"}`, number)
	}
	return command{"nats", shellLine("nats", "req", "certpost.dead."+action, body)}
}

// done redirects to the letter, where a notice says what was done.
func done(number uint64, what string) view {
	return view{to: lettersPath + "/" + strconv.FormatUint(number, 10) + "?done=" + what}
}

// again is the letter's page with the form whose reason was refused. Other errors are
// returned as they are.
func (p *pages) again(r *request, name string, err error) (view, error) {
	if desk.StatusOf(err) != http.StatusUnprocessableEntity {
		return view{}, err
	}
	fault := says(err)
	v, err := p.letterWith(r, func(l *letterView) {
		for i := range l.Actions {
			if l.Actions[i].Name == name {
				l.Actions[i].Open, l.Actions[i].Fault = true, fault
			}
		}
	})
	v.status = http.StatusUnprocessableEntity
	return v, err
}

// uncertainView asks for a second confirmation.
type uncertainView struct {
	desk.Detail
	Reason   string
	Force    bool
	Commands []command
}

func (p *pages) replay(r *request) (view, error) {
	yes, force := r.PostFormValue("uncertain") == "yes", r.PostFormValue("force") == "yes"
	err := p.desk.Replay(r.Context(), r.actor(), r.number(), yes, force, r.reason())
	if errors.Is(err, desk.ErrUncertain) {
		d, err := p.desk.Letter(r.Context(), r.number())
		if err != nil {
			return view{}, err
		}
		return view{template: "uncertain", title: "Has it been sent?", status: http.StatusConflict, data: uncertainView{
			d, r.reason(), force, []command{onLetter("replay", []uint64{d.Sequence}, "--may-have-been-sent"), replayWithNATS(d.Sequence, d.ReplaySubject)}}}, nil
	}
	if err != nil {
		return p.again(r, "replay", err)
	}
	return done(r.number(), "replayed"), nil
}

func (p *pages) discard(r *request) (view, error) {
	return p.onOne(r, desk.ForDiscard, "discarded")
}

func (p *pages) hold(r *request) (view, error) {
	return p.onOne(r, desk.ForHold, "held")
}

func (p *pages) release(r *request) (view, error) {
	return p.onOne(r, desk.ForRelease, "released")
}

// onOne acts on the letter of the page.
func (p *pages) onOne(r *request, purpose desk.Purpose, notice string) (view, error) {
	if err := p.desk.ActOn(r.Context(), r.actor(), r.number(), purpose, r.reason()); err != nil {
		return p.again(r, string(purpose), err)
	}
	return done(r.number(), notice), nil
}

func (p *pages) restore(r *request) (view, error) {
	number, err := p.desk.Restore(r.Context(), r.actor(), r.number(), r.reason())
	if err != nil {
		return p.again(r, "restore", err)
	}
	return done(number, "restored"), nil
}

// preflight responds with the letter's page instead of a redirect: it changes nothing,
// and its findings are not stored.
func (p *pages) preflight(r *request) (view, error) {
	found, err := p.desk.Preflight(r.Context(), r.number(), r.PostFormValue("recipients") == "yes")
	if err != nil {
		return view{}, err
	}
	v, err := p.letterWith(r, func(l *letterView) {
		l.Ahead = &found
		if found.OK {
			replayIsNext(l.Actions)
		}
	})
	v.object = found
	return v, err
}
