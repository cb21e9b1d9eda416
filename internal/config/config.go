// Package config reads strict YAML into structs: every problem at once, each
// with its line and column, and nothing ignored in silence.
//
// The struct is the schema (see Setting for its tags) and holds the defaults
// before anything is read. Load or Parse decodes; Check compares with the tags;
// whoever knows more about the values validates them and says what is wrong by
// path; Document.Locate turns paths into places.
//
// Beyond YAML there are two conveniences, both optional: ${VAR} in values, and
// environment variables that override single settings.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"unicode/utf8"
)

// maxSize bounds a document, in bytes: as much as a Kubernetes ConfigMap holds.
const maxSize = 1 << 20

// Option changes how a document is read.
type Option func(*decoder)

// Variables expands ${NAME} and ${NAME:-default} in values with the variables of
// environ ("NAME=value"); $$ is a dollar sign. Without this option a dollar sign
// is a dollar sign.
func Variables(environ []string) Option {
	return func(d *decoder) { d.variables = environment(environ) }
}

// Overrides lets variables of environ replace single settings: prefix and the
// path in upper case, joined by underscores (CERTPOST_ and nats.url make
// CERTPOST_NATS_URL). Lists of text are separated by commas. A variable with
// that prefix that is no setting and not among reserved is a problem.
func Overrides(prefix string, environ []string, reserved ...string) Option {
	return func(d *decoder) { d.overrides = &overrides{prefix, environ, reserved} }
}

// Only reads some keys of the top level and leaves the others alone: they are
// somebody else's to read, and to complain about.
func Only(keys ...string) Option {
	return func(d *decoder) { d.only = keys }
}

// Load reads a file into a struct, to which into points. The document is never
// nil, so that it can locate the problems of what comes after.
func Load(path string, into any, options ...Option) (*Document, []Problem) {
	data, err := Read(path)
	if err != nil {
		return newDocument(path), []Problem{{File: path, Message: err.Error()}}
	}
	return Parse(path, data, into, options...)
}

// Read returns the content of a file. It reads a byte more than a document may
// have and no further; its errors do not repeat the path.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, Unreadable(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, Unreadable(err)
	}
	return data, nil
}

// Unreadable puts an error of the file system into words that stand behind the
// path: "x.yaml: does not exist".
func Unreadable(err error) error {
	switch pathError := (*fs.PathError)(nil); {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("does not exist")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("may not be read by this user")
	case errors.As(err, &pathError):
		err = pathError.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}

// Parse reads a document into a struct, to which into points; name stands for
// the file in problems. What is not in the document keeps the value it has.
func Parse(name string, data []byte, into any, options ...Option) (*Document, []Problem) {
	d := &decoder{doc: newDocument(name)}
	for _, option := range options {
		option(d)
	}
	target := reflect.ValueOf(into).Elem()
	if root := d.parse(data); root != nil {
		d.aliases = resolve(root)
		d.decode(root, target, "")
	}
	if d.overrides != nil {
		d.override(target)
	}
	return d.doc, Sort(d.problems)
}

// Keys are the keys of a document's top level, none when it cannot be read.
func Keys(data []byte) []string {
	d := &decoder{doc: newDocument("")}
	root := d.parse(data)
	if root == nil {
		return nil
	}
	d.aliases = resolve(root)
	var keys []string
	if n := d.follow(root, ""); n != nil {
		for _, e := range d.entries(n, "") {
			keys = append(keys, e.name)
		}
	}
	return keys
}

// unreadable says where and why bytes are no text that could be YAML, or nil.
func unreadable(data []byte) *Problem {
	if len(data) > maxSize {
		return &Problem{Message: fmt.Sprintf("is larger than %d bytes", maxSize)}
	}
	line, column := 1, 1
	for rest := data; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			return &Problem{Line: line, Column: column, Message: "is not UTF-8"}
		case r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f:
			return &Problem{Line: line, Column: column, Message: fmt.Sprintf("has the control character %U", r)}
		}
		if column++; r == '\n' {
			line, column = line+1, 1
		}
		rest = rest[size:]
	}
	return nil
}

func withoutBOM(data []byte) []byte { return bytes.TrimPrefix(data, []byte("\ufeff")) }
