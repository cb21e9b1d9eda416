package desk

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// Chip is one condition of a query, for showing.
type Chip struct {
	Label   string // "code SMTP_AUTH"
	Without string // the address query that is left without it, not beginning with ?
}

// maxValue bounds one condition, in bytes: longer is nobody's question.
const maxValue = 400

// A condition is one key of an address query. get gives "" where the condition is
// not set, and set is never given "".
type condition struct {
	key, label string
	get        func(*Query) string
	set        func(*Query, string) error
}

// conditions are all there is, in the order in which they are shown.
var conditions = []condition{
	text("group", "group", func(q *Query) *string { return &q.Fingerprint }),
	text("code", "code", func(q *Query) *string { return (*string)(&q.Code) }),
	text("class", "class", func(q *Query) *string { return (*string)(&q.Class) }),
	text("phase", "phase", func(q *Query) *string { return (*string)(&q.Phase) }),
	text("lane", "relay", func(q *Query) *string { return &q.Lane }),
	text("target", "target", func(q *Query) *string { return &q.Target }),
	text("event", "event", func(q *Query) *string { return &q.Event }),
	text("certainty", "", func(q *Query) *string { return (*string)(&q.Certainty) },
		string(verdict.NotSent), string(verdict.MaybeSent), string(verdict.Accepted)),
	text("name", "name", func(q *Query) *string { return &q.Name }),
	text("q", "text", func(q *Query) *string { return &q.Text }),
	flag("held", func(q *Query) **bool { return &q.Held }),
	flag("superseded", func(q *Query) **bool { return &q.Superseded }),
	moment("from", "from", func(q *Query) *time.Time { return &q.From }),
	moment("to", "before", func(q *Query) *time.Time { return &q.To }),
	numbered("above", "above number", func(q *Query) *uint64 { return &q.Above }),
	numbered("as_of", "up to number", func(q *Query) *uint64 { return &q.AsOf }),
	text("order", "order", func(q *Query) *string { return (*string)(&q.Order) }, string(Newest), string(Oldest), string(Expiry)),
}

// text is a condition that is a string, one of those allowed if there are any.
func text(key, label string, of func(*Query) *string, allowed ...string) condition {
	return condition{key, label, func(q *Query) string { return *of(q) }, func(q *Query, v string) error {
		if len(v) > maxValue {
			return fmt.Errorf("want at most %d bytes", maxValue)
		}
		if len(allowed) > 0 && !slices.Contains(allowed, v) {
			return fmt.Errorf("want one of %s", strings.Join(allowed, ", "))
		}
		*of(q) = v
		return nil
	}}
}

// flag is a condition that is yes, no or not set.
func flag(key string, of func(*Query) **bool) condition {
	return condition{key, key, func(q *Query) string {
		switch b := *of(q); {
		case b == nil:
			return ""
		case *b:
			return "yes"
		}
		return "no"
	}, func(q *Query, v string) error {
		b := v == "yes" || v == "true"
		if !b && v != "no" && v != "false" {
			return errors.New("want yes or no")
		}
		*of(q) = &b
		return nil
	}}
}

// numbered is a condition that is the number of a letter, 0 for none.
func numbered(key, label string, of func(*Query) *uint64) condition {
	return condition{key, label, func(q *Query) string {
		if *of(q) == 0 {
			return ""
		}
		return strconv.FormatUint(*of(q), 10)
	}, func(q *Query, v string) (err error) {
		if *of(q), err = strconv.ParseUint(v, 10, 64); err != nil {
			return errors.New("want the number of a dead letter")
		}
		return nil
	}}
}

// moments are the forms in which a time may be given, UTC where none is said: the
// second and third are what a browser's fields for date and time send.
var moments = []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02"}

func moment(key, label string, of func(*Query) *time.Time) condition {
	return condition{key, label, func(q *Query) string {
		if of(q).IsZero() {
			return ""
		}
		return of(q).UTC().Format(time.RFC3339)
	}, func(q *Query, v string) error {
		t, err := parseMoment(v)
		*of(q) = t
		return err
	}}
}

