package mailtext

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// functions are ours; some replace functions of text/template that have no limits. Of the
// others of text/template, only those in builtins may be called.
func functions(s *steps) map[string]any {
	return map[string]any{
		stepName: s.take,
		"date":   date,
		"join":   join,
		"lower":  func(v any) (string, error) { return limited(strings.ToLower(fmt.Sprint(v))) },
		"upper":  func(v any) (string, error) { return limited(strings.ToUpper(fmt.Sprint(v))) },
		"print":  limitedPrint,
		"printf": limitedFormat,
	}
}

// builtins are functions of text/template whose results are not longer than their arguments.
var builtins = map[string]any{
	"and": nil, "or": nil, "not": nil, "eq": nil, "ne": nil, "lt": nil, "le": nil, "gt": nil, "ge": nil,
	"len": nil, "index": nil, "slice": nil,
}

// functionNames are those that a template may call, sorted.
var functionNames = func() []string {
	all := maps.Clone(builtins)
	maps.Copy(all, functions(nil))
	delete(all, stepName)
	return slices.Sorted(maps.Keys(all))
}()

// date writes a moment in a layout of package time, such as 02.01.2006; "" for the zero
// moment.
func date(layout string, m Moment) (string, error) {
	if layout == otherTime.Format(layout) {
		return "", errors.New(`the layout has no part of a date: want 02 for the day, 01 for the month, 2006 for the year, such as "02.01.2006"`)
	}
	if m.at.IsZero() {
		return "", nil
	}
	return limited(m.at.UTC().Format(layout))
}

// otherTime is not written like its layout in any part.
var otherTime = time.Date(1998, 11, 27, 19, 38, 57, 123_456_789, time.FixedZone("X", 3600))

// join writes the entries of a list with a text between them.
func join(separator string, list any) (string, error) {
	v := reflect.ValueOf(list)
	if v.Kind() != reflect.Slice {
		return "", errors.New("join: want a text and a list, such as join \", \" .Names")
	}
	var parts []string
	size := 0
	for i := range v.Len() {
		part := fmt.Sprint(v.Index(i).Interface())
		if size += len(part) + len(separator); size > maxValue {
			return "", errTooLong
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, separator), nil
}

var (
	verb   = regexp.MustCompile(`%[^%a-zA-Z]*[%a-zA-Z]?`)
	number = regexp.MustCompile(`[0-9]+`)
)

// limitedFormat is fmt.Sprintf with limits on what it can make of short arguments.
func limitedFormat(format string, args ...any) (string, error) {
	verbs := verb.FindAllString(format, maxVerbs+1)
	if len(verbs) > maxVerbs {
		return "", fmt.Errorf("printf: has more than %d verbs", maxVerbs)
	}
	for _, v := range verbs {
		if strings.Contains(v, "*") {
			return "", errors.New("printf: a width cannot be *")
		}
		for _, digits := range number.FindAllString(v, -1) {
			if n, err := strconv.Atoi(digits); err != nil || n > maxWidth {
				return "", fmt.Errorf("printf: a width is over %d", maxWidth)
			}
		}
	}
	if len(format) > maxValue || textSize(args) > maxValue {
		return "", errTooLong
	}
	return limited(fmt.Sprintf(format, args...))
}

// limitedPrint is fmt.Sprint likewise.
func limitedPrint(args ...any) (string, error) {
	if textSize(args) > maxValue {
		return "", errTooLong
	}
	return limited(fmt.Sprint(args...))
}

// textSize is the size of the texts among values; the others are those of the model, which
// are small.
func textSize(args []any) (size int) {
	for _, arg := range args {
		if s, ok := arg.(string); ok {
			size += len(s)
		}
	}
	return size
}

func limited(s string) (string, error) {
	if len(s) > maxValue {
		return "", errTooLong
	}
	return s, nil
}

// oneLine makes a header's text of a subject template's result: single spaces, and nothing
// that a mail program would decode as an encoded word (RFC 2047).
func oneLine(s string) string {
	s = strings.Join(strings.Fields(visible(s)), " ")
	s = strings.ReplaceAll(s, "=?", "= ?")
	if utf8.RuneCountInString(s) > maxSubject {
		s = string([]rune(s)[:maxSubject-1]) + "…"
	}
	return s
}

// visible replaces control characters that a template itself can write, such as with
// printf "%c", and those that change the direction of text.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r >= ' ' && r < 0x7f:
			return r
		case r < ' ', r >= 0x7f && r < 0xa0, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x2028, r == 0x2029, r == 0xfeff:
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
}
