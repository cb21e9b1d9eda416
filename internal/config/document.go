package config

import "strings"

// Document has the place of each value of a document.
type Document struct {
	name      string
	places    map[string]place  // by path
	variables map[string]string // path -> the environment variable that set it
	failed    map[string]bool   // paths of values that could not be read; "" is the whole document
	foreign   map[string]bool   // paths of values that contain an expanded variable
}

type place struct{ line, column int }

func newDocument(name string) *Document {
	return &Document{
		name: name, places: make(map[string]place), variables: make(map[string]string),
		failed: make(map[string]bool), foreign: make(map[string]bool),
	}
}

// Name returns the name of the file, as it was given to Load or Parse.
func (d *Document) Name() string { return d.name }

// At returns the place of the value at a path, or of the nearest value that contains it
// if the path is not in the document; 0, 0 in an empty document.
func (d *Document) At(path string) (line, column int) {
	p := d.places[around(path, func(p string) bool { _, known := d.places[p]; return known })]
	return p.line, p.column
}

// Empty reports whether the document has a section at a path, with nothing in it.
func (d *Document) Empty(path string) bool {
	if _, known := d.places[path]; !known {
		return false
	}
	for below := range d.places {
		if below != path && within(below, path) {
			return false
		}
	}
	for at, variable := range d.variables {
		if variable != "" && within(at, path) {
			return false
		}
	}
	return true
}

// Locate adds to each problem that has only a path the origin of its value: a place in
// the document, or an environment variable. It drops problems of values that could not
// be read, because they may disappear once the value is readable. It removes values
// that come from the environment, because they may be secrets. The result is sorted.
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

// unread reports whether a value, or a value that contains it, could not be read.
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

// within reports whether path is whole, or a path below it.
func within(path, whole string) bool {
	return path == whole || strings.HasPrefix(path, whole) && (path[len(whole)] == '.' || path[len(whole)] == '[')
}

// variable returns the environment variable that set the value at a path, or a part of
// it that is not in the document; "" if the value comes from the document.
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

// around returns the longest known path that contains the given one, or is it; "" if
// there is none.
func around(path string, known func(string) bool) string {
	for end := len(path); end > 0; end-- {
		if (end == len(path) || path[end] == '.' || path[end] == '[') && known(path[:end]) {
			return path[:end]
		}
	}
	return ""
}
