package desk

import (
	"time"
	"unique"

	"github.com/certpost/certpost/internal/broker"
)

// HistoryQuery selects audit records; the zero value selects all.
type HistoryQuery struct {
	Action   broker.Action
	By       string
	Target   string
	Lane     string
	Event    string
	Letter   uint64 // a dead letter's number
	Run      string
	Group    string        // the fingerprint of a group that was noted, assigned or ticketed
	Act      string        // the id of an act on many letters
	Ended    Status        // only records of how letters left the list: one for each
	Each     *bool         // no: an act on many letters is one record, and those of the letters are left out
	Since    time.Duration // before now
	From, To time.Time     // of the record; To is exclusive
}

// HistoryConditions are the conditions of the list of audit records.
var HistoryConditions = Conditions[HistoryQuery, *record]{
	text(Condition{Key: "by", Aliases: []string{"who"}, Label: "by", Field: "By", Kind: Search, Help: "Only actions by this name.", Hint: "NAME"},
		func(q *HistoryQuery) *string { return &q.By }, recordIs(func(q *HistoryQuery) string { return q.By }, func(r *record) unique.Handle[string] { return r.by })),
	text(Condition{Key: "action", Label: "action", Field: "Action", Help: "Only this action (replayed, discarded, ...).", Values: values(broker.Actions())},
		func(q *HistoryQuery) *string { return (*string)(&q.Action) }, recordIs(func(q *HistoryQuery) string { return string(q.Action) }, func(r *record) unique.Handle[string] { return r.action })),
	text(Condition{Key: "target", Label: "target", Field: "Target", Help: "Only about this target.", Hint: "ID"},
		func(q *HistoryQuery) *string { return &q.Target }, recordIs(func(q *HistoryQuery) string { return q.Target }, func(r *record) unique.Handle[string] { return r.target })),
	text(Condition{Key: "lane", Label: "lane", Field: "Lane", Help: "Only about this lane.", Hint: "LANE"},
		func(q *HistoryQuery) *string { return &q.Lane }, recordIs(func(q *HistoryQuery) string { return q.Lane }, func(r *record) unique.Handle[string] { return r.lane })),
	text(Condition{Key: "event", Label: "event", Field: "Event", Help: "Only about this event.", Hint: "ID"},
		func(q *HistoryQuery) *string { return &q.Event }, func(q *HistoryQuery) func(*record) bool { return func(r *record) bool { return r.event == q.Event } }),
	number(Condition{Key: "letter", Label: "letter", Field: "Letter", Help: "Only about this dead letter.", Hint: "NUMBER"},
		func(q *HistoryQuery) *uint64 { return &q.Letter }, func(q *HistoryQuery) func(*record) bool { return func(r *record) bool { return r.number == q.Letter } }),
	text(Condition{Key: "run", Aliases: []string{"replay"}, Label: "replay run", Field: "Replay run", Help: "Only about this replay run.", Hint: "ID"},
		func(q *HistoryQuery) *string { return &q.Run }, recordIs(func(q *HistoryQuery) string { return q.Run }, func(r *record) unique.Handle[string] { return r.run })),
	text(Condition{Key: "group", Label: "group", Help: "Only notes, assignees and tickets of this group.", Hint: "FINGERPRINT"},
		func(q *HistoryQuery) *string { return &q.Group }, recordIs(func(q *HistoryQuery) string { return q.Group }, func(r *record) unique.Handle[string] { return r.group })),
	text(Condition{Key: "act", Label: "act", Help: "Only about this act on many letters.", Hint: "ID"},
		func(q *HistoryQuery) *string { return &q.Act }, recordIs(func(q *HistoryQuery) string { return q.Act }, func(r *record) unique.Handle[string] { return r.act })),
	text(Condition{Key: "ended", Label: "letters that were", Help: "Only records with which letters left the list in this way (replayed, discarded, ...).", Values: values(outcomeNames[1:])},
		func(q *HistoryQuery) *string { return (*string)(&q.Ended) }, func(q *HistoryQuery) func(*record) bool {
			return func(r *record) bool { return r.number != 0 && outcomeNames[r.outcome()] == q.Ended }
		}),
	foldsOrNot(Condition{Key: "each", Label: "each letter", Help: "Every record (yes), or one for an action on many letters (no)."}),
	span(Condition{Key: "since", Label: "since", Help: "Only records of the last 24h, another duration such as 7d, or since a time."},
		func(q *HistoryQuery) *time.Duration { return &q.Since }, recordFrom),
	moment(Condition{Key: "from", Label: "from", Field: "From (UTC)", Help: "Only records from this time on (2026-01-31, 2026-01-31T15:04:05Z)."},
		func(q *HistoryQuery) *time.Time { return &q.From }, recordFrom),
	moment(Condition{Key: "to", Label: "before", Field: "Before (UTC)", Help: "Only records before this time."},
		func(q *HistoryQuery) *time.Time { return &q.To }, func(t time.Time) func(*record) bool { return func(r *record) bool { return r.at < t.UnixNano() } }),
}

// foldsOrNot is the condition that lists an act on many letters as one record, or not: it depends
// on the other records of the list, so it has no test of its own.
func foldsOrNot(c Condition) condition[HistoryQuery, *record] {
	made := yesNo[HistoryQuery, *record](c, func(q *HistoryQuery) **bool { return &q.Each }, nil)
	made.match = nil
	return made
}

func recordIs(want func(*HistoryQuery) string, is func(*record) unique.Handle[string]) func(*HistoryQuery) func(*record) bool {
	return func(q *HistoryQuery) func(*record) bool {
		wanted := unique.Make(want(q))
		return func(r *record) bool { return is(r) == wanted }
	}
}

func recordFrom(t time.Time) func(*record) bool {
	from := t.UnixNano()
	return func(r *record) bool { return r.at >= from }
}

// Matcher returns a function that reports whether a record matches, for callers that read
// the stream directly.
func (q HistoryQuery) Matcher() func(*broker.AuditRecord) bool {
	f := q.ready()
	return func(r *broker.AuditRecord) bool {
		known := newRecord(r)
		return f.fits(&known)
	}
}

// historyFilter is a query prepared for many records.
type historyFilter struct {
	HistoryQuery
	tests []func(*record) bool
}

func (q HistoryQuery) ready() *historyFilter {
	f := &historyFilter{HistoryQuery: q}
	f.tests = HistoryConditions.tests(&f.HistoryQuery)
	return f
}

func (f *historyFilter) fits(r *record) bool { return passes(f.tests, r) }
