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
	text[Query, *letter](Condition{Key: "state", Label: "", Field: "State", Help: "Open letters (the default), or discarded ones.", Values: values([]Status{Open, Discarded})},
		func(q *Query) *string { return (*string)(&q.State) }, nil),
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
	text(Condition{Key: "certainty", Field: "Sent?", Help: "Only letters with this certainty: not-sent, may-have-been-sent or accepted.", Values: values(verdict.Certainties())},
		func(q *Query) *string { return (*string)(&q.Certainty) }, letterIs(func(q *Query) string { return string(q.Certainty) }, func(l *letter) string { return l.certainty.Value() })),
	text(Condition{Key: "name", Label: "name", Field: "Name", Help: "Only certificates with this name, or *.suffix.", Hint: "DNSNAME"},
		func(q *Query) *string { return &q.Name }, func(q *Query) func(*letter) bool {
			name := strings.ToLower(q.Name)
			return func(l *letter) bool { return l.named(name) }
		}),
	text(Condition{Key: "q", Label: "text", Field: "Search", Kind: Search, Help: "Only letters with this text in a field.", Hint: "id, name, reason, reply"},
		func(q *Query) *string { return &q.Text }, func(q *Query) func(*letter) bool { return newNeedle(q.Text).in }),
	yesNo(Condition{Key: "held", Label: "held", Help: "Only letters that are held (yes) or not held (no)."},
		func(q *Query) **bool { return &q.Held }, func(l *letter) bool { return l.hold != nil }),
	yesNo(Condition{Key: "superseded", Label: "superseded", Help: "Only letters whose target has a newer certificate (yes) or has none (no)."},
		func(q *Query) **bool { return &q.Superseded }, func(l *letter) bool { return l.superseded != nil }),
	span(Condition{Key: "since", Label: "since", Field: "Since", Help: "Only letters of the last 24h, another duration such as 7d, or since a time."},
		func(q *Query) *time.Duration { return &q.Since }, letterFrom),
	moment(Condition{Key: "from", Label: "from", Help: "Only letters from this time on (2026-01-31, 2026-01-31T15:04:05Z)."},
		func(q *Query) *time.Time { return &q.From }, letterFrom),
	moment(Condition{Key: "to", Label: "before", Help: "Only letters before this time."},
		func(q *Query) *time.Time { return &q.To }, func(t time.Time) func(*letter) bool { return func(l *letter) bool { return l.at < t.UnixNano() } }),
	moment(Condition{Key: "expires_before", Label: "expires before", Field: "Expires before (UTC)", Help: "Only certificates that expire before this time."},
		func(q *Query) *time.Time { return &q.ExpiresBefore }, func(t time.Time) func(*letter) bool { return func(l *letter) bool { return l.notAfter < t.Unix() } }),
	number(Condition{Key: "above", Label: "above number", Help: "Only letters with a higher number.", Hint: "NUMBER"},
		func(q *Query) *uint64 { return &q.Above }, func(q *Query) func(*letter) bool { return func(l *letter) bool { return l.number > q.Above } }),
	number(Condition{Key: "as_of", Label: "up to number", Help: "Only letters with this number or a lower one.", Hint: "NUMBER"},
		func(q *Query) *uint64 { return &q.AsOf }, func(q *Query) func(*letter) bool { return func(l *letter) bool { return l.number <= q.AsOf } }),
	text(Condition{Key: "act", Label: "discarded by act", Help: "Only letters that one act on many has discarded (with --state=discarded; see certpost audit list).", Hint: "ID"},
		func(q *Query) *string { return &q.Act }, letterIs(func(q *Query) string { return q.Act }, func(l *letter) string { return l.act() })),
	text[Query, *letter](Condition{Key: "order", Label: "order", Help: "Order: oldest (default), newest, or expiry (of the certificate).", Values: values([]Order{Newest, Oldest, Expiry})},
		func(q *Query) *string { return (*string)(&q.Order) }, nil),
}

// ofGroup returns a condition whose result is the same for all letters of a group.
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

// Values returns the query in the form of an address.
func (q Query) Values() url.Values { return LetterConditions.Values(q) }

// Chips returns the conditions that are set, except the order.
func (q Query) Chips() []Chip { return LetterConditions.Chips(q) }

// MarshalJSON writes the query as a filter: {"code": "SMTP_AUTH"}.
func (q Query) MarshalJSON() ([]byte, error) { return json.Marshal(LetterConditions.Filter(q)) }

// UnmarshalJSON reads what MarshalJSON writes, and what earlier versions stored for a replay
// run: the fields with their Go names.
func (q *Query) UnmarshalJSON(text []byte) (err error) {
	var filter map[string]string
	if json.Unmarshal(text, &filter) == nil {
		*q, err = LetterConditions.stored(filter)
		return err
	}
	type stored Query
	return json.Unmarshal(text, (*stored)(q))
}

// fixed returns the query with Since replaced by From, so that it selects the same letters
// later.
func (q Query) fixed(now time.Time) Query {
	if q.Since != 0 {
		if from := now.Add(-q.Since).UTC(); from.After(q.From) {
			q.From = from
		}
		q.Since = 0
	}
	return q
}

// wholeGroups reports whether the query selects only whole groups, whose counts are known
// without a look at their letters.
func (q *Query) wholeGroups() bool {
	for _, c := range LetterConditions {
		whole := c.group != nil || c.Key == "order" || c.Key == "state" || c.Key == "as_of" // callers apply as_of
		if !whole && c.get(q) != "" {
			return false
		}
	}
	return true
}

// filter is a query prepared for many letters.
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

// fits reports whether the letter matches.
func (f *filter) fits(l *letter) bool { return f.group(l.group) && passes(f.others, l) }
