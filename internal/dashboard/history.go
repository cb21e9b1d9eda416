package dashboard

import (
	"iter"
	"net/url"
	"strconv"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

const historyPath = "/audit"

// historyView is the page of the audit.
type historyView struct {
	Fields   formFields
	Chips    []desk.Chip
	Path     string
	List     []historyRow
	Pager    pager
	Head     desk.Record // the newest record in the audit: the end of the chain
	News     historyNews
	Older    older
	Unsigned string // why no record is signed; "" if they are
	Commands []command
}

// older describes the records in the stream that were not searched.
type older struct {
	Before  uint64 // the oldest record that was searched; 0: all were
	Command string // searches all records
}

func (p *pages) historyFields(q desk.HistoryQuery) formFields {
	var lanes []string
	for _, t := range p.desk.Targets() {
		lanes = append(lanes, t.Lane)
	}
	return filterFields(desk.HistoryConditions.All(), desk.HistoryConditions.Values(q), map[string][]string{"lane": once(lanes), "target": p.targetIDs()})
}

// historyNews counts the records that came since the page was rendered.
type historyNews struct {
	Query   string // of the address that counts them
	Count   int
	More    bool // there may be more than Count
	Address string
}

// historyRow is a record with the addresses of the pages about it, "" if there is none.
type historyRow struct {
	desk.Record
	What         string
	LetterPage   string
	NewPage      string
	DeliveryPage string
	TargetPage   string
	LanePage     string
	RunPage      string
	GroupPage    string
	EachPage     string // the records of the letters of an act on many
}

func newHistoryRow(r desk.Record) historyRow {
	row := historyRow{Record: r, What: actionWords(r.Action)}
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
	if r.Group != "" {
		row.GroupPage = lettersPath + "/groups/" + url.PathEscape(r.Group)
	}
	switch {
	case r.Many == nil:
	case r.Run != "":
		row.EachPage = historyPath + "?run=" + url.QueryEscape(r.Run)
	default:
		row.EachPage = historyPath + "?act=" + url.QueryEscape(r.Act)
	}
	return row
}

func historyRows(records []desk.Record) []historyRow {
	rows := make([]historyRow, len(records))
	for i, r := range records {
		rows[i] = newHistoryRow(r)
	}
	return rows
}

func (p *pages) history(r *request) (view, error) {
	q, err := desk.HistoryConditions.Parse(r.URL.Query(), listKeys...)
	if err != nil {
		return view{}, err
	}
	shown := q
	if shown.Folds() {
		shown.Each = new(bool)
	}
	records, next := p.desk.History(shown, r.after(), pageSize(r))
	options := desk.HistoryConditions.Flags(q)
	all := shellLine(append([]string{"certpost", "audit", "export"}, options...)...)
	v := historyView{Fields: p.historyFields(q), Chips: desk.HistoryConditions.Chips(q), Path: historyPath, List: historyRows(records), Unsigned: p.desk.Unsigned(), Commands: []command{
		{"certpost", shellLine(append([]string{"certpost", "audit", "list"}, options...)...)}, {"certpost", all}, {"nats", "nats stream view " + broker.AuditStream}}}
	if len(v.Chips) > 0 || next == 0 {
		v.Older = older{p.desk.Unsearched(q), all}
	}
	if newest, _ := p.desk.History(desk.HistoryQuery{}, 0, 1); len(newest) > 0 {
		v.Head = newest[0]
	}
	if r.after() == 0 {
		v.News.Query = with(r.URL.Query(), newerThan, strconv.FormatUint(v.Head.Sequence, 10)).Encode()
	}
	if next != 0 {
		v.Pager.Next = r.with("after", strconv.FormatUint(next, 10))
	}
	if r.after() != 0 {
		v.Pager.First = r.with("after", "")
	}
	return view{template: "audit", title: "Audit", data: v, table: exported(desk.RecordTable, eachRecord(p.desk, q))}, nil
}

// mostNews is the maximum number of new records that are counted.
const mostNews = 100

// historyNews counts the records that are newer than the list on the page.
func (p *pages) historyNews(r *request) (view, error) {
	q, err := desk.HistoryConditions.Parse(r.URL.Query(), listKeys...)
	if err != nil {
		return view{}, err
	}
	since, err := strconv.ParseUint(r.FormValue(newerThan), 10, 64)
	if err != nil {
		return view{}, wrongf("Invalid %s: use the number of a record", newerThan)
	}
	query := r.URL.Query()
	query.Del("after")
	news := historyNews{Query: query.Encode()}
	query.Del(newerThan)
	news.Address = address(historyPath, query)
	if q.Folds() {
		q.Each = new(bool)
	}
	records, _ := p.desk.History(q, 0, mostNews)
	for _, record := range records {
		if record.Sequence > since {
			news.Count++
		}
	}
	news.More = news.Count == mostNews
	return view{template: "audit-news", title: "New in the audit", data: news, fragment: true, object: map[string]int{"new": news.Count}}, nil
}

// eachRecord yields all records that match, newest first, for CSV and JSON.
func eachRecord(d *desk.Desk, q desk.HistoryQuery) iter.Seq[desk.Record] {
	return func(yield func(desk.Record) bool) {
		for after, more := uint64(0), true; more; {
			var records []desk.Record
			records, after = d.History(q, after, whole)
			more = after != 0
			for _, r := range records {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// numberOrNone formats a number for CSV and forms; "" for 0, which means none.
func numberOrNone(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
