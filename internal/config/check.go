package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Check compares a struct with its tags (required, enum, later, min, max), including
// nested structs, pointers, lists and mappings. The paths of the problems begin with
// path.
func Check(v any, path string) []Problem {
	return check(nil, reflect.ValueOf(v), path)
}

func check(found []Problem, v reflect.Value, path string) []Problem {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			found = check(found, v.Elem(), path)
		}
	case reflect.Slice:
		for i := range v.Len() {
			found = check(found, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			found = check(found, v.MapIndex(key), Join(path, key.String()))
		}
	case reflect.Struct:
		for _, s := range Settings(v.Type()) {
			field, at := v.FieldByIndex(s.Index), Join(path, s.Name)
			if field.Kind() == reflect.Pointer && !field.IsNil() && field.Elem().Kind() != reflect.Struct {
				field = field.Elem() // an optional scalar
			}
			if p := complaint(field, s.Field.Tag); p.Message != "" {
				p.Path = at
				found = append(found, p)
				continue
			}
			found = check(found, field, at)
		}
	}
	return found
}

// complaint returns the problem of a single setting, with an empty message if there is
// none.
func complaint(v reflect.Value, tag reflect.StructTag) Problem {
	if tag.Get("required") == "true" && (v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0) {
		return Problem{Message: "is required"}
	}
	if v.Kind() == reflect.Pointer {
		return Problem{} // not set
	}
	if words := tag.Get("enum"); words != "" && fmt.Sprint(v) != "" {
		return wrongWord(fmt.Sprint(v), strings.Split(words, ","), strings.Split(tag.Get("later"), ","))
	}
	return outOfBounds(v, tag.Get("min"), tag.Get("max"))
}

func wrongWord(got string, words, later []string) Problem {
	switch {
	case slices.Contains(words, got):
		return Problem{}
	case slices.Contains(later, got):
		return Problem{Message: fmt.Sprintf("%s is not available in this version: want %s", got, either(words))}
	}
	return Problem{Message: "want " + either(words), Got: shown(got)}
}

func outOfBounds(v reflect.Value, low, high string) Problem {
	switch {
	case (low == "" || compare(v, low) >= 0) && (high == "" || compare(v, high) <= 0):
		return Problem{}
	case high == "":
		return Problem{Message: "want at least " + low, Got: fmt.Sprint(v)}
	case low == "":
		return Problem{Message: "want at most " + high, Got: fmt.Sprint(v)}
	}
	return Problem{Message: "want " + low + " to " + high, Got: fmt.Sprint(v)}
}

// compare compares a number or duration with a bound from a tag, as cmp.Compare does.
// It panics on a bound that does not parse: that is a mistake in the source, which the
// tests find.
func compare(v reflect.Value, bound string) int {
	switch {
	case v.Type() == durationType:
		d, err := time.ParseDuration(bound)
		must(err)
		return cmp.Compare(v.Int(), int64(d))
	case v.CanInt():
		n, err := strconv.ParseInt(bound, 10, 64)
		must(err)
		return cmp.Compare(v.Int(), n)
	}
	f, err := strconv.ParseFloat(bound, 64)
	must(err)
	return cmp.Compare(v.Float(), f)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// either joins words as "a, b or c".
func either(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// quote returns a part of the configuration in quotes, on one line, cut to 60
// characters.
func quote(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "..."
	}
	return strconv.QuoteToGraphic(s)
}
