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
		if c.Hint != "" && !strings.Contains(c.Hint, ",") {
			fmt.Fprintf(&tag, " placeholder:%s", strconv.Quote(strings.Fields(c.Hint)[0]))
		}
		if other := without(aliases, c.Flag()); len(other) > 0 {
			fmt.Fprintf(&tag, " aliases:%s", strconv.Quote(strings.Join(other, ",")))
		}
		fields = append(fields, reflect.StructField{Name: "Flag" + strconv.Itoa(i), Type: reflect.TypeFor[string](), Tag: reflect.StructTag(tag.String())})
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

// values returns the given conditions, by key.
func (f *filterFlags) values() map[string]string {
	all := map[string]string{}
	if len(f.Flags) == 0 {
		return all
	}
	flags := reflect.ValueOf(f.Flags[0]).Elem()
	for i, key := range f.keys {
		if value := flags.Field(i).String(); value != "" {
			all[key] = value
		}
	}
	return all
}
