package desk

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/duration"
	"github.com/certpost/certpost/internal/legible"
)

// Condition is one filter of a list, the same on pages, in commands and in the NATS service:
// its key in addresses and requests, its flag, its form field, its help and its values.
type Condition struct {
	Key     string   // "expires_before"
	Aliases []string // other accepted keys
	Label   string   // shown before the value; "" shows only the value
	Field   string   // the label of its form field; "": no field
	Help    string   // the help of its flag
	Hint    string   // a placeholder for the value: DNSNAME, 24h
	Kind    Kind
	Values  []string // the valid values; nil: any
}

// Flag returns the name of the condition's flag.
func (c *Condition) Flag() string {
	if c.Key == "q" {
		return "text"
	}
	return strings.ReplaceAll(c.Key, "_", "-")
}

// Kind is the type of a condition's value.
type Kind string

// The kinds.
const (
	Search Kind = "search" // free text
	Word   Kind = "word"   // an exact id or name
	Choice Kind = "choice" // one of Values
	YesNo  Kind = "yes-no"
	Moment Kind = "moment" // a date or time; UTC unless it has a zone
	Span   Kind = "span"   // a Go duration
	Number Kind = "number"
)

// condition is a Condition of queries of type Q, which select entries of type T.
type condition[Q, T any] struct {
	Condition
	get func(*Q) string // "": not set
	set func(*Q, string) error
	// text points to the value of a condition that is a string; nil for other kinds.
	text func(*Q) *string
	// match returns the test for an entry; nil for a condition that does not filter.
	match func(*Q) func(T) bool
	// group replaces match if the result is the same for all letters of a group.
	group func(*Q) func(*group) bool
}

// Conditions is the table of a list's conditions. Addresses, flags, requests, forms, help,
// and the errors for invalid values are made from it.
type Conditions[Q, T any] []condition[Q, T]

// All returns the conditions, in the order in which they are shown.
func (cs Conditions[Q, T]) All() []Condition {
	all := make([]Condition, len(cs))
	for i, c := range cs {
		all[i] = c.Condition
	}
	return all
}

// find returns the condition with a key.
func (cs Conditions[Q, T]) find(key string) (condition[Q, T], bool) {
	i := slices.IndexFunc(cs, func(c condition[Q, T]) bool { return c.Key == key || slices.Contains(c.Aliases, key) })
	if i < 0 {
		return condition[Q, T]{}, false
	}
	return cs[i], true
}

// Parse reads the query of an address; own are the keys of the page itself, and any other
// that is not a condition is an error. Fields of a form that were left empty are not set.
// The error is an *Invalid that names all invalid values; the valid ones are in the query
// nevertheless.
func (cs Conditions[Q, T]) Parse(v url.Values, own ...string) (q Q, err error) {
	var problems []string
	given := map[string]bool{}
	for key, all := range v {
		if slices.Contains(own, key) {
			continue
		}
		c, ok := cs.find(key)
		if !ok {
			return q, cs.unknown(key, own...)
		}
		for _, value := range all {
			value = strings.TrimSpace(value)
			c := c
			if c.Kind == Span { // since a time is from it on
				if from, ok := cs.find("from"); ok && from.Kind == Moment && isMoment(value) {
					c = from
				}
			}
			switch {
			case value == "" || value == "any" && c.Values != nil:
				continue
			case given[c.Key]:
				problems = append(problems, c.Key+": is given twice")
			case len(value) > maxValue:
				problems = append(problems, fmt.Sprintf("%s: want at most %d bytes", c.Key, maxValue))
			default:
				if err := c.set(&q, value); err != nil {
					problems = append(problems, fmt.Sprintf("%s: %v", c.Key, err))
				}
			}
			given[c.Key] = true
		}
	}
	if problems == nil {
		return q, nil
	}
	slices.Sort(problems)
	return q, invalid("invalid filter: %s", strings.Join(problems, "; "))
}

// ParseFilter reads the filter of a request or the flags of a command. A condition without a
// value is an error, because an action without a filter that was meant would match more. own
// are the keys of the request itself, which a mistyped one may have meant.
func (cs Conditions[Q, T]) ParseFilter(filter map[string]string, own ...string) (q Q, err error) {
	v := url.Values{}
	for key, value := range filter {
		c, ok := cs.find(key)
		switch {
		case !ok:
			return q, cs.unknown(key, own...)
		case strings.TrimSpace(value) == "":
			return q, invalid("invalid filter: %s: has no value: give one, or leave the filter out", c.Key)
		}
		v.Add(key, value)
	}
	return cs.Parse(v)
}

// SelectsAll reports whether no condition of a query is set that leaves anything out.
func (cs Conditions[Q, T]) SelectsAll(q Q) bool {
	for _, c := range cs {
		if c.Key != "order" && c.get(&q) != "" {
			return false
		}
	}
	return true
}

