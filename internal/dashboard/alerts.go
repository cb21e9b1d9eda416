package dashboard

import (
	"net/http"
	"slices"

	"github.com/certpost/certpost/internal/alert"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/duration"
)

const alertsPath = "/alerts"

// alertsView is the page of what lasts, what is silenced, and how the channels do.
type alertsView struct {
	desk.Alerts
	Told     bool          // this process sends alerts
	Choices  []alertChoice // what the form offers to silence
	Lengths  []length
	Reason   string // as entered in the refused form
	Fault    string // why the form was refused
	Commands []command
}

// alertChoice is something that may be silenced.
type alertChoice struct{ Value, Label string }

// silenceLengths are the durations that the form offers.
var silenceLengths = []length{{"30m", "30 minutes"}, {"1h", "1 hour"}, {"4h", "4 hours"}, {"24h", "1 day"}, {"72h", "3 days"}, {"168h", "1 week"}}

func (p *pages) alerts(r *request) (view, error) { return p.alertsWith(r, "", "", 0) }

// alertsWith is the page, with the form that was refused.
func (p *pages) alertsWith(r *request, reason, fault string, status int) (view, error) {
	found, err := p.desk.Alerts(r.Context())
	if err != nil {
		return view{}, err
	}
	return view{template: "alerts", title: "Alerts", status: status, data: newAlertsView(found, p.tells, reason, fault), object: found}, nil
}

func newAlertsView(found desk.Alerts, tells bool, reason, fault string) alertsView {
	v := alertsView{Alerts: found, Told: tells, Lengths: silenceLengths, Reason: reason, Fault: fault, Choices: []alertChoice{{alert.Everything, "all alerts"}},
		Commands: []command{{"certpost", "certpost alerts list"}, {"certpost", shellLine("certpost", "alerts", "silence", alert.Everything, "--for=2h", "--reason=WHY")}}}
	for _, a := range found.Alerts {
		if a.State == alert.Firing {
			v.Choices = append(v.Choices, alertChoice{a.Key, a.Summary})
		}
	}
	for _, kind := range alert.Kinds() {
		v.Choices = append(v.Choices, alertChoice{string(kind), "all of kind " + string(kind)})
	}
	return v
}

func (p *pages) silence(r *request) (view, error) {
	last, err := duration.Parse(r.PostFormValue("for"))
	if err != nil || !slices.ContainsFunc(silenceLengths, func(l length) bool { return l.Value == r.PostFormValue("for") }) {
		return p.alertsWith(r, r.reason(), "Select one of the durations.", http.StatusUnprocessableEntity)
	}
	_, err = p.desk.Silence(r.Context(), r.actor(), r.PostFormValue("alert"), last, r.reason())
	if desk.StatusOf(err) == http.StatusUnprocessableEntity {
		return p.alertsWith(r, r.reason(), says(err), http.StatusUnprocessableEntity)
	}
	if err != nil {
		return view{}, err
	}
	return view{to: alertsPath + "?done=silenced"}, nil
}

func (p *pages) unsilence(r *request) (view, error) {
	if err := p.desk.Unsilence(r.Context(), r.actor(), r.PostFormValue("alert"), r.reason()); err != nil {
		return view{}, err
	}
	return view{to: alertsPath + "?done=unsilenced"}, nil
}
