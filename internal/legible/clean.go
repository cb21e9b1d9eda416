// Package legible makes text from outside safe to read: on one line, without
// characters that hide or reorder their neighbours, and with a note about scripts that
// can make a name look like another one.
package legible

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Clean makes text from certificates, events, configuration or a relay's reply fit for
// one line of a mail, a header, a log or a page. A run of white space, line ends
// included, becomes one space. Control characters, bidi controls, zero-width and other
// invisible characters and invalid UTF-8 become U+FFFD, so that manipulated text is
// visible as such. Text longer than max bytes is cut at a rune boundary and ends in an
// ellipsis; the result never exceeds max bytes.
func Clean(s string, max int) string {
	if len(s) <= max && plain(s) {
		return s
	}
	var b strings.Builder
	b.Grow(min(len(s), max) + utf8.UTFMax)
	var last rune = ' ' // drops leading white space
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

// plain reports whether s is printable ASCII without double, leading or trailing
// spaces, as nearly all texts are.
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

// Hidden reports whether r is invisible or changes how its neighbours are displayed:
// control and format characters (Unicode Cc and Cf, which include the bidi controls,
// the zero-width characters and the tags), surrogates, private use, non-characters, and
// letters without a visible glyph.
func Hidden(r rune) bool {
	switch r {
	case utf8.RuneError, '\u034f', '\u115f', '\u1160', '\u17b4', '\u17b5', '\u2800', '\u3164', '\uffa0':
		return true
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Cs, unicode.Co, unicode.Noncharacter_Code_Point,
		unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// cut shortens s to at most max bytes at a rune boundary, with an ellipsis at the end;
// the result is empty if max has no room for one.
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

// maxCell is the length of the longest cell, in bytes, that spreadsheets read.
const maxCell = 32_767

// Cell is Clean for a cell of CSV. It keeps spreadsheets from reading a text as a formula
// (OWASP, CSV Injection).
func Cell(s string) string {
	if s = Clean(s, maxCell-1); s != "" && strings.ContainsRune("=+-@", rune(s[0])) {
		return "'" + s
	}
	return s
}
