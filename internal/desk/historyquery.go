package desk

import (
	"time"
	"unique"

	"github.com/certpost/certpost/internal/broker"
)

// HistoryQuery chooses audit records; the zero value chooses all.
type HistoryQuery struct {
	Action   broker.Action
	By       string
	Target   string
	Lane     string
	Event    string
	Letter   uint64 // a dead letter's number
	Run      string
	From, To time.Time // of the record; To itself is not among them
}

// Filter reports of a record whether the query chooses it, for who reads the audit
// himself.
func (q HistoryQuery) Filter() func(*broker.AuditRecord) bool {
	f := q.ready()
	return func(r *broker.AuditRecord) bool {
		known := newRecord(r)
		return f.fits(&known)
	}
}

// historyFilter is a query made ready for many records.
type historyFilter struct {
	HistoryQuery
	action, by, target, lane, run unique.Handle[string]
	from, to                      int64 // Unix nanoseconds, 0: no bound
}

func (q HistoryQuery) ready() *historyFilter {
	return &historyFilter{HistoryQuery: q, action: unique.Make(string(q.Action)), by: unique.Make(q.By), target: unique.Make(q.Target),
		lane: unique.Make(q.Lane), run: unique.Make(q.Run), from: nanoseconds(q.From), to: nanoseconds(q.To)}
}

func (f *historyFilter) fits(r *record) bool {
	switch {
	case f.Action != "" && r.action != f.action,
		f.By != "" && r.by != f.by,
		f.Target != "" && r.target != f.target,
		f.Lane != "" && r.lane != f.lane,
		f.Run != "" && r.run != f.run,
		f.Event != "" && r.event != f.Event,
		f.Letter != 0 && r.number != f.Letter,
		f.from != 0 && r.at < f.from,
		f.to != 0 && r.at >= f.to:
		return false
	}
	return true
}
