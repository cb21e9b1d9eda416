package delivery

import (
	"slices"
	"strings"
	"unicode"
)

// maxFileName bounds the part of a file name that comes from the certificate,
// in bytes; zip tools and old file systems stop at 128 to 255 for the whole.
const maxFileName = 100

// fileName makes a name that every file system takes from a certificate's
// name: *.example.com gives _wildcard.example.com, an internationalised name
// its A-labels, a name that means a device to Windows a leading underscore.
func fileName(name string) string {
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		name = "_wildcard." + rest
	}
	labels := strings.Split(name, ".")
	for i, label := range labels {
		labels[i] = nameOf(label).ascii
		if !internationalised(label) {
			labels[i] = label // keeps its case
		}
	}
	name = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '_'
	}, strings.Join(labels, "."))
	for strings.Contains(name, "..") {
		name = strings.ReplaceAll(name, "..", ".")
	}
	name = strings.TrimLeft(name, ".-")
	name = strings.TrimRight(name[:min(len(name), maxFileName)], ".")
	if strings.Trim(name, "_.-") == "" {
		return "certificate"
	}
	if device(name) {
		return "_" + name
	}
	return name
}

// device reports whether Windows takes the file name for a device, which it
// does whatever stands behind the first dot.
func device(name string) bool {
	first, _, _ := strings.Cut(strings.ToUpper(name), ".")
	if len(first) == 4 && (strings.HasPrefix(first, "COM") || strings.HasPrefix(first, "LPT")) {
		return first[3] >= '0' && first[3] <= '9'
	}
	return slices.Contains([]string{"CON", "PRN", "AUX", "NUL"}, first)
}

func internationalised(name string) bool {
	return strings.IndexFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) >= 0
}

// shownName is a name as people are shown it: the form that machines compare,
// and beside it what an internationalised name means to look like.
type shownName struct {
	Text string // A-labels; cleaned
	Note string // "bücher.example", with a mark where scripts are foreign or mixed; else ""
}

// showName cleans a DNS name, or anything that stands in the place of one. A
// name in letters that only look like those of another is how people are
// deceived, so the A-label comes first and scripts are named.
func showName(s string, max int) shownName {
	s = clean(s, max)
	if !internationalised(s) && !strings.Contains(strings.ToLower(s), "xn--") {
		return shownName{Text: s}
	}
	n := nameOf(s)
	if n.ascii == n.unicode || strings.ContainsAny(s, " \ufffd…") { // not a DNS name: there is one form alone
		return shownName{Text: s, Note: scriptsNote(s)}
	}
	note := clean(n.unicode, max)
	if mark := scriptsNote(n.unicode); mark != "" {
		note += ", " + mark
	}
	return shownName{Text: clean(n.ascii, max), Note: note}
}

// scriptsNote names the scripts of a name's labels where they are mixed in one
// label, or not Latin: "mixes Cyrillic and Latin letters", "in Greek letters".
func scriptsNote(name string) string {
	if !internationalised(name) {
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
