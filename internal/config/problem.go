package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity says whether a configuration with the problem can be used.
type Severity int

// The severities. The zero value is Error, so a problem without a severity makes the
// configuration unusable.
const (
	Error   Severity = iota // the configuration cannot be used
	Warning                 // the configuration can be used, but the operator should know
)

func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// Problem is one problem of a configuration. Validators set Path, Message and Severity;
// Document.Locate adds the place.
type Problem struct {
	File         string
	Line, Column int    // 1 is the first; 0 when the place is unknown
	Variable     string // the environment variable, or the flag, that set the value, instead of a place
	Path         string // "targets[3].port"; "" for the document as a whole
	Message      string // what is wrong and what to do; never the value of a secret
	Got          string // the wrong value; "" when it must not be shown
	Severity     Severity
}

// Error returns "certpost.yaml:12:11: targets[3].port: ...". A warning has "warning: "
// between the place and the path.
func (p Problem) Error() string {
	var b strings.Builder
	switch {
	case p.Variable != "":
		b.WriteString(p.Variable + ": ")
	case p.Line > 0 && p.Column == 0:
		fmt.Fprintf(&b, "%s:%d: ", p.File, p.Line)
	case p.Line > 0:
		fmt.Fprintf(&b, "%s:%d:%d: ", p.File, p.Line, p.Column)
	case p.File != "":
		b.WriteString(p.File + ": ")
	}
	if p.Severity == Warning {
		b.WriteString("warning: ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	if p.Got != "" {
		b.WriteString(", got " + p.Got)
	}
	return b.String()
}

// Failed reports whether one of the problems is an error.
func Failed(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return p.Severity == Error })
}

// Sort orders problems by place, those of environment variables last, and drops
// duplicates.
func Sort(problems []Problem) []Problem {
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(
			strings.Compare(a.Variable, b.Variable),
			strings.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			strings.Compare(a.Path, b.Path),
			cmp.Compare(a.Severity, b.Severity),
			strings.Compare(a.Message, b.Message),
			strings.Compare(a.Got, b.Got),
		)
	})
	return slices.Compact(problems)
}
