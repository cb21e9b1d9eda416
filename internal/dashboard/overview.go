package dashboard

import (
	"cmp"
	"slices"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

// overviewView is the first page: whether a letter is lost, what failed, and what is in
// progress.
type overviewView struct {
	desk.Overview
	Strip  strip
	Groups []groupView
	More   int     // groups that are not shown
	Sent   counted // in 24 hours
	Dead   counted
	Lanes  []laneView
	News   news
}

// groupsAtAGlance is how many groups the overview shows, the largest first.
const groupsAtAGlance = 12

func (p *pages) overview(r *request) (view, error) {
	o, err := p.desk.Overview(r.Context())
	if err != nil {
		return view{}, err
	}
	title := "Overview"
	if o.Balance.Open > 0 {
		title += ": " + plural(o.Balance.Open, "dead letter")
	}
	return view{template: "overview", title: title, renews: o.Reading != "", data: newOverview(r.now, o, p.desk.Letters(desk.Query{}, desk.Page{Size: 1}).AsOf), object: o}, nil
}

func newOverview(now time.Time, o desk.Overview, asOf uint64) overviewView {
	v := overviewView{Overview: o, Strip: newStrip(o.Balance), News: news{Since: asOf}}
	o.Groups = slices.Clone(o.Groups)
	slices.SortStableFunc(o.Groups, func(a, b desk.Group) int { return cmp.Compare(b.Count, a.Count) })
	for i, g := range o.Groups {
		if i == groupsAtAGlance {
			v.More = len(o.Groups) - i
			break
		}
		v.Groups = append(v.Groups, newGroupView(g))
	}
	for hour := range 24 {
		v.Sent.Count += o.Sent24h[hour]
		v.Dead.Count += o.Dead24h[hour]
	}
	from := now.Truncate(time.Hour).Add(-23 * time.Hour) // of the oldest of the 24
	v.Sent.Address = address(deliveriesPath, desk.DeliveryConditions.Values(desk.DeliveryQuery{State: broker.StateSent, From: from}))
	v.Dead.Address = address(lettersPath, desk.Query{From: from}.Values())
	for _, lane := range o.Lanes {
		v.Lanes = append(v.Lanes, newLaneView(lane))
	}
	return v
}

// strip is the account of all dead letters ever: an equation that must balance.
type strip struct {
	desk.Balance
	Terms []term
}

// term is one addend: letters with one status.
type term struct {
	Status desk.Status
	Count  int
	Says   string
	List   string // the address of the list that it counts
}

func newStrip(b desk.Balance) strip {
	s := strip{Balance: b, Terms: []term{{desk.Open, b.Open, "on the list", lettersPath}}}
	for _, status := range []struct {
		status desk.Status
		says   string
		always bool
	}{
		{desk.Replayed, "published again", true},
		{desk.Discarded, "discarded by an operator, with a reason", true},
		{desk.Expired, "removed by the stream at the end of the retention time", true},
		{desk.Replaced, "replaced by a newer letter of the same delivery", false},
		{desk.Removed, "removed from the stream without Certpost", false},
	} {
		if n := b.Ended[status.status]; n > 0 || status.always {
			list := address(historyPath, desk.HistoryConditions.Values(desk.HistoryQuery{Ended: status.status}))
			if status.status == desk.Discarded {
				list = address(lettersPath, desk.Query{State: desk.Discarded}.Values())
			}
			s.Terms = append(s.Terms, term{status.status, n, status.says, list})
		}
	}
	return s
}

// laneView is a lane with its state in words.
type laneView struct {
	broker.LaneInfo
	State desk.LaneState
	Mark  string // the class of a mark
}

func newLaneView(lane broker.LaneInfo) laneView {
	v := laneView{LaneInfo: lane, State: desk.StateOf(lane), Mark: "good"}
	switch {
	case lane.Suspension != nil:
		v.Mark = "held"
	case lane.Starting:
		v.Mark = "busy"
	case slices.ContainsFunc(lane.Statuses, func(s broker.LaneStatus) bool { return len(s.Relays) > 0 }):
		v.Mark = "bad"
	case v.State.Words == desk.NothingSucceeds:
		v.Mark = "bad"
	case lane.Replicas == 0, len(lane.Statuses) > 0, len(lane.Pauses) > 0:
		v.Mark = "warn"
	}
	return v
}