// stored reads what Filter has written at another time, maybe by another version. A word
// that is none of a condition's values now is kept: it still says what was chosen then.
func (cs Conditions[Q, T]) stored(filter map[string]string) (q Q, err error) {
	for key, value := range filter {
		c, ok := cs.find(key)
		switch {
		case !ok:
			return q, cs.unknown(key)
		case c.text != nil:
			*c.text(&q) = value
		default:
			if err := c.set(&q, value); err != nil {
				return q, err
			}
		}
	}
	return q, nil
}

// unknown is the refusal of a key that is no condition.
func (cs Conditions[Q, T]) unknown(key string, own ...string) error {
	if known := slices.Concat(cs.keys(), own); legible.Nearest(key, known...) != "" {
		return invalid("invalid filter: unknown key %q%s", legible.Clean(key, 60), legible.Meant(key, known))
	}
	return invalid("invalid filter: unknown key %q%s", legible.Clean(key, 60), legible.Meant(key, cs.keys()))
}

func (cs Conditions[Q, T]) keys() (keys []string) {
	for _, c := range cs {
		keys = append(keys, c.Key)
	}
	return keys
}

// Values returns a query in the form of an address; Parse reads it.
func (cs Conditions[Q, T]) Values(q Q) url.Values {
	v := url.Values{}
	for _, c := range cs {
		if value := c.get(&q); value != "" {
			v.Set(c.Key, value)
		}
	}
	return v
}

// Filter returns a query in the form of a request; ParseFilter reads it.
func (cs Conditions[Q, T]) Filter(q Q) map[string]string {
	filter := map[string]string{}
	for key, values := range cs.Values(q) {
		filter[key] = values[0]
	}
	return filter
}

// Flags returns a query as flags of the commands, sorted.
func (cs Conditions[Q, T]) Flags(q Q) (flags []string) {
	for _, c := range cs {
		if value := c.get(&q); value != "" {
			flags = append(flags, "--"+c.Flag()+"="+value)
		}
	}
	slices.Sort(flags)
	return flags
}

// Chip is one condition of a query, as pages show it.
type Chip struct {
	Label   string // "code SMTP_AUTH"
	Without string // the query string without this condition, without the ?
}

// Chips returns the conditions that are set, except the order.
func (cs Conditions[Q, T]) Chips(q Q) (chips []Chip) {
	for _, c := range cs {
		value := c.get(&q)
		if value == "" || c.Key == "order" {
			continue
		}
		rest := cs.Values(q)
		rest.Del(c.Key)
		label := strings.TrimSpace(c.Label + " " + value)
		if c.Kind == YesNo {
			label = map[string]string{"yes": c.Label, "no": "not " + c.Label}[value]
		}
		chips = append(chips, Chip{label, rest.Encode()})
	}
	return chips
}

// tests returns the tests of the conditions that are set. An entry matches if it passes all.
func (cs Conditions[Q, T]) tests(q *Q) (tests []func(T) bool) {
	for _, c := range cs {
		if c.match != nil && c.get(q) != "" {
			tests = append(tests, c.match(q))
		}
	}
	return tests
}

// passes reports whether an entry passes all tests.
func passes[T any](tests []func(T) bool, thing T) bool {
	for _, test := range tests {
		if !test(thing) {
			return false
		}
	}
	return true
}

// maxValue is the length of the longest value of a condition, in bytes.
const maxValue = 400

// text returns a condition with a string value: any, or one of Values if they are set.
func text[Q, T any](c Condition, of func(*Q) *string, match func(*Q) func(T) bool) condition[Q, T] {
	c.Kind = cmp.Or(c.Kind, Word)
	if c.Values != nil {
		c.Kind = Choice
	}
	return condition[Q, T]{Condition: c, match: match, text: of, get: func(q *Q) string { return *of(q) }, set: func(q *Q, v string) error {
		if c.Values != nil {
			i := slices.IndexFunc(c.Values, func(known string) bool { return strings.EqualFold(known, v) })
			if i < 0 {
				return fmt.Errorf("unknown value %q%s", legible.Clean(v, 60), legible.Meant(v, c.Values))
			}
			v = c.Values[i]
		}
		*of(q) = v
		return nil
	}}
}

// hexadecimal returns a condition with a hexadecimal number, in the forms that certificate
// viewers print.
func hexadecimal[Q, T any](c Condition, of func(*Q) *string, match func(*Q) func(T) bool) condition[Q, T] {
	made := text(c, of, match)
	made.set = func(q *Q, v string) error {
		digits := hexDigits(v)
		if len(digits)%2 != 0 {
			digits = "0" + digits
		}
		if _, err := hex.DecodeString(digits); err != nil || digits == "" {
			return fmt.Errorf("%q is not hexadecimal: want digits such as 03:AA:11 or 03aa11", legible.Clean(v, 60))
		}
		*of(q) = v
		return nil
	}
	return made
}

