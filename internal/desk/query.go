package desk

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// LetterConditions are the conditions of the list of letters.
var LetterConditions = Conditions[Query, *letter]{
	ofGroup(Condition{Key: "group", Label: "group", Help: "Only this group (its fingerprint; see groups).", Hint: "FINGERPRINT"},
		func(q *Query) *string { return &q.Fingerprint }, func(g *group) string { return g.fingerprint }),
	ofGroup(Condition{Key: "code", Label: "code", Field: "Code", Help: "Only this code (SMTP_AUTH, ...).", Values: values(verdict.Codes())},
		func(q *Query) *string { return (*string)(&q.Code) }, func(g *group) string { return string(g.code) }),
	ofGroup(Condition{Key: "class", Label: "class", Help: "Only this class (network, auth, io_transient, io_permanent, validation).", Values: values(verdict.Classes())},
		func(q *Query) *string { return (*string)(&q.Class) }, func(g *group) string { return string(g.code.Class()) }),
	ofGroup(Condition{Key: "phase", Label: "phase", Field: "Phase", Help: "Only this phase (rcpt, secrets, ...).", Values: values(verdict.Phases())},
		func(q *Query) *string { return (*string)(&q.Phase) }, func(g *group) string { return string(g.phase) }),
	ofGroup(Condition{Key: "lane", Label: "relay", Help: "Only this lane.", Hint: "LANE"},
		func(q *Query) *string { return &q.Lane }, func(g *group) string { return g.lane }),
	text(Condition{Key: "target", Label: "target", Field: "Target", Help: "Only this target.", Hint: "ID"},
		func(q *Query) *string { return &q.Target }, letterIs(func(q *Query) string { return q.Target }, func(l *letter) string { return l.target.Value() })),
	text(Condition{Key: "event", Label: "event", Help: "Only this event.", Hint: "ID"},
		func(q *Query) *string { return &q.Event }, letterIs(func(q *Query) string { return q.Event }, func(l *letter) string { return l.event })),
	text(Condition{Key: "certainty", Field: "Sent?", Help: "Only those not-sent, may-have-been-sent or accepted.", Values: values(verdict.Certainties())},
		func(q *Query) *string { return (*string)(&q.Certainty) }, letterIs(func(q *Query) string { return string(q.Certainty) }, func(l *letter) string { return l.certainty.Value() })),
	text(Condition{Key: "name", Label: "name", Field: "Name", Help: "Only certificates with this name.", Hint: "DNSNAME"},
		func(q *Query) *string { return &q.Name }, func(q *Query) func(*letter) bool {
			name := strings.ToLower(q.Name)
			return func(l *letter) bool { return l.named(name) }
		}),
	text(Condition{Key: "q", Label: "text", Field: "Search", Kind: Search, Help: "Only those with this text in a field.", Hint: "id, name, reason, reply"},
		func(q *Query) *string { return &q.Text }, func(q *Query) func(*letter) bool { return newNeedle(q.Text).in }),
	yesNo(Condition{Key: "held", Label: "held", Help: "Only those held (yes) or not (no)."},
		func(q *Query) **bool { return &q.Held }, func(l *letter) bool { return l.hold != nil }),
	yesNo(Condition{Key: "superseded", Label: "superseded", Help: "Only those with a newer certificate at their target (yes) or not (no)."},
		func(q *Query) **bool { return &q.Superseded }, func(l *letter) bool { return l.superseded != nil }),
	span(Condition{Key: "since", Label: "since", Field: "Since", Help: "Only those of this time until now (24h)."},
		func(q *Query) *time.Duration { return &q.Since }, letterFrom),
	moment(Condition{Key: "from", Label: "from", Help: "Only those from this moment on (2026-01-31, 2026-01-31T15:04:05Z)."},
		func(q *Query) *time.Time { return &q.From }, letterFrom),
	moment(Condition{Key: "to", Label: "before", Help: "Only those from before this moment."},
		func(q *Query) *time.Time { return &q.To }, func(t time.Time) func(*letter) bool { return func(l *letter) bool { return l.at < t.UnixNano() } }),
	moment(Condition{Key: "expires_before", Label: "expires before", Field: "Expires before (UTC)", Help: "Only certificates that expire before this moment."},
		func(q *Query) *time.Time { return &q.ExpiresBefore }, func(t time.Time) func(*letter) bool { return func(l *letter) bool { return l.notAfter < t.Unix() } }),
	number(Condition{Key: "above", Label: "above number", Help: "None with this number or a lower one.", Hint: "NUMBER"},
		func(q *Query) *uint64 { return &q.Above }, func(q *Query) func(*letter) bool { return func(l *letter) bool { return l.number > q.Above } }),
	number(Condition{Key: "as_of", Label: "up to number", Help: "None with a higher number.", Hint: "NUMBER"},
		func(q *Query) *uint64 { return &q.AsOf }, func(q *Query) func(*letter) bool { return func(l *letter) bool { return l.number <= q.AsOf } }),
	text[Query, *letter](Condition{Key: "order", Label: "order", Help: "Order: oldest (default), newest, or expiry (of the certificate).", Values: values([]Order{Newest, Oldest, Expiry})},
		func(q *Query) *string { return (*string)(&q.Order) }, nil),
}

