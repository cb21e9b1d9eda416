package config

import "strings"

// Document remembers where each value of a read document stood.
type Document struct {
	name      string
	places    map[string]place  // by path
	variables map[string]string // path -> the environment variable that gave it
	failed    map[string]bool   // paths of values that could not be read; "" is all of it
	foreign   map[string]bool   // paths of values that hold an expanded variable
}

type place struct{ line, column int }

func newDocument(name string) *Document {
	return &Document{
		name: name, places: make(map[string]place), variables: make(map[string]string),
		failed: make(map[string]bool), foreign: make(map[string]bool),
	}
}

// Name is the file's name, as it was given.
func (d *Document) Name() string { return d.name }

// At is the place of the value at a path, or of the nearest value around it
// when the path is not in the document; 0, 0 in an empty document.
func (d *Document) At(path string) (line, column int) {
	p := d.places[around(path, func(p string) bool { _, known := d.places[p]; return known })]
	return p.line, p.column
}

// Locate adds to each problem that has only a path where its value came from: a
// place in the document, or an environment variable. Problems of values that
// could not be read are dropped: they may be gone once the value can be read.
// What comes from the environment, as secrets do, is not shown. The result is
// sorted.
func (d *Document) Locate(problems []Problem) []Problem {
	var located []Problem
	for _, p := range problems {
		if p.File != "" || p.Variable != "" {
			located = append(located, p)
			continue
		}
		if d.unread(p.Path) {
			continue
		}
		if d.foreign[p.Path] || d.variables[p.Path] != "" {
			p.Got = ""
		}
		if p.Variable = d.variable(p.Path); p.Variable == "" {
			p.File = d.name
			p.Line, p.Column = d.At(p.Path)
		}
		located = append(located, p)
	}
	return Sort(located)
}

// unread reports whether a value, or one that it is a part of, could not be read.
func (d *Document) unread(path string) bool {
	return d.failed[""] || around(path, func(p string) bool { return d.failed[p] }) != ""
}

// failedBelow reports whether a part of a value could not be read.
func (d *Document) failedBelow(path string) bool {
	for failed, is := range d.failed {
		if is && within(failed, path) {
			return true
		}
	}
	return false
}

// within reports whether a path is another one, or a part of it.
func within(path, whole string) bool {
	return path == whole || strings.HasPrefix(path, whole) && (path[len(whole)] == '.' || path[len(whole)] == '[')
}

// variable is the environment variable that gave the value at a path, or a part
// of it that is not in the document; "" when the value comes from the document.
func (d *Document) variable(path string) string {
	if v := d.variables[around(path, func(p string) bool { return d.variables[p] != "" })]; v != "" {
		return v
	}
	if _, known := d.places[path]; known {
		return ""
	}
	found := ""
	for at, variable := range d.variables {
		if within(at, path) && (found == "" || variable < found) {
			found = variable
		}
	}
	return found
}

// around is the longest path that is known and holds the given one, itself
// included; "" when none is.
func around(path string, known func(string) bool) string {
	for end := len(path); end > 0; end-- {
		if (end == len(path) || path[end] == '.' || path[end] == '[') && known(path[:end]) {
			return path[:end]
		}
	}
	return ""
}
