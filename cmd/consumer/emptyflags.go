package main

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"
)

// emptyError says that a flag or an argument was given without a value.
type emptyError struct{ what, command string }

func (e *emptyError) Error() string { return e.what }

// emptyValue returns an *emptyError if a flag or an argument is given without a value: that is
// a mistake, such as a variable that is not set, and shall not count as not given. It returns
// nil for a command line that is wrong otherwise.
func emptyValue(parser *kong.Kong, args []string) error {
	k, err := kong.Trace(parser, args)
	if err != nil || k.Error != nil || k.Selected() == nil {
		return nil
	}
	for _, p := range k.Path {
		switch {
		case p.Flag != nil && isEmpty(k, p):
			return &emptyError{fmt.Sprintf("--%s is empty: give a value, or leave the flag out", p.Flag.Name), k.Selected().FullPath()}
		// A list of arguments is passed on, as the words of an ACME client's hook are.
		case p.Positional != nil && p.Positional.Target.Kind() == reflect.String && isEmpty(k, p):
			return &emptyError{p.Positional.Summary() + " is empty", k.Selected().FullPath()}
		}
	}
	return nil
}

// isEmpty reports whether the last word that was read for a flag or an argument has no
// value. The parsed value does not show it: kong leaves empty elements of lists out.
func isEmpty(k *kong.Context, p *kong.Path) bool {
	i := len(k.Args) - len(p.Remainder()) - 1
	if i < 0 || i >= len(k.Args) {
		return false
	}
	word := k.Args[i]
	if name, value, ok := strings.Cut(word, "="); ok && p.Flag != nil && strings.HasPrefix(name, "-") {
		word = value
	}
	return strings.TrimSpace(word) == ""
}
