package legible

import (
	"slices"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// Domain returns both forms of a DNS name, or of a glob on DNS names: the ASCII form
// (A-labels) for comparison, and the Unicode form for display. A label that is not a
// valid internationalised name keeps its form in both.
func Domain(s string) (ascii, unicode string) {
	s = strings.ToLower(norm.NFC.String(strings.TrimSuffix(s, ".")))
	if !Internationalised(s) && !strings.Contains(s, "xn--") {
		return s, s // most names; every mail asks for its relay's several times
	}
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

// Internationalised reports whether a name has characters outside ASCII.
func Internationalised(name string) bool {
	return strings.IndexFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) >= 0
}

// Shown is a name for display: the ASCII form, and next to it the Unicode form of an
// internationalised name.
type Shown struct {
	Text string // A-labels; cleaned
	Note string // "bücher.example", and a remark if scripts are mixed or not Latin; else ""
}

// Name cleans a DNS name, or any text in the place of one. Letters of another script
// can imitate a known name, so the A-labels come first and the note names the scripts.
func Name(s string, max int) Shown {
	s = Clean(s, max)
	if !Internationalised(s) && !strings.Contains(strings.ToLower(s), "xn--") {
		return Shown{Text: s}
	}
	ascii, unicode := Domain(s)
	if ascii == unicode || strings.ContainsAny(s, " \ufffd…") { // not a DNS name: it has only one form
		return Shown{Text: s, Note: scriptsNote(s)}
	}
	note := Clean(unicode, max)
	if mark := scriptsNote(unicode); mark != "" {
		note += ", " + mark
	}
	return Shown{Text: Clean(ascii, max), Note: note}
}

// scriptsNote names the scripts of a name's labels if one label mixes them, or if they
// are not Latin: "mixes Cyrillic and Latin letters", "in Greek letters".
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

// enumerate joins words as "a, b and c".
func enumerate(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// scriptsOf returns the scripts of a text's letters, sorted.
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

// oneWriting reports whether one writing system uses the scripts together: Japanese,
// Chinese with Bopomofo, or Korean, each with Latin (UTS #39 section 5.2, highly
// restrictive).
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
