package dashboard

import (
	"net/url"
	"slices"
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

// formFields are the fields of a list's filter. Those behind the first are folded until one
// of them is used.
type formFields []formField

// fewFields is how many fields are shown without folding.
const fewFields = 4

// Hidden are the conditions that are set and have no field.
func (f formFields) Hidden() formFields { hidden, _ := f.divide(); return hidden }

// Shown are the fields that are always shown: the search, otherwise the first one, or all if
// they are few.
func (f formFields) Shown() formFields {
	_, fields := f.divide()
	return fields[:fields.always()]
}

// Folded are the other fields.
func (f formFields) Folded() formFields {
	_, fields := f.divide()
	return fields[fields.always():]
}

// Used reports whether one of the fields has a value.
func (f formFields) Used() bool {
	return slices.ContainsFunc(f, func(one formField) bool { return one.Value != "" })
}

// divide separates the hidden fields from the others, and puts the search first.
func (f formFields) divide() (hidden, fields formFields) {
	for _, one := range f {
		switch {
		case one.Field == "":
			hidden = append(hidden, one)
		case one.Kind == desk.Search:
			fields = slices.Insert(fields, 0, one)
		default:
			fields = append(fields, one)
		}
	}
	return hidden, fields
}

func (f formFields) always() int {
	if len(f) <= fewFields {
		return len(f)
	}
	return 1
}

// filterFields returns the fields of a list's form. A condition that is set and has no field
// is sent as a hidden one: otherwise the next search would drop it silently. options replace
// the values of conditions, by key.
func filterFields(all []desk.Condition, set url.Values, options map[string][]string) (fields formFields) {
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