// ofGroup is a condition for which all letters of a group give the same answer.
func ofGroup(c Condition, of func(*Query) *string, is func(*group) string) condition[Query, *letter] {
	made := text[Query, *letter](c, of, nil)
	made.group = func(q *Query) func(*group) bool {
		want := *of(q)
		return func(g *group) bool { return is(g) == want }
	}
	return made
}

func letterIs(want func(*Query) string, is func(*letter) string) func(*Query) func(*letter) bool {
	return func(q *Query) func(*letter) bool {
		wanted := want(q)
		return func(l *letter) bool { return is(l) == wanted }
	}
}

func letterFrom(t time.Time) func(*letter) bool {
	from := t.UnixNano()
	return func(l *letter) bool { return l.at >= from }
}

// Values is the query as an address has it.
func (q Query) Values() url.Values { return LetterConditions.Values(q) }

// Chips are the conditions that are set, the order aside.
func (q Query) Chips() []Chip { return LetterConditions.Chips(q) }

// MarshalJSON writes the query as a filter: {"code": "SMTP_AUTH"}.
func (q Query) MarshalJSON() ([]byte, error) { return json.Marshal(LetterConditions.Filter(q)) }

// UnmarshalJSON reads what MarshalJSON writes, and the form in which earlier versions
// stored the query of a replay run: the fields by their names in Go.
func (q *Query) UnmarshalJSON(text []byte) (err error) {
	var filter map[string]string
	if json.Unmarshal(text, &filter) == nil {
		*q, err = LetterConditions.stored(filter)
		return err
	}
	type stored Query
	return json.Unmarshal(text, (*stored)(q))
}

// fixed is the query with its times as they are now: later it still chooses the same.
func (q Query) fixed(now time.Time) Query {
	if q.Since != 0 {
		if from := now.Add(-q.Since).UTC(); from.After(q.From) {
			q.From = from
		}
		q.Since = 0
	}
	return q
}

// wholeGroups reports whether the query chooses groups as they are: then their
// counts are known without looking at letters.
func (q *Query) wholeGroups() bool {
	for _, c := range LetterConditions {
		whole := c.group != nil || c.Key == "order" || c.Key == "as_of" // the latter is looked at where it matters
		if !whole && c.get(q) != "" {
			return false
		}
	}
	return true
}

// filter is a query made ready for many letters.
type filter struct {
	*Query
	groups []func(*group) bool
	others []func(*letter) bool
}

func (q *Query) ready() *filter {
	f := &filter{Query: q, others: LetterConditions.tests(q)}
	for _, c := range LetterConditions {
		if c.group != nil && c.get(q) != "" {
			f.groups = append(f.groups, c.group(q))
		}
	}
	return f
}

// group reports whether letters of the group may match.
func (f *filter) group(g *group) bool { return passes(f.groups, g) }

// fits reports whether the letter is one of the query's.
func (f *filter) fits(l *letter) bool { return f.group(l.group) && passes(f.others, l) }