// yesNo returns a condition that is yes, no or not set.
func yesNo[Q, T any](c Condition, of func(*Q) **bool, is func(T) bool) condition[Q, T] {
	c.Kind = YesNo
	get := func(q *Q) string {
		switch b := *of(q); {
		case b == nil:
			return ""
		case *b:
			return "yes"
		}
		return "no"
	}
	return condition[Q, T]{Condition: c, get: get, set: func(q *Q, v string) error {
		v = strings.ToLower(v)
		b := v == "yes" || v == "true"
		if !b && v != "no" && v != "false" {
			return fmt.Errorf("want yes or no, not %q", legible.Clean(v, 60))
		}
		*of(q) = &b
		return nil
	}, match: func(q *Q) func(T) bool {
		want := **of(q)
		return func(thing T) bool { return is(thing) == want }
	}}
}

// number returns a condition with a number above 0; 0 is not set.
func number[Q, T any](c Condition, of func(*Q) *uint64, match func(*Q) func(T) bool) condition[Q, T] {
	c.Kind = Number
	return condition[Q, T]{Condition: c, match: match, get: func(q *Q) string {
		if *of(q) == 0 {
			return ""
		}
		return strconv.FormatUint(*of(q), 10)
	}, set: func(q *Q, v string) error {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil || n == 0 {
			return fmt.Errorf("want the number of a dead letter, not %q", legible.Clean(v, 60))
		}
		*of(q) = n
		return nil
	}}
}

// moment returns a condition with a time.
func moment[Q, T any](c Condition, of func(*Q) *time.Time, match func(time.Time) func(T) bool) condition[Q, T] {
	c.Kind, c.Hint = Moment, cmp.Or(c.Hint, "TIME")
	return condition[Q, T]{Condition: c, get: func(q *Q) string {
		if of(q).IsZero() {
			return ""
		}
		return of(q).UTC().Format(time.RFC3339Nano)
	}, set: func(q *Q, v string) (err error) {
		*of(q), err = parseMoment(v)
		return err
	}, match: func(q *Q) func(T) bool { return match(*of(q)) }}
}

// span returns a condition with a duration before now. Where the list has a condition "from", a
// time is that instead, see Parse.
func span[Q, T any](c Condition, of func(*Q) *time.Duration, match func(since time.Time) func(T) bool) condition[Q, T] {
	c.Kind, c.Hint = Span, "24h"
	return condition[Q, T]{Condition: c, get: func(q *Q) string {
		if *of(q) == 0 {
			return ""
		}
		return of(q).String()
	}, set: func(q *Q, v string) error {
		d, err := duration.Parse(v)
		if err != nil || d <= 0 {
			return wrongSince(v)
		}
		*of(q) = d
		return nil
	}, match: func(q *Q) func(T) bool { return match(time.Now().Add(-*of(q))) }}
}

// wrongSince is the error of a value that is neither a duration nor a time.
func wrongSince(v string) error {
	return fmt.Errorf("want a duration such as 30m, 24h or 7d, or a date or time such as 2026-01-31 or 2026-01-31T15:04:05Z, not %q", legible.Clean(v, 60))
}

// ParseSince reads the begin of a period: a duration before now, or a time.
func ParseSince(v string, now time.Time) (time.Time, error) {
	if t, err := parseMoment(v); err == nil {
		return t, nil
	}
	d, err := duration.Parse(v)
	if err != nil || d <= 0 {
		return time.Time{}, &Invalid{Text: "since: " + wrongSince(v).Error()}
	}
	return now.Add(-d), nil
}

func isMoment(v string) bool {
	_, err := parseMoment(v)
	return err == nil
}

// moments are the accepted forms of a time, UTC unless it has a zone. The second to fourth
// are what a browser's fields for date and time send.
var moments = []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02"}

// Times outside these years do not fit the nanoseconds in which the index compares them.
const firstYear, lastYear = 1700, 2200

func parseMoment(v string) (time.Time, error) {
	for _, form := range moments {
		if t, err := time.Parse(form, v); err == nil {
			if year := t.UTC().Year(); year < firstYear || year > lastYear {
				return time.Time{}, fmt.Errorf("want a time between the years %d and %d, not %q", firstYear, lastYear, legible.Clean(v, 60))
			}
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("want a date (2026-01-31) or a time (2026-01-31T15:04:05Z), not %q", legible.Clean(v, 60))
}

// values converts a list to strings.
func values[V ~string](all []V) []string {
	out := make([]string, len(all))
	for i, v := range all {
		out[i] = string(v)
	}
	return out
}
