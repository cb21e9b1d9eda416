package dashboard

import (
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

const historyPath = "/audit"

// historyView is the audit: who did what, when and why.
type historyView struct {
	Form     historyForm
	Chips    []desk.Chip
	Path     string
	List     []historyRow
	Pager    pager
	Head     chained // the newest record in the audit: the end of the chain
	News     historyNews
	Older    older
	Commands []command
}

// older says that the stream has records that were not searched.
type older struct {
	Before  uint64 // the oldest record that was searched; 0: all were
	Command string // searches all records
}

// historyForm is the filter as its form shows it.
type historyForm struct {
	desk.HistoryQuery
	LetterText   string
	From, Before string // as an input of type datetime-local wants them
	Actions      []broker.Action
	Lanes        []string
}

func (p *pages) historyForm(q desk.HistoryQuery) historyForm {
	form := historyForm{HistoryQuery: q, LetterText: numberOrNone(q.Letter), From: fieldTime(q.From), Before: fieldTime(q.To), Actions: recorded}
	for _, t := range p.desk.Targets() {
		form.Lanes = append(form.Lanes, t.Lane)
	}
	form.Lanes = once(form.Lanes)
	return form
}

// historyNews counts the lines that were recorded since the page was rendered.
type historyNews struct {
	Query   string // of the address that counts them
	Count   int
	More    bool // there may be more than Count
	Address string
}

// recorded are the actions that the filter offers, in the order of a letter's life.
var recorded = []broker.Action{
	broker.ActionReplayed, broker.ActionDelivered, broker.ActionDiscarded, broker.ActionRestored, broker.ActionHeld, broker.ActionReleased, broker.ActionFailed,
	broker.ActionExpired, broker.ActionReplaced, broker.ActionRemoved, broker.ActionSuspended, broker.ActionResumed, broker.ActionStarted, broker.ActionPaused,
	broker.ActionContinued, broker.ActionStopped, broker.ActionCancelled, broker.ActionDone, broker.ActionSignedIn, broker.ActionSignedOut, broker.ActionRefused,
}

// historyRow is a record with the addresses of what it concerns, "" for the rest.
type historyRow struct {
	chained
	What         string
	Whole        string // for a line that stands for many records: the address of all of them
	LetterPage   string
	NewPage      string
	DeliveryPage string
	TargetPage   string
	LanePage     string
	RunPage      string
}

// chained is a record with its place in the chain, as JSON and CSV show it.
type chained struct {
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"` // SHA-256 of the stored bytes; the next record holds it
	broker.AuditRecord
}

func newChained(r broker.AuditRecord) chained { return chained{r.Sequence, r.Hash, r} }

func chain(records []broker.AuditRecord) []chained {
	all := make([]chained, len(records))
	for i, r := range records {
		all[i] = newChained(r)
	}
	return all
}

func newHistoryRow(r broker.AuditRecord) historyRow {
	row := historyRow{chained: newChained(r), What: actionWords(r.Action)}
	letter := func(number uint64) string {
		if number == 0 {
			return ""
		}
		return lettersPath + "/" + strconv.FormatUint(number, 10)
	}
	row.LetterPage, row.NewPage = letter(r.LetterNumber), letter(r.NewLetter)
	if r.Target != "" {
		row.TargetPage = targetAddress(r.Target)
		if r.Event != "" {
			row.DeliveryPage = deliveryAddress(r.Target, r.Event)
		}
	}
	if r.Lane != "" {
		row.LanePage = laneAddress(r.Lane)
	}
	if r.Run != "" {
		row.RunPage = "/replays/" + url.PathEscape(r.Run)
	}
	return row
}

func historyRows(records []broker.AuditRecord) []historyRow {
	rows := make([]historyRow, len(records))
	for i, r := range records {
		rows[i] = newHistoryRow(r)
	}
	return rows
}

// historyLines turns lines into rows; folded lines get the address of all their records.
func historyLines(r *request, lines []desk.HistoryLine) []historyRow {
	rows := make([]historyRow, len(lines))
	for i, line := range lines {
		if rows[i] = newHistoryRow(line.AuditRecord); line.Folded() {
			rows[i].fold(line)
			rows[i].Whole = r.withRun(line.Run)
		}
	}
	return rows
}

// fold turns the row into one about the whole replay instead of a single letter.
func (row *historyRow) fold(line desk.HistoryLine) {
	row.What = foldedWords(line)
	row.Event, row.Stage, row.Reason = "", broker.StageOutcome, ""
	row.LetterPage, row.NewPage, row.DeliveryPage, row.TargetPage, row.LanePage = "", "", "", "", ""
	if line.Action != broker.ActionFailed { // each failure has its own reason
		row.Reason = line.Reason
	}
}

// foldedWords say what a replay did to its letters.
func foldedWords(line desk.HistoryLine) string {
	switch {
	case line.Letters == 0:
		return "about to be " + string(line.Action) + ": " + plural(line.Records, "letter")
	case line.Action == broker.ActionFailed:
		return "failed for " + plural(line.Letters, "letter") + "; nothing was changed"
	}
	return string(line.Action) + " " + plural(line.Letters, "letter")
}

// withRun is the request's address, narrowed to one run.
func (r *request) withRun(id string) string {
	query := r.URL.Query()
	query.Del("after")
	query.Set("run", id)
	return address(historyPath, query)
}

// historyQuery reads the filter from the address.
func (r *request) historyQuery() (desk.HistoryQuery, error) {
	value := func(key string) string { return strings.TrimSpace(r.FormValue(key)) }
	common, err := r.common("target", "lane", "event", "from", "to")
	q := desk.HistoryQuery{Action: broker.Action(value("action")), By: value("by"), Run: value("run"),
		Target: common.Target, Lane: common.Lane, Event: common.Event, From: common.From, To: common.To}
	if err != nil {
		return q, err
	}
	if q.Action != "" && !slices.Contains(recorded, q.Action) {
		return q, wrongf("Unknown action: choose one from the list of actions")
	}
	if text := value("letter"); text != "" {
		var err error
		if q.Letter, err = strconv.ParseUint(text, 10, 64); err != nil || q.Letter == 0 {
			return q, wrongf("Invalid letter: enter the number of a dead letter")
		}
	}
	return q, nil
}

var historyConditions = []condition{{"action", "action"}, {"by", "by"}, {"target", "target"}, {"lane", "lane"}, {"event", "event"}, {"letter", "letter"}, {"run", "replay"},
	{"from", "from"}, {"to", "before"}}

func (p *pages) history(r *request) (view, error) {
	q, err := r.historyQuery()
	if err != nil {
		return view{}, err
	}
	lines, next := p.desk.HistoryLines(q, r.after(), pageSize(r))
	options := r.optionsOf("action", "by", "target", "lane", "event", "letter", "from", "to")
	if q.Run != "" {
		options = append(options, "--replay="+q.Run)
	}
	all := shellLine(append([]string{"certpost", "audit", "export"}, options...)...)
	v := historyView{Form: p.historyForm(q), Chips: r.chips(historyConditions), Path: historyPath, List: historyLines(r, lines), Commands: []command{
		{"certpost", shellLine(append([]string{"certpost", "audit", "list"}, options...)...)}, {"certpost", all}, {"nats", "nats stream view " + broker.AuditStream}}}
	if len(v.Chips) > 0 || next == 0 {
		v.Older = older{p.desk.Unsearched(q), all}
	}
	if newest, _ := p.desk.History(desk.HistoryQuery{}, 0, 1); len(newest) > 0 {
		v.Head = newChained(newest[0])
	}
	if r.after() == 0 {
		v.News.Query = with(r.URL.Query(), "since", strconv.FormatUint(v.Head.Sequence, 10)).Encode()
	}
	if next != 0 {
		v.Pager.Next = r.with("after", strconv.FormatUint(next, 10))
	}
	if r.after() != 0 {
		v.Pager.First = r.with("after", "")
	}
	return view{template: "audit", title: "Audit", data: v, table: historyTable(p.desk, q)}, nil
}

// mostNews is the number of new lines at which counting stops.
const mostNews = 100

// historyNews counts the lines that are newer than the list on the page.
func (p *pages) historyNews(r *request) (view, error) {
	q, err := r.historyQuery()
	if err != nil {
		return view{}, err
	}
	since, err := strconv.ParseUint(r.FormValue("since"), 10, 64)
	if err != nil {
		return view{}, wrongf("Invalid since: use the number of a record")
	}
	query := r.URL.Query()
	query.Del("after")
	news := historyNews{Query: query.Encode()}
	query.Del("since")
	news.Address = address(historyPath, query)
	lines, _ := p.desk.HistoryLines(q, 0, mostNews)
	for _, line := range lines {
		if line.Sequence > since {
			news.Count++
		}
	}
	news.More = news.Count == mostNews
	return view{template: "audit-news", title: "New in the audit", data: news, fragment: true, object: map[string]int{"new": news.Count}}, nil
}

// historyTable is every record that matches, newest first and not folded, for CSV and
// JSON.
func historyTable(d *desk.Desk, q desk.HistoryQuery) *table {
	return &table{
		name:    "audit",
		columns: []string{"sequence", "time", "action", "stage", "by", "role", "via", "address", "reason", "letter", "new_letter", "event", "target", "lane", "run", "delivery", "new_target", "new_recipients", "until", "hash"},
		rows: rowsOf(eachRecord(d, q), func(r chained) []string {
			return []string{strconv.FormatUint(r.Sequence, 10), stamp(r.Time), string(r.Action), string(r.Stage), r.Name, r.Role, string(r.Via), r.Address, r.Reason,
				numberOrNone(r.LetterNumber), numberOrNone(r.NewLetter), r.Event, r.Target, r.Lane, r.Run, numberOrNone(r.Delivery), r.NewTarget, strings.Join(r.NewRecipients, " "), stamp(r.Until), r.Hash}
		}),
	}
}

func eachRecord(d *desk.Desk, q desk.HistoryQuery) iter.Seq[chained] {
	return func(yield func(chained) bool) {
		for after, more := uint64(0), true; more; {
			var records []broker.AuditRecord
			records, after = d.History(q, after, whole)
			more = after != 0
			for _, r := range records {
				if !yield(newChained(r)) {
					return
				}
			}
		}
	}
}

// numberOrNone is a number for CSV and forms, "" for 0, which stands for none.
func numberOrNone(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
