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

// historyView is who did what, when and why.
type historyView struct {
	Form     historyForm
	Chips    []desk.Chip
	Path     string
	List     []historyRow
	Pager    pager
	Head     chained // the newest record of all: the end of the chain
	News     historyNews
	Commands []command
}

// historyForm is the filter as its form shows it.
type historyForm struct {
	desk.HistoryQuery
	LetterText string
	Actions    []broker.Action
}

// historyNews is what was recorded since the page was made.
type historyNews struct {
	Query   string // of the address that asks for it
	Count   int
	More    bool // than Count
	Address string
}

// recorded are the actions that can be asked for, in the order of a letter's life.
var recorded = []broker.Action{
	broker.ActionReplayed, broker.ActionDelivered, broker.ActionDiscarded, broker.ActionRestored, broker.ActionHeld, broker.ActionReleased, broker.ActionFailed,
	broker.ActionExpired, broker.ActionReplaced, broker.ActionRemoved, broker.ActionSuspended, broker.ActionResumed, broker.ActionStarted, broker.ActionPaused,
	broker.ActionContinued, broker.ActionStopped, broker.ActionCancelled, broker.ActionDone, broker.ActionSignedIn, broker.ActionSignedOut, broker.ActionRefused,
}

// historyRow is a record with the addresses of what it is about, "" for what it is not.
type historyRow struct {
	chained
	What         string
	LetterPage   string
	NewPage      string
	DeliveryPage string
	TargetPage   string
	LanePage     string
	RunPage      string
}

// chained is a record with its place in the chain, as it leaves the page.
type chained struct {
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"` // SHA-256 over the stored bytes, which the next record holds
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

// historyQuery reads the filter from the address.
func (r *request) historyQuery() (desk.HistoryQuery, error) {
	value := func(key string) string { return strings.TrimSpace(r.FormValue(key)) }
	q := desk.HistoryQuery{Action: broker.Action(value("action")), By: value("by"), Target: value("target"), Event: value("event"), Run: value("run")}
	if q.Action != "" && !slices.Contains(recorded, q.Action) {
		return q, wrongf("action wants one of those in the list of actions")
	}
	if text := value("letter"); text != "" {
		var err error
		if q.Letter, err = strconv.ParseUint(text, 10, 64); err != nil || q.Letter == 0 {
			return q, wrongf("letter wants the number of a dead letter")
		}
	}
	return q, nil
}

var historyConditions = []condition{{"action", "action"}, {"by", "by"}, {"target", "target"}, {"event", "event"}, {"letter", "letter"}, {"run", "replay"}}

func (p *pages) history(r *request) (view, error) {
	q, err := r.historyQuery()
	if err != nil {
		return view{}, err
	}
	records, next := p.desk.History(q, r.after(), pageSize(r))
	options := r.optionsOf("action", "by", "target", "event", "letter")
	if q.Run != "" {
		options = append(options, "--replay="+q.Run)
	}
	v := historyView{Form: historyForm{HistoryQuery: q, Actions: recorded}, Chips: r.chips(historyConditions), Path: historyPath, List: historyRows(records), Commands: []command{
		{"certpost", shellLine(append([]string{"certpost", "audit", "list"}, options...)...)}, {"certpost", "certpost audit export"}, {"nats", "nats stream view " + broker.AuditStream}}}
	if q.Letter != 0 {
		v.Form.LetterText = strconv.FormatUint(q.Letter, 10)
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

// mostNews is as many new records as are counted.
const mostNews = 100

// historyNews says how many records of a list are newer than it.
func (p *pages) historyNews(r *request) (view, error) {
	q, err := r.historyQuery()
	if err != nil {
		return view{}, err
	}
	since, err := strconv.ParseUint(r.FormValue("since"), 10, 64)
	if err != nil {
		return view{}, wrongf("since wants the number of a record")
	}
	query := r.URL.Query()
	query.Del("after")
	news := historyNews{Query: query.Encode()}
	query.Del("since")
	news.Address = address(historyPath, query)
	records, _ := p.desk.History(q, 0, mostNews)
	for _, record := range records {
		if record.Sequence > since {
			news.Count++
		}
	}
	news.More = news.Count == mostNews
	return view{template: "audit-news", title: "New in the audit", data: news, fragment: true, object: map[string]int{"new": news.Count}}, nil
}

// historyTable is every record that fits, newest first, for CSV and JSON.
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

// numberOrNone is a number for machines, "" where 0 stands for none.
func numberOrNone(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
