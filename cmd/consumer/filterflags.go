package main

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/certpost/certpost/internal/desk"
)

// filterFlags are the flags of a list's conditions.
type filterFlags struct {
	Flags kong.Plugins `embed:""`
	keys  []string     // of the conditions, by field
}

// newFilterFlags makes a flag for each condition: --code=SMTP_AUTH.
func newFilterFlags(conditions []desk.Condition) filterFlags {
	var f filterFlags
	var fields []reflect.StructField
	for i, c := range conditions {
		aliases := slices.Concat([]string{c.Key}, c.Aliases, []string{strings.ReplaceAll(c.Key, "_", "-")})
		var tag strings.Builder
		fmt.Fprintf(&tag, "name:%s help:%s", strconv.Quote(c.Flag()), strconv.Quote(c.Help))
		hint := strings.ToUpper(c.Flag())
		if c.Hint != "" && !strings.Contains(c.Hint, ",") {
			hint = strings.Fields(c.Hint)[0]
		}
		fmt.Fprintf(&tag, " sep:\"none\" placeholder:%s", strconv.Quote(hint))
		aliases = slices.DeleteFunc(aliases, func(alias string) bool { return len(alias) == 1 }) // -q has a meaning of its own
		if other := without(aliases, c.Flag()); len(other) > 0 {
			fmt.Fprintf(&tag, " aliases:%s", strconv.Quote(strings.Join(other, ",")))
		}
		// A list, so that a flag that is given twice or without a value is noticed.
		fields = append(fields, reflect.StructField{Name: "Flag" + strconv.Itoa(i), Type: reflect.TypeFor[[]string](), Tag: reflect.StructTag(tag.String())})
		f.keys = append(f.keys, c.Key)
	}
	f.Flags = kong.Plugins{reflect.New(reflect.StructOf(fields)).Interface()}
	return f
}

// without returns the words other than one, without duplicates.
func without(words []string, one string) (rest []string) {
	seen := map[string]bool{one: true}
	for _, w := range words {
		if !seen[w] {
			seen[w] = true
			rest = append(rest, w)
		}
	}
	return rest
}

// parseFlags reads the query that the flags state.
func parseFlags[Q, T any](conditions desk.Conditions[Q, T], f *filterFlags) (q Q, err error) {
	if len(f.Flags) > 0 {
		flags := reflect.ValueOf(f.Flags[0]).Elem()
		for i, key := range f.keys {
			if flags.Field(i).Len() > 1 {
				return q, &desk.Invalid{Text: "invalid filter: " + key + ": is given twice"}
			}
		}
	}
	return conditions.ParseFilter(f.values())
}

// values returns the given conditions, by key.
func (f *filterFlags) values() map[string]string {
	all := map[string]string{}
	if len(f.Flags) == 0 {
		return all
	}
	flags := reflect.ValueOf(f.Flags[0]).Elem()
	for i, key := range f.keys {
		if given := flags.Field(i); given.Len() > 0 {
			all[key] = given.Index(given.Len() - 1).String()
		}
	}
	return all
}
