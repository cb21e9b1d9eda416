// Package legible makes text that comes from outside fit to be read by people:
// one line, without characters that hide or reorder what stands beside them, and
// with foreign scripts named where a name may deceive.
package legible

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Clean makes text from certificates, events, configuration or a relay's reply
// fit for one line of a mail, a header, a log or a page. White space of any
// kind, line ends included, becomes one space; control characters, bidi
// controls, zero-width and other invisible characters and invalid UTF-8 become
// U+FFFD, so that a name somebody tampered with looks tampered with. What is
// longer than max bytes is cut at a rune boundary and ends in an ellipsis; the
// result never exceeds max.
func Clean(s string, max int) string {
	if len(s) <= max && plain(s) {
		return s
	}
	var b strings.Builder
	b.Grow(min(len(s), max) + utf8.UTFMax)
	var last rune = ' ' // leading white space goes
	for _, r := range s {
		switch {
		case unicode.IsSpace(r), r == '\u2028', r == '\u2029':
			r = ' '
		case Hidden(r):
			r = utf8.RuneError
		}
		if r == last && (r == ' ' || r == utf8.RuneError) {
			continue
		}
		last = r
		b.WriteRune(r)
		if b.Len() > max+utf8.UTFMax {
			break
		}
	}
	return cut(strings.TrimRight(b.String(), " "), max)
}

// plain reports whether s is printable ASCII without doubled or outer spaces,
// which is true of nearly everything that comes by.
func plain(s string) bool {
	space := true
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || (s[i] == ' ' && space) {
			return false
		}
		space = s[i] == ' '
	}
	return !space || s == ""
}

// Hidden reports whether r shows as nothing, or changes how its neighbours
// show: control and format characters (Unicode Cc and Cf, which hold the bidi
// controls, the zero-width ones and the tags), surrogates, private use,
// non-characters, and the letters that have no ink.
func Hidden(r rune) bool {
	switch r {
	case utf8.RuneError, '\u034f', '\u115f', '\u1160', '\u17b4', '\u17b5', '\u2800', '\u3164', '\uffa0':
		return true
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Cs, unicode.Co, unicode.Noncharacter_Code_Point,
		unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// cut shortens s to max bytes at a rune boundary, with an ellipsis where there
// is room for one.
func cut(s string, max int) string {
	if len(s) <= max {
		return s
	}
	const ellipsis = "…"
	end := max - len(ellipsis)
	if end < 0 {
		return ""
	}
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return strings.TrimRight(s[:end], " ") + ellipsis
}

// Header is Clean for a header's value. A value that looks like an RFC 2047 encoded
// word would be decoded by the mail program after all cleaning, so the mark that
// starts one is broken up.
func Header(s string, max int) string {
	return Clean(strings.ReplaceAll(Clean(s, max), "=?", "= ?"), max)
}

// Moment formats a time for a sentence, in UTC and to the minute.
func Moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// Seconds formats a duration for a sentence, to a tenth of a second.
func Seconds(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }
