package dashboard

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/duration"
	"github.com/certpost/certpost/internal/verdict"
)

const relaysPath = "/relays"

// relaysView is all lanes.
type relaysView struct {
	List     []laneRow
	Commands []command
}

// laneRow is a lane with its relays.
type laneRow struct {
	laneView
	Relays  []relayRow
	Address string
	Letters string // the dead letters of its targets
	History string
	Confirm string // of an action on all that waits in it; the action is appended
}

// relayRow is a relay with its limits in words.
type relayRow struct {
	verdict.RelayView
	Limits string
}

func laneAddress(lane string) string { return relaysPath + "/" + url.PathEscape(lane) }

func newLaneRow(lane desk.LaneRow) laneRow {
	row := laneRow{laneView: newLaneView(lane.LaneInfo), Address: laneAddress(lane.Lane), Letters: address(lettersPath, queryOf("lane", lane.Lane)), History: address(historyPath, queryOf("lane", lane.Lane)),
		Confirm: allThatWait(queryOf("lane", lane.Lane))}
	for _, relay := range lane.Relays {
		row.Relays = append(row.Relays, relayRow{relay, relay.Limits()})
	}
	return row
}

func (p *pages) relays(r *request) (view, error) {
	lanes, err := p.desk.Relays(r.Context())
	if err != nil {
		return view{}, err
	}
	v := relaysView{Commands: []command{{"certpost", "certpost relays list"}, {"nats", "nats consumer report " + broker.DeliveriesStream}}}
	for _, lane := range lanes {
		v.List = append(v.List, newLaneRow(lane))
	}
	return view{template: "relays", title: "Relays", data: v, table: exported(desk.LaneTable, slices.Values(lanes))}, nil
}

// relayView is one lane: its state in each process, and the forms to suspend and resume
// it.
type relayView struct {
	laneRow
	Targets  []string
	Lengths  []length
	Reason   string // as entered in the refused form
	Fault    string // why the form was refused
	Commands []command
}

// length is a duration that the form offers for a suspension.
type length struct {
	Value string // a Go duration, "" for until it is resumed
	Label string
}

var lengths = []length{{"30m", "30 minutes"}, {"1h", "1 hour"}, {"4h", "4 hours"}, {"24h", "1 day"}, {"72h", "3 days"}, {"", "until an operator resumes it"}}

func (p *pages) relay(r *request) (view, error) {
	lane, err := p.laneOf(r)
	if err != nil {
		return view{}, err
	}
	return view{template: "relay", title: "Lane " + lane.Lane, data: newRelay(lane, p.targetsOf(lane.Lane)), object: lane}, nil
}

func (p *pages) laneOf(r *request) (desk.LaneRow, error) {
	lanes, err := p.desk.Relays(r.Context())
	if err != nil {
		return desk.LaneRow{}, err
	}
	i := slices.IndexFunc(lanes, func(l desk.LaneRow) bool { return l.Lane == r.PathValue("lane") })
	if i < 0 {
		return desk.LaneRow{}, desk.ErrNotFound
	}
	return lanes[i], nil
}

// targetsOf are the ids of a lane's targets.
func (p *pages) targetsOf(lane string) (ids []string) {
	for _, t := range p.desk.Targets() {
		if t.TargetView.Lane == lane {
			ids = append(ids, t.ID)
		}
	}
	return ids
}

func newRelay(lane desk.LaneRow, targets []string) relayView {
	v := relayView{laneRow: newLaneRow(lane), Targets: targets, Lengths: lengths, Commands: []command{
		{"certpost", shellLine("certpost", "relays", "suspend", lane.Lane, "--reason=WHY", "--for=2h")},
		{"nats", shellLine("nats", "consumer", "info", broker.DeliveriesStream, "lane-"+lane.Lane)},
	}}
	if lane.Suspension != nil || len(lane.Pauses) > 0 {
		v.Commands[0] = command{"certpost", shellLine("certpost", "relays", "resume", lane.Lane)}
	}
	return v
}

// suspend stops all fetching from a lane, for a time or until an operator resumes it.
func (p *pages) suspend(r *request) (view, error) {
	until, err := suspendedUntil(r.PostFormValue("for"), r.PostFormValue("until"), r.now)
	if err != nil {
		return p.relayAgain(r, err.Error())
	}
	if _, err := p.laneOf(r); err != nil {
		return view{}, err
	}
	err = p.desk.Suspend(r.Context(), r.actor(), r.PathValue("lane"), r.reason(), until)
	if desk.StatusOf(err) == http.StatusUnprocessableEntity {
		return p.relayAgain(r, says(err))
	}
	if err != nil {
		return view{}, err
	}
	return view{to: laneAddress(r.PathValue("lane")) + "?done=suspended"}, nil
}

// suspendedUntil is when a suspension ends: at a given time, otherwise after one of the
// offered durations. Zero means until an operator resumes it.
func suspendedUntil(after, at string, now time.Time) (time.Time, error) {
	if at = strings.TrimSpace(at); at != "" {
		until, err := time.Parse("2006-01-02T15:04", at)
		if err != nil {
			return until, wrongf("Invalid end: enter a date and time in UTC, such as 2026-01-31T15:04.")
		}
		if !until.After(now) {
			return until, wrongf("The end is in the past: times are UTC, and the time is now %s.", now.Format("2006-01-02 15:04"))
		}
		return until, nil
	}
	if after == "" {
		return time.Time{}, nil
	}
	for _, l := range lengths {
		if l.Value == after {
			d, _ := duration.Parse(l.Value) // a constant above
			return now.Add(d).Truncate(time.Second), nil
		}
	}
	return time.Time{}, wrongf("Select one of the durations, or enter the end.")
}

// relayAgain is the lane's page with the form that was refused.
func (p *pages) relayAgain(r *request, fault string) (view, error) {
	lane, err := p.laneOf(r)
	if err != nil {
		return view{}, err
	}
	v := newRelay(lane, p.targetsOf(lane.Lane))
	v.Reason, v.Fault = r.reason(), fault
	return view{template: "relay", title: "Lane " + lane.Lane, status: http.StatusUnprocessableEntity, data: v, object: map[string]string{"error": fault}}, nil
}

func (p *pages) resume(r *request) (view, error) {
	if _, err := p.laneOf(r); err != nil {
		return view{}, err
	}
	err := p.desk.Resume(r.Context(), r.actor(), r.PathValue("lane"), r.reason())
	if errors.Is(err, broker.ErrNotSuspended) {
		says := problem{Title: "The lane is not suspended", Says: "It was already resumed, or the suspension or pause has ended.", Do: "Nothing to do: the lane delivers."}
		return view{template: "problem", title: says.Title, status: http.StatusConflict, data: says, object: map[string]any{"status": http.StatusConflict, "error": says.Says}}, nil
	}
	if err != nil {
		return view{}, err
	}
	return view{to: laneAddress(r.PathValue("lane")) + "?done=resumed"}, nil
}
