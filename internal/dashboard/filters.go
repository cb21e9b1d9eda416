package dashboard

import (
	"net/url"
	"time"

	"github.com/certpost/certpost/internal/desk"
)

// formField is one field of a filter form; a condition without a Field is a hidden one.
type formField struct {
	desk.Condition
	Value   string   // in the format of the input
	Options []string // the choices, or suggestions
	Step    string   // of a time: "any" if it is not a whole minute; "" for the browser's default
}

// filterFields returns the fields of a list's form. A condition that is set and has no field
// is sent as a hidden one: otherwise the next search would drop it silently. options replace
// the values of conditions, by key.
func filterFields(all []desk.Condition, set url.Values, options map[string][]string) (fields []formField) {
	for _, c := range all {
		f := formField{Condition: c, Value: set.Get(c.Key), Options: c.Values}
		if c.Field == "" && (f.Value == "" || c.Key == "as_of" || c.Key == "above") {
			continue
		}
		if some, ok := options[c.Key]; ok {
			f.Options = some
			if f.Value != "" { // it stays selectable when nothing matches it any more
				f.Options = once(append(some, f.Value))
			}
		}
		if c.Kind == desk.Moment && c.Field != "" {
			if t, err := time.Parse(time.RFC3339, f.Value); err == nil {
				f.Value = fieldTime(t)
				if t.Truncate(time.Minute) != t {
					f.Value, f.Step = t.UTC().Format("2006-01-02T15:04:05.999"), "any"
				}
			}
		}
		fields = append(fields, f)
	}
	return fields
}
