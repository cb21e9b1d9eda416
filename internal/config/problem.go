package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity says what a problem means for the configuration that has it.
type Severity int

// The severities. The zero value is Error: a problem that nobody classed stops
// the configuration from being used.
const (
	Error   Severity = iota // the configuration cannot be used
	Warning                 // it can, and a person should know
)

func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// Problem is one thing that is wrong with a configuration. Those who validate
// set Path, Message and Severity; Document.Locate adds the place.
type Problem struct {
	File         string
	Line, Column int    // 1 is the first; 0 when the place is not known
	Variable     string // the environment variable that gave the value, instead of a place
	Path         string // "targets[3].port"; "" for the document as a whole
	Message      string // what is wrong and what to do; never a secret's value
	Got          string // what stands there instead; "" when it is not to be shown
	Severity     Severity
}

// Error is "certpost.yaml:12:11: targets[3].port: ...". A warning says so
// between the place and the path.
func (p Problem) Error() string {
	var b strings.Builder
	switch {
	case p.Variable != "":
		b.WriteString(p.Variable + ": ")
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
// those said twice.
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
