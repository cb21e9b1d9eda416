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

// Check compares a struct with its tags (required, enum, later, min, max) and
// goes into nested structs, pointers, lists and mappings. The paths of the
// problems begin with path.
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
			if message := complaint(field, s.Field.Tag); message != "" {
				found = append(found, Problem{Path: at, Message: message})
				continue
			}
			found = check(found, field, at)
		}
	}
	return found
}

// complaint says what is wrong with a single setting, "" when nothing is.
func complaint(v reflect.Value, tag reflect.StructTag) string {
	if tag.Get("required") == "true" && (v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0) {
		return "is missing"
	}
	if words := tag.Get("enum"); words != "" && v.String() != "" {
		return wrongWord(v.String(), strings.Split(words, ","), strings.Split(tag.Get("later"), ","))
	}
	return outOfBounds(v, tag.Get("min"), tag.Get("max"))
}

func wrongWord(got string, words, later []string) string {
	switch {
	case slices.Contains(words, got):
		return ""
	case slices.Contains(later, got):
		return fmt.Sprintf("%s is not available in this version: want %s", got, either(words))
	}
	return fmt.Sprintf("want %s, got %s", either(words), quote(got))
}

func outOfBounds(v reflect.Value, low, high string) string {
	if low != "" && compare(v, low) < 0 || high != "" && compare(v, high) > 0 {
		switch {
		case high == "":
			return fmt.Sprintf("want at least %s, got %v", low, v)
		case low == "":
			return fmt.Sprintf("want at most %s, got %v", high, v)
		}
		return fmt.Sprintf("want %s to %s, got %v", low, high, v)
	}
	return ""
}

// compare is the order of a number or duration and a bound from a tag. A bound
// that does not parse is a mistake in the source, which the tests would meet.
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

// either is "a, b or c".
func either(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// quote shows a piece of the configuration on one line, cut when it is long.
func quote(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "..."
	}
	return strconv.QuoteToGraphic(s)
}
