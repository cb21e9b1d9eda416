package dashboard

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

const targetsPath = "/targets"

// targetsView is the list of targets.
type targetsView struct {
	Text     string // the search text
	List     []targetRow
	Total    int
	Pager    pager
	Commands []command
}

// targetRow is a target with the addresses of what belongs to it.
type targetRow struct {
	desk.TargetResult
	Address    string
	Lane       string // its page
	Mail       string // the preview of its mail
	Deliveries string
	Letters    string
	History    string
}

func targetAddress(id string) string { return targetsPath + "/" + url.PathEscape(id) }

func newTargetRow(t desk.TargetResult) targetRow {
	q := queryOf("target", t.ID)
	return targetRow{t, targetAddress(t.ID), laneAddress(t.TargetView.Lane), mailAddress(t.ID), address(deliveriesPath, q), address(lettersPath, q), address(historyPath, q)}
}

func queryOf(key, value string) url.Values { return url.Values{key: {value}} }

// fitsText reports whether a target matches a search text: by its id, type, lane, a
// relay, a recipient or its payload.
func fitsText(t desk.TargetResult, text string) bool {
	text = strings.ToLower(text)
	return slices.ContainsFunc(slices.Concat([]string{t.ID, t.Payload, t.Type, t.TargetView.Lane}, t.TargetView.Relays, t.To), func(s string) bool {
		return strings.Contains(strings.ToLower(s), text)
	})
}

func (p *pages) targets(r *request) (view, error) {
	v := targetsView{Text: strings.TrimSpace(r.FormValue("q")), Commands: []command{{"certpost", "certpost check"}}}
	found := slices.DeleteFunc(slices.Clone(p.desk.Targets()), func(t desk.TargetResult) bool { return v.Text != "" && !fitsText(t, v.Text) })
	v.Total = len(found)
	from, size := int(min(r.after(), uint64(len(found)))), pageSize(r)
	for _, t := range found[from:min(from+size, len(found))] {
		v.List = append(v.List, newTargetRow(t))
	}
	if from+size < len(found) {
		v.Pager.Next = r.with("after", strconv.Itoa(from+size))
	}
	if from > 0 {
		v.Pager.First = r.with("after", "")
	}
	return view{template: "targets", title: "Targets", data: v, table: exported(desk.TargetTable, slices.Values(found))}, nil
}

// targetView is one target: its definition, and the results of its deliveries.
type targetView struct {
	targetRow
	Asked    string // the former id in the address; "" if it is the target's own
	Checked  bool
	Findings []verdict.Finding
	Fails    int // findings because of which a delivery would fail
	Look     int // warnings
	Commands []command
}

func (p *pages) target(r *request) (view, error) {
	v, err := p.targetOf(r)
	return view{template: "target", title: "Target " + v.ID, data: v, object: v.TargetResult}, err
}

func (p *pages) targetOf(r *request) (targetView, error) {
	id := r.PathValue("id")
	t := p.defined(id)
	if t == nil {
		return targetView{}, desk.ErrNotFound
	}
	v := newTarget(*t)
	if id != v.ID {
		v.Asked = id
	}
	return v, nil
}

// defined returns the target with an id, or a former id; nil if there is none.
func (p *pages) defined(id string) *desk.TargetResult {
	all := p.desk.Targets()
	i := slices.IndexFunc(all, func(t desk.TargetResult) bool { return t.ID == id })
	if i < 0 {
		i = slices.IndexFunc(all, func(t desk.TargetResult) bool { return slices.Contains(t.FormerIDs, id) })
	}
	if i < 0 {
		return nil
	}
	return &all[i]
}

func newTarget(t desk.TargetResult) targetView {
	return targetView{targetRow: newTargetRow(t), Commands: []command{
		{"certpost", shellLine("certpost", "check", "--live", "--target="+t.ID)},
		{"certpost", shellLine("certpost", "deliveries", "list", "--target="+t.ID)},
		{"certpost", shellLine("certpost", "dead-letters", "list", "--target="+t.ID)},
	}}
}

// checkTarget responds with the target's page instead of a redirect: it changes
// nothing, and its findings are not stored.
func (p *pages) checkTarget(r *request) (view, error) {
	v, err := p.targetOf(r)
	if err != nil {
		return view{}, err
	}
	v.take(p.desk.Check(r.Context(), v.ID))
	return view{template: "target", title: "Target " + v.ID, data: v, object: v.Findings}, nil
}

func (v *targetView) take(findings []verdict.Finding) {
	v.Checked, v.Findings = true, findings
	for _, f := range findings {
		switch f.Status {
		case verdict.Error:
			v.Fails++
		case verdict.Warning:
			v.Look++
		}
	}
}