func parseMoment(v string) (time.Time, error) {
	for _, form := range moments {
		if t, err := time.Parse(form, v); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errors.New("want a date (2026-01-31), or a time (2026-01-31T15:04:05Z)")
}

// ParseQuery reads the query of an address. Keys that are not a query's are left
// to the page. The error names all values that cannot be read; what can be is in
// the Query all the same.
func ParseQuery(v url.Values) (Query, error) {
	var q Query
	var problems []error
	for _, c := range conditions {
		value := strings.TrimSpace(v.Get(c.key))
		if value == "" {
			continue
		}
		if err := c.set(&q, value); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", c.key, err))
		}
	}
	return q, errors.Join(problems...)
}

// IsCondition reports whether ParseQuery heeds a key.
func IsCondition(key string) bool {
	return slices.ContainsFunc(conditions, func(c condition) bool { return c.key == key })
}

// Values is the query as an address has it; ParseQuery reads it back.
func (q Query) Values() url.Values {
	v := url.Values{}
	for _, c := range conditions {
		if value := c.get(&q); value != "" {
			v.Set(c.key, value)
		}
	}
	return v
}

// Chips are the conditions that are set, the order aside.
func (q Query) Chips() []Chip {
	var chips []Chip
	for _, c := range conditions {
		value := c.get(&q)
		if value == "" || c.key == "order" {
			continue
		}
		rest := q.Values()
		rest.Del(c.key)
		label := strings.TrimSpace(c.label + " " + value)
		if c.key == "held" || c.key == "superseded" {
			label = strings.TrimPrefix(map[string]string{"yes": "", "no": "not "}[value]+c.label, " ")
		}
		chips = append(chips, Chip{label, rest.Encode()})
	}
	return chips
}

// wholeGroups reports whether the query chooses groups as they are: then their
// counts are known without looking at letters.
func (q *Query) wholeGroups() bool {
	rest := *q
	rest.Fingerprint, rest.Code, rest.Class, rest.Phase, rest.Lane, rest.Order = "", "", "", "", "", ""
	rest.AsOf = 0 // looked at where it matters
	return rest == Query{}
}

// group reports whether letters of the group may fit.
func (q *Query) group(g *group) bool {
	return (q.Fingerprint == "" || q.Fingerprint == g.fingerprint) &&
		(q.Code == "" || q.Code == g.code) &&
		(q.Class == "" || q.Class == g.code.Class()) &&
		(q.Phase == "" || q.Phase == g.phase) &&
		(q.Lane == "" || q.Lane == g.lane)
}

// filter is a query made ready for many letters.
type filter struct {
	*Query
	name     string
	from, to int64 // Unix nanoseconds, 0: no bound
	text     *needle
}

func (q *Query) ready() *filter {
	f := &filter{Query: q, name: strings.ToLower(q.Name)}
	if !q.From.IsZero() {
		f.from = q.From.UnixNano()
	}
	if !q.To.IsZero() {
		f.to = q.To.UnixNano()
	}
	if q.Text != "" {
		f.text = newNeedle(q.Text)
	}
	return f
}

// fits reports whether the letter is one of the query's.
func (f *filter) fits(l *letter) bool {
	switch {
	case f.AsOf != 0 && l.number > f.AsOf,
		l.number <= f.Above,
		!f.group(l.group),
		f.Target != "" && f.Target != l.target.Value(),
		f.Event != "" && f.Event != l.event,
		f.Certainty != "" && f.Certainty != verdict.Certainty(l.certainty.Value()),
		f.Held != nil && *f.Held != (l.hold != nil),
		f.Superseded != nil && *f.Superseded != (l.superseded != nil),
		f.from != 0 && l.at < f.from,
		f.to != 0 && l.at >= f.to,
		f.name != "" && !l.named(f.name),
		f.text != nil && !f.text.in(l):
		return false
	}
	return true
}
