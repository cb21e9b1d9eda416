package events

import "strings"

// Subject is the subject of events without a source; SourceSubject returns those with one.
const Subject = Type

// SourceSubject returns the subject on which a source publishes its events: "web1" gives
// certificate.issued.web1, "" gives Subject.
func SourceSubject(source string) string {
	if source == "" {
		return Subject
	}
	return Subject + "." + source
}

// SourceOf returns the source that publishes on a subject: all that follows
// certificate.issued., which may have dots; "" for Subject itself. It reports false for a
// subject that is none of events.
func SourceOf(subject string) (source string, ok bool) {
	if subject == Subject {
		return "", true
	}
	return strings.CutPrefix(subject, Subject+".")
}

// WrongSource returns why a source cannot stand in a subject, "" if it can. Wildcards are
// refused too: nothing is published on them.
func WrongSource(source string) string {
	if source == "" {
		return ""
	}
	if len(source) > maxSubjectSource {
		return "is longer than 255 bytes"
	}
	for token := range strings.SplitSeq(source, ".") {
		switch {
		case token == "":
			return "begins or ends with a dot, or has two in a row"
		case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '*' || r == '>' }):
			return "has a blank, a control character, * or >"
		}
	}
	return ""
}

// maxSubjectSource bounds a source, in bytes: NATS limits a whole control line to 4 KiB.
const maxSubjectSource = 255
