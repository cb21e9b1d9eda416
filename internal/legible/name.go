package legible

import (
	"slices"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// Domain gives both forms of a DNS name, or of a glob on DNS names: as machines
// compare it, and as it is meant to look. What is not a valid internationalised
// name keeps the form it has.
func Domain(s string) (ascii, unicode string) {
	s = strings.ToLower(norm.NFC.String(strings.TrimSuffix(s, ".")))
	labels := strings.Split(s, ".")
	a, u := make([]string, len(labels)), make([]string, len(labels))
	for i, label := range labels {
		a[i], u[i] = label, label
		if form, err := idna.Lookup.ToASCII(label); err == nil {
			a[i] = form
		}
		if form, err := idna.Lookup.ToUnicode(a[i]); err == nil {
			u[i] = form
		}
	}
	return strings.Join(a, "."), strings.Join(u, ".")
}

// Internationalised reports whether a name has letters that ASCII has not.
func Internationalised(name string) bool {
	return strings.IndexFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) >= 0
}

// Shown is a name as people are shown it: the form that machines compare,
// and beside it what an internationalised name means to look like.
type Shown struct {
	Text string // A-labels; cleaned
	Note string // "bücher.example", with a mark where scripts are foreign or mixed; else ""
}

// Name cleans a DNS name, or anything that stands in the place of one. A
// name in letters that only look like those of another is how people are
// deceived, so the A-label comes first and scripts are named.
func Name(s string, max int) Shown {
	s = Clean(s, max)
	if !Internationalised(s) && !strings.Contains(strings.ToLower(s), "xn--") {
		return Shown{Text: s}
	}
	ascii, unicode := Domain(s)
	if ascii == unicode || strings.ContainsAny(s, " \ufffd…") { // not a DNS name: there is one form alone
		return Shown{Text: s, Note: scriptsNote(s)}
	}
	note := Clean(unicode, max)
	if mark := scriptsNote(unicode); mark != "" {
		note += ", " + mark
	}
	return Shown{Text: Clean(ascii, max), Note: note}
}

// scriptsNote names the scripts of a name's labels where they are mixed in one
// label, or not Latin: "mixes Cyrillic and Latin letters", "in Greek letters".
func scriptsNote(name string) string {
	if !Internationalised(name) {
		return ""
	}
	var foreign []string
	for label := range strings.SplitSeq(name, ".") {
		scripts := scriptsOf(label)
		if len(scripts) > 1 && !oneWriting(scripts) {
			return "mixes " + enumerate(scripts) + " letters"
		}
		for _, script := range scripts {
			if script != "Latin" && !slices.Contains(foreign, script) {
				foreign = append(foreign, script)
			}
		}
	}
	if len(foreign) == 0 {
		return ""
	}
	return "in " + enumerate(foreign) + " letters"
}

// enumerate joins words as people do: "a, b and c".
func enumerate(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// scriptsOf are the scripts of a text's letters, sorted.
func scriptsOf(text string) []string {
	var scripts []string
	for _, r := range text {
		if !unicode.IsLetter(r) || unicode.In(r, unicode.Common, unicode.Inherited) {
			continue
		}
		if script := scriptOf(r); !slices.Contains(scripts, script) {
			scripts = append(scripts, script)
		}
	}
	slices.Sort(scripts)
	return scripts
}

func scriptOf(r rune) string {
	if r <= unicode.MaxASCII {
		return "Latin"
	}
	for script, table := range unicode.Scripts {
		if unicode.Is(table, r) {
			return strings.ReplaceAll(script, "_", " ")
		}
	}
	return "unknown"
}

// oneWriting reports whether scripts are used together by one writing system:
// Japanese, Chinese with Bopomofo and Korean, each with Latin (UTS #39 section
// 5.2, highly restrictive).
func oneWriting(scripts []string) bool {
	for _, writing := range [][]string{
		{"Han", "Hiragana", "Katakana", "Latin"},
		{"Han", "Bopomofo", "Latin"},
		{"Han", "Hangul", "Latin"},
	} {
		if !slices.ContainsFunc(scripts, func(s string) bool { return !slices.Contains(writing, s) }) {
			return true
		}
	}
	return false
}
